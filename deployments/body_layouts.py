"""From the package format to the kernels: which generated number goes to which byte of a body.

The generator emits flat values, layer after layer in table order:

    factors head     left [R, M], right [R, K], shift [M]
    full head        weight [M, K], shift [M]
    shared base      weight [M, K], bias [M]

Shapes: M output features, K input features, R rank of the generator, r <= R rank of the representation.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from duet.protocol.layers import LayerTable, Slot
from duet.protocol.representation import Form, Representation
from kernels import Segment, SlabLayout
from kernels.slab_layout import SlabDtype

Places = Mapping[tuple[str, str], int]
"""First flat element of an array, by layer and role."""


def factor_places(table: LayerTable, rank: int) -> Places:
    """Locate the arrays that the factors head emits."""
    return _places(
        (layer.name, role, size)
        for layer in table
        for role, size in (("left", rank * layer.outputs), ("right", rank * layer.inputs), ("shift", layer.outputs))
    )


def full_places(table: LayerTable) -> Places:
    """Locate the arrays that the full head emits."""
    return _places(
        (layer.name, role, size)
        for layer in table
        for role, size in (("weight", layer.outputs * layer.inputs), ("shift", layer.outputs))
    )


def base_places(table: LayerTable) -> Places:
    """Locate weight and bias of every layer in the flat shared parameters."""
    return _places(
        (layer.name, role, size)
        for layer in table
        for role, size in (("weight", layer.outputs * layer.inputs), ("bias", layer.outputs))
    )


def slab_layout(table: LayerTable, representation: Representation, places: Places, base: Places) -> SlabLayout:
    """Lay out the body of any representation; the shared one is empty, and so is an embedding, which is not generated.

    Args:
        table: The version's layers.
        representation: What the body holds. Factors are nested: a smaller rank takes the first rows.
        places: Of the head that emits it.
        base: Of the shared parameters.
    """
    if representation.form is Form.EMBEDDING:
        return SlabLayout((), 0)
    slots = table.slots(representation)
    scales = {(slot.layer, slot.role): slot.offset for slot in slots if slot.role.endswith("_scale")}
    segments = (
        Segment(
            rows=slot.rows,
            columns=slot.columns,
            target=slot.offset,
            dtype=cast(SlabDtype, slot.dtype),
            scale_target=scales.get((slot.layer, f"{slot.role}_scale"), -1),
            **_read_from(slot, representation, places, base),
        )
        for slot in slots
        if not slot.role.endswith("_scale")
    )
    return SlabLayout(tuple(segments), table.body_bytes(representation))


def _read_from(slot: Slot, representation: Representation, places: Places, base: Places) -> dict[str, int]:
    """Tell what an array of a body is the sum of."""
    if representation.form is not Form.COMPOSED:
        return {"source": places[slot.layer, slot.role]}
    if slot.role == "bias":
        return {"source": places[slot.layer, "shift"], "base": base[slot.layer, "bias"]}
    left, right = places[slot.layer, "left"], places[slot.layer, "right"]
    return {"base": base[slot.layer, "weight"], "left": left, "right": right, "rank": representation.rank}


def _places(arrays: Iterator[tuple[str, str, int]]) -> Places:
    places, position = {}, 0
    for layer, role, size in arrays:
        places[layer, role] = position
        position += size
    return places
