"""Factors straight into package layout: bits, scales, padding, and numbers that are not finite."""

import numpy as np
import pytest
import torch

from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.package import LayerValues, encode_body
from duet.protocol.representation import Representation
from kernels import Plans, Segment, SlabLayout, quantize_factors
from tests.kernels.ragged_layouts import (
    ACCELERATOR,
    COMPILED,
    SLAB_BACKENDS,
    array,
    compose_layout,
    guarded,
    padding,
    slab_layout,
    written,
)

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
SHAPES = {
    "smallest": [(1, 1)],
    "one-tile": [(4, 32), (4, 32), (1, 32)],
    "ragged": [(3, 33), (1, 65), (5, 127), (2, 3)],
    "rank-16": [(16, 17), (16, 5)],
    "longer-than-a-tile": [(3, 1500), (1, 2049)],
}
# 0.5, 1.5 and 2.5 scales are ties; the scales are exact
TIES = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5]


def quantized_by_the_rule(rows):
    """The rule of the package format, written once more with numpy."""
    largest = np.abs(rows).max(axis=1)
    scales = np.maximum((largest / np.float32(127)).astype(np.float16), np.float16(2.0**-24))
    quanta = np.clip(np.rint(rows / scales.astype(np.float32)[:, None]), -127, 127)
    return quanta.astype(np.int8), scales


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("B", [1, 3], ids="B{}".format)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_every_array_is_stored_bit_for_bit_by_the_rule(shapes, B, dtype, backend, poisoned_memory):
    torch.manual_seed(0)
    layout = slab_layout([(*shape, dtype) for shape in shapes], start=5, spare_bytes=21)
    values = guarded(B, layout.required_values)

    slabs, finite = written(layout, values, backend=backend)

    assert (slabs.shape, slabs.dtype, finite.tolist()) == ((B, layout.slab_bytes), torch.uint8, [True] * B)
    for segment in layout.segments:
        shape = (segment.rows, segment.columns)
        stored = array(slabs, segment.target, shape, TORCH_DTYPES[dtype])
        rows = values[:, segment.source : segment.values_end].unflatten(1, shape)
        if dtype == "int8":
            scales = array(slabs, segment.scale_target, (segment.rows,), torch.float16)
            quanta, expected = quantized_by_the_rule(rows.flatten(0, 1).cpu().numpy())
            assert scales.cpu().numpy().tobytes() == expected.tobytes()
            assert stored.cpu().numpy().tobytes() == quanta.tobytes()
        else:
            assert torch.equal(stored, rows.to(stored.dtype))
    assert not padding(slabs, layout.spans).any()


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize(
    "row",
    [
        TIES,
        [0.0] * 8,
        [-0.0] * 8,
        [1e-9, -2e-9, 0, 0, 0, 0, 0, 0],
        [4e-6, -7.5e-6, 1e-6, 0, 0, 0, 0, 0],
        [1.06e-5, -1.06e-5, 1e-6, 0, 0, 0, 0, 0],
        [2.9108850955963135, 2.3720855712890625, 0, 0, 0, 0, 0, 0],
        [3.4398107528686523, -1.1510848999023438, 0, 0, 0, 0, 0, 0],
        [8321039.5, 1.0, -1.0, 0, 0, 0, 0, 0],
        [float(np.finfo(np.float32).smallest_subnormal)] + [0.0] * 7,
    ],
    ids=[
        "ties",
        "zeros",
        "negative-zeros",
        "below-the-smallest-scale",
        "subnormal-scale",
        "clipped",
        "reciprocal-below",
        "reciprocal-above",
        "largest",
        "subnormal",
    ],
)
def test_rows_at_the_edges_of_the_rule_follow_it(row, backend):
    layout = slab_layout([(1, 8, "int8")])
    values = torch.tensor([row], device=ACCELERATOR)

    slabs, finite = written(layout, values, backend=backend)

    quanta, scales = quantized_by_the_rule(values.cpu().numpy())
    assert finite.item()
    assert slabs[0].cpu().numpy().tobytes() == scales.tobytes() + bytes(14) + quanta.tobytes()


@pytest.mark.parametrize("backend", ["reference", *COMPILED])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_float16_and_the_ties_between_them_are_rounded_half_to_even(backend, sign):
    halves = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).float()
    ties = (halves[1:] + halves[:-1]) / 2
    values = torch.cat([halves, ties, ties.nextafter(halves[1:]), ties.nextafter(halves[:-1])])[None] * sign

    slabs, finite = written(slab_layout([(1, values.numel(), "float16")]), values, backend=backend)

    assert finite.item()
    assert slabs[0].numpy().tobytes() == values.half().numpy().tobytes()


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize("name", ["factors-r4-int8", "factors-r1-int8", "factors-r3-float16", "factors-r4-float32"])
def test_a_slab_is_the_body_that_the_package_format_encodes(name, backend, poisoned_memory):
    generator = np.random.default_rng(0)
    representation, R = Representation.parse(name), 4
    table = LayerTable((DynamicLayer("hidden", 33, 17), DynamicLayer("output", 5, 33)))
    numbers, values, sources = {}, [], {}
    for layer in table:
        shapes = {"left": (R, layer.outputs), "right": (R, layer.inputs), "shift": (layer.outputs,)}
        arrays = {role: generator.normal(size=shape).astype(np.float32) for role, shape in shapes.items()}
        arrays["left"][1] = 0
        for role, numbers_of_role in arrays.items():
            sources[layer.name, role] = sum(map(len, values))
            values.append(numbers_of_role.ravel())
        numbers[layer.name] = LayerValues(**arrays)
    slots = {(slot.layer, slot.role): slot for slot in table.slots(representation)}
    segments = tuple(
        Segment(
            slot.rows,
            slot.columns,
            slot.offset,
            slot.dtype,
            slots[key[0], f"{key[1]}_scale"].offset if slot.dtype == "int8" else -1,
            source=sources[key],
        )
        for key, slot in slots.items()
        if not key[1].endswith("_scale")
    )
    layout = SlabLayout(segments, table.body_bytes(representation))

    slabs, _ = written(layout, torch.from_numpy(np.concatenate(values)[None]).to(ACCELERATOR), backend=backend)

    assert slabs[0].cpu().numpy().tobytes() == encode_body(numbers, representation, table)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_a_device_that_is_not_finite_is_reported_and_the_others_are_untouched(dtype, bad, backend, poisoned_memory):
    torch.manual_seed(0)
    layout = slab_layout([(2, 33, dtype), (3, 1500, dtype)])
    values = guarded(4, layout.required_values + 1)
    sound, _ = written(layout, values, backend="reference")
    values[1, 40] = bad
    values[2, layout.required_values - 1] = bad
    values[3, layout.required_values] = bad

    slabs, finite = written(layout, values, backend=backend)

    assert finite.tolist() == [True, False, False, True]
    assert torch.equal(slabs[[0, 3]], sound[[0, 3]])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("float16", 65519.996), ("int8", 8321039.5), ("float32", 3.39e38)],
    ids=["float16", "int8-scale", "float32"],
)
def test_a_number_that_overflows_only_once_stored_is_reported(dtype, largest, backend):
    layout = slab_layout([(2, 3, dtype)])
    fits = torch.full((1, 6), -largest, device=ACCELERATOR)
    overflows = fits * 1.001

    assert written(layout, fits, backend=backend)[1].item()
    assert written(layout, overflows, backend=backend)[1].item() == (dtype == "float32")


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
def test_fewer_rows_are_a_lower_rank_of_the_same_factors(backend):
    torch.manual_seed(0)
    whole, truncated = slab_layout([(8, 33, "int8")]), slab_layout([(3, 33, "int8")])
    values = guarded(2, whole.required_values)

    of_whole, _ = written(whole, values, backend=backend)
    of_truncated, _ = written(truncated, values, backend=backend)

    first, second = whole.segments[0], truncated.segments[0]
    for target, other, shape, dtype in [
        (first.target, second.target, (3, 33), torch.int8),
        (first.scale_target, second.scale_target, (3,), torch.float16),
    ]:
        assert torch.equal(array(of_whole, target, shape, dtype), array(of_truncated, other, shape, dtype))


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize(
    "layout",
    [SlabLayout((), 0), SlabLayout((), 40), slab_layout([(0, 33, "int8"), (1, 3, "float16")], spare_bytes=3)],
    ids=["empty", "only-padding", "rank-0"],
)
@pytest.mark.parametrize("B", [0, 3], ids="B{}".format)
def test_what_nothing_is_generated_for_is_zero(B, layout, backend, poisoned_memory):
    values = torch.ones(B, 3, device=ACCELERATOR)

    slabs, finite = written(layout, values, backend=backend)

    assert (slabs.shape, finite.shape, finite.all().item()) == ((B, layout.slab_bytes), (B,), True)
    assert not padding(slabs, layout.spans).any()


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
def test_values_may_be_some_of_the_columns_of_a_larger_tensor(backend):
    torch.manual_seed(0)
    layout = slab_layout([(2, 5, "float32")])
    larger = guarded(3, 40)

    slabs, _ = written(layout, larger[:, 7:20], backend=backend)

    assert torch.equal(array(slabs, 0, (10,), torch.float32), larger[:, 7:17])


def test_slabs_start_at_multiples_of_16_bytes():
    plans = Plans([slab_layout([(1, 3, "float16")]), slab_layout([(1, 17, "int8")])])

    slabs = quantize_factors(torch.ones(3, 17), plans, [0, 1, 0])

    assert slabs.starts == [0, 16, 64, 80]
    assert [len(body) for body in slabs.bodies()] == [6, 33, 6]


@pytest.mark.parametrize(
    "values",
    [torch.zeros(2, 5), torch.zeros(6), torch.zeros(2, 6, dtype=torch.float64), torch.zeros(6, 2).t()],
    ids=["too-short", "one-dimension", "float64", "columns-contiguous"],
)
def test_values_that_the_layout_cannot_read_are_refused(values):
    with pytest.raises(ValueError, match="values"):
        written(slab_layout([(2, 3, "int8")]), values)


def test_plans_that_add_something_are_refused():
    with pytest.raises(ValueError, match="use compose_weights"):
        quantize_factors(torch.zeros(1, 100), Plans([compose_layout([(3, 5, 2, "int8")])]), [0])
