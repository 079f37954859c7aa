"""Shared weight plus factors, cast or quantised in package layout, against float64."""

import pytest
import torch

from kernels import Plans, SlabLayout, compose_weights
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

EPSILON = torch.finfo(torch.float32).eps
LAYOUT = compose_layout([(3, 5, 3, "float32")])
LAYERS = {
    "smallest": [(1, 1, 1)],
    "one-tile": [(32, 32, 4), (32, 32, 4)],
    "ragged": [(33, 65, 7), (3, 127, 2), (65, 1, 1)],
    "rank-0": [(5, 33, 0)],
    "rank-16": [(17, 33, 16)],
    "longer-than-a-tile": [(3, 1500, 3)],
}


def exact_layers(values, base, layout):
    """Yield weight and bias segments of every layer, both in float64, and the sum of the magnitudes of the weight."""
    values, base = values.double(), base.double()
    for w, b in zip(layout.segments[::2], layout.segments[1::2], strict=True):
        left = values[:, w.left : w.left + w.rank * w.rows].unflatten(1, (w.rank, w.rows))
        right = values[:, w.right : w.right + w.rank * w.columns].unflatten(1, (w.rank, w.columns))
        shared = base[w.base : w.base_end].view(w.rows, w.columns)
        bias = base[b.base : b.base_end] + values[:, b.source : b.source + b.columns]
        yield w, b, shared + left.mT @ right, bias, shared.abs() + left.mT.abs() @ right.abs()


def is_rounded_or_its_neighbour(stored, exact):
    """Whether float16 numbers are within one unit in the last place of the rounded exact ones, nearly all equal."""
    rounded = exact.half()
    neighbours = [torch.nextafter(rounded, torch.full_like(rounded, limit)) for limit in (torch.inf, -torch.inf)]
    close = (stored == rounded) | (stored == neighbours[0]) | (stored == neighbours[1])
    return close.all() and (stored != rounded).sum() <= max(1, stored.numel() // 1000)


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("B", [1, 3], ids="B{}".format)
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_weights_and_biases_are_the_composition_within_the_tolerance_policy(layers, B, dtype, backend, poisoned_memory):
    torch.manual_seed(0)
    layout = compose_layout([(*layer, dtype) for layer in layers], trained_rank=16)
    values, base = guarded(B, layout.required_values), guarded(layout.required_base)

    slabs, finite = written(layout, values, base, backend=backend)

    assert (slabs.shape, slabs.dtype, finite.tolist()) == ((B, layout.slab_bytes), torch.uint8, [True] * B)
    for segment, bias_segment, weight, bias, magnitude in exact_layers(values, base, layout):
        shape = (segment.rows, segment.columns)
        if dtype == "float32":
            stored = array(slabs, segment.target, shape, torch.float32)
            assert ((stored - weight).abs() <= 4 * EPSILON * magnitude).all()
        elif dtype == "float16":
            assert is_rounded_or_its_neighbour(array(slabs, segment.target, shape, torch.float16), weight)
        else:
            scales = array(slabs, segment.scale_target, (segment.rows,), torch.float16).double()
            quanta = array(slabs, segment.target, shape, torch.int8).double()
            step = weight.abs().amax(-1) / 127
            # float16 holds a scale to half a unit of its 11 bits
            assert ((scales - step).abs() <= (2**-11 + 1e-5) * step).all()
            expected = (weight / scales[..., None]).round().clamp(-127, 127)
            assert (quanta - expected).abs().max() <= 1
            assert (quanta != expected).sum() <= max(1, quanta.numel() // 10_000)
            clipped = (quanta.abs() == 127) & (weight.abs() > 127 * scales[..., None])
            assert ((quanta - weight / scales[..., None]).abs()[~clipped] <= 0.5001).all()
        if dtype == "float32":
            stored = array(slabs, bias_segment.target, (segment.rows,), torch.float32)
            assert ((stored - bias).abs() <= EPSILON * bias.abs()).all()
        else:
            assert is_rounded_or_its_neighbour(array(slabs, bias_segment.target, (segment.rows,), torch.float16), bias)
    assert not padding(slabs, layout.spans).any()


@pytest.mark.parametrize("backend", ["triton", *COMPILED])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_backend_agrees_with_the_reference(dtype, backend):
    torch.manual_seed(0)
    layout = compose_layout([(33, 65, 4, dtype), (7, 33, 4, dtype)])
    values, base = guarded(3, layout.required_values), guarded(layout.required_base)

    reference, ours = (written(layout, values, base, backend=each)[0] for each in ("reference", backend))

    for segment in layout.segments[::2]:
        shape = (segment.rows, segment.columns)
        stored = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}[dtype]
        one, other = (array(slabs, segment.target, shape, stored).double() for slabs in (reference, ours))
        unit = {"float32": 1e-5, "float16": 2**-7, "int8": 1.0}[dtype]
        assert (one - other).abs().max() <= unit
        assert (one != other).double().mean() <= (1.0 if dtype == "float32" else 2e-3)


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
def test_a_lower_rank_uses_the_first_rows_of_the_trained_factors(backend):
    torch.manual_seed(0)
    trained = compose_layout([(5, 9, 4, "float32")])
    lower = compose_layout([(5, 9, 2, "float32")], trained_rank=4)
    values, base = guarded(2, trained.required_values), guarded(trained.required_base)
    emptied = values.clone()
    emptied[:, 2 * 5 : 4 * 5] = 0

    slabs, _ = written(lower, values, base, backend=backend)
    expected, _ = written(trained, emptied, base, backend=backend)

    assert torch.equal(slabs, expected)


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
def test_zero_factors_leave_the_shared_parameters(backend):
    torch.manual_seed(0)
    layout = compose_layout([(5, 9, 4, "float32")])
    values = torch.zeros(2, layout.required_values, device=ACCELERATOR)
    base = guarded(layout.required_base)

    slabs, _ = written(layout, values, base, backend=backend)

    weight, bias = layout.segments
    assert torch.equal(array(slabs, weight.target, (45,), torch.float32), base[:45].expand(2, 45))
    assert torch.equal(array(slabs, bias.target, (5,), torch.float32), base[45:].expand(2, 5))


@pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value encountered:RuntimeWarning"
)
@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_device_that_is_not_finite_is_reported_and_the_others_are_untouched(dtype, bad, backend, poisoned_memory):
    torch.manual_seed(0)
    layout = compose_layout([(5, 33, 2, dtype), (3, 5, 2, dtype)])
    values, base = guarded(5, layout.required_values + 1), guarded(layout.required_base)
    sound, _ = written(layout, values, base, backend=backend)
    second, its_bias = layout.segments[2:]
    values[1, 0] = bad
    values[2, second.right + 9] = bad
    values[3, its_bias.source + 2] = bad
    values[4, layout.required_values] = bad

    slabs, finite = written(layout, values, base, backend=backend)

    assert finite.tolist() == [True, False, False, False, True]
    assert torch.equal(slabs[[0, 4]], sound[[0, 4]])


@pytest.mark.parametrize("backend", SLAB_BACKENDS)
@pytest.mark.parametrize("B", [0, 2], ids="B{}".format)
def test_a_layout_without_layers_is_all_zero(B, backend, poisoned_memory):
    values, base = torch.ones(B, 1, device=ACCELERATOR), torch.ones(1, device=ACCELERATOR)

    slabs, finite = written(SlabLayout((), 24), values, base, backend=backend)

    assert (slabs.shape, slabs.any().item(), finite.all().item()) == ((B, 24), False, True)


@pytest.mark.parametrize(
    ("values", "base", "fact"),
    [
        (torch.zeros(2, 26), torch.zeros(18), "27 or more"),
        (torch.zeros(27), torch.zeros(18), "values"),
        (torch.zeros(2, 27), torch.zeros(17), "18 or more"),
        (torch.zeros(2, 27), torch.zeros(18, dtype=torch.float64), "float64"),
        (torch.zeros(2, 27), torch.zeros(36)[::2], "contiguous"),
    ],
    ids=["short-values", "one-dimension", "short-base", "float64", "strided-base"],
)
def test_operands_that_the_layout_cannot_read_are_refused(values, base, fact):
    with pytest.raises(ValueError, match=fact):
        written(LAYOUT, values, base)


@pytest.mark.parametrize("chosen", [[0], [0, 2], [-1, 0]], ids=["too-few", "unknown", "negative"])
def test_devices_without_a_plan_are_refused(chosen):
    with pytest.raises(ValueError, match="2 plans among 0 to 0"):
        compose_weights(torch.zeros(2, 27), torch.zeros(18), Plans([LAYOUT]), chosen)


@pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value encountered:RuntimeWarning"
)
@pytest.mark.parametrize("backend", SLAB_BACKENDS)
def test_every_device_of_a_batch_gets_its_own_plan(backend, poisoned_memory):
    torch.manual_seed(0)
    layouts = [
        compose_layout([(33, 65, 4, "int8"), (3, 33, 4, "int8")]),
        slab_layout([(4, 33, "int8"), (2, 65, "float16")], spare_bytes=5),
        compose_layout([(33, 65, 2, "float32"), (3, 33, 0, "float32")], trained_rank=4),
        SlabLayout((), 0),
        SlabLayout((), 40),
    ]
    plans, chosen = Plans(layouts), [2, 0, 3, 1, 4, 1, 0]
    values, base = guarded(len(chosen), plans.required_values), guarded(plans.required_base)
    values[6, 0] = torch.nan

    slabs = compose_weights(values, base, plans, chosen, backend=backend)

    bodies = slabs.bodies()
    assert slabs.finite.tolist() == [True] * 6 + [False]
    for row, (plan, body) in enumerate(zip(chosen, bodies, strict=True)):
        alone, finite = written(layouts[plan], values[row : row + 1], base, backend=backend)
        assert body == (bytes(alone[0].cpu().numpy()) if finite.item() else None)
