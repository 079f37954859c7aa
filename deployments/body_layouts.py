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
from kernels import ComposeLayout, ComposeSegment, Segment, SlabLayout
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


def slab_layout(table: LayerTable, representation: Representation, places: Places) -> SlabLayout:
    """Lay out a body of factors or of the full residual.

    Args:
        table: The version's layers.
        representation: Of form ``FACTORS`` or ``FULL``.
        places: Of the head that emits it. Factors are nested: a smaller rank takes the first rows.
    """
    slots, scales = _arrays_and_scales(table, representation)
    segments = (
        Segment(
            source=places[slot.layer, slot.role],
            rows=slot.rows,
            columns=slot.columns,
            target=slot.offset,
            dtype=cast(SlabDtype, slot.dtype),
            scale_target=scales.get((slot.layer, slot.role), -1),
        )
        for slot in slots.values()
    )
    return SlabLayout(tuple(segments), table.body_bytes(representation))


def compose_layout(table: LayerTable, representation: Representation, places: Places, base: Places) -> ComposeLayout:
    """Lay out a body of finished weights and biases, composed from the first ``r`` factors and the shared base."""
    if representation.form is not Form.COMPOSED:
        raise ValueError(f"Expected a composed representation, got {representation}.")
    slots, scales = _arrays_and_scales(table, representation)
    segments = (
        ComposeSegment(
            left=places[layer.name, "left"],
            right=places[layer.name, "right"],
            shift=places[layer.name, "shift"],
            base_weight=base[layer.name, "weight"],
            base_bias=base[layer.name, "bias"],
            outputs=layer.outputs,
            inputs=layer.inputs,
            rank=representation.rank,
            target=slots[layer.name, "weight"].offset,
            bias_target=slots[layer.name, "bias"].offset,
            dtype=cast(SlabDtype, slots[layer.name, "weight"].dtype),
            scale_target=scales.get((layer.name, "weight"), -1),
        )
        for layer in table
    )
    return ComposeLayout(tuple(segments), table.body_bytes(representation))


def _places(arrays: Iterator[tuple[str, str, int]]) -> Places:
    places, position = {}, 0
    for layer, role, size in arrays:
        places[layer, role] = position
        position += size
    return places


def _arrays_and_scales(
    table: LayerTable, representation: Representation
) -> tuple[dict[tuple[str, str], Slot], dict[tuple[str, str], int]]:
    """Split the slots of a body into its arrays and the offsets of their scales, both by layer and role."""
    slots = table.slots(representation)
    arrays = {(slot.layer, slot.role): slot for slot in slots if not slot.role.endswith("_scale")}
    scales = {
        (slot.layer, slot.role.removesuffix("_scale")): slot.offset for slot in slots if slot.role.endswith("_scale")
    }
    return arrays, scales
