"""Contenders of a case: checked against ours first, then timed in turns, so that what disturbs one disturbs all.

On a host a turn is a block of calls that fill half a millisecond, by the wall clock, after one that is not counted:
what is timed runs in warm caches. The order of the turns changes from round to round. On an accelerator a turn is
one call between two CUDA events, after the L2 cache was flushed: what triton.testing.do_bench does, but in turns. A
call that takes the host longer to launch than the flush takes then shows the launches, as it would in use.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.kernels.case import OURS, Call, Case, Function, first_difference

CONTENDERS = (OURS, "eager", "compile")
NOT_AVAILABLE = "not available"

# otherwise a float16 scale that is used at once is not rounded, and another number is stored than the format says
_ROUNDED_AS_WRITTEN: dict[str, str | int | bool | Callable[..., object]] = {
    "emulate_precision_casts": True,
    "eager_numerics.division_rounding": True,
}
_FLUSHED_BYTES = 2**28
_COPIED_BYTES = 2**30


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: Turns of every contender.
        warm_up: Turns before those, which are not counted.
        turn_s: The least time of a turn on a host.
    """

    rounds: int = 75
    warm_up: int = 5
    turn_s: float = 5e-4


QUICK = Pace(rounds=5, warm_up=1, turn_s=2e-4)


@dataclass(frozen=True)
class Timing:
    """What was measured of one contender.

    Attributes:
        median_us: Median of its turns, per call.
        low_us: Their 20 % quantile.
        high_us: Their 80 % quantile.
        ratio: Median over the rounds of its time in units of ours in the same round.
        launches: Kernels and copies a call puts on the accelerator; None on a host.
    """

    median_us: float
    low_us: float
    high_us: float
    ratio: float
    launches: int | None


def measure(case: Case, wanted: Sequence[str], pace: Pace, device: torch.device) -> dict[str, Timing | str]:
    """Check and time contenders of a case; ours is always among them.

    Args:
        case: What to time.
        wanted: Which of ``CONTENDERS``.
        pace: How long.
        device: Where the operands are.

    Returns:
        What was measured, or why there is nothing, by contender.

    Raises:
        SystemExit: If a contender computes something else than ours; the message names the first element.
    """
    calls = {OURS: case.bound(case.ours)}
    missing: dict[str, Timing | str] = {}
    if "eager" in wanted:
        calls["eager"] = case.bound(case.plain(lambda function: function))
    if "compile" in wanted:
        if can_compile(device):
            calls["compile"] = case.bound(case.plain(_compile))
        else:
            missing["compile"] = NOT_AVAILABLE
    with torch.inference_mode(not case.trains):
        _check(case, calls)
        times = time_on_accelerator(calls, pace) if device.type == "cuda" else _time_on_host(calls, pace)
        launches = {name: _launches(call) if device.type == "cuda" else None for name, call in calls.items()}
    return {name: _timing(its, times[OURS], launches[name]) for name, its in times.items()} | missing


def can_compile(device: torch.device) -> bool:
    """Tell whether torch.compile has what it generates code with: Triton on an accelerator, else a C++ compiler."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def copy_bandwidth(device: torch.device, pace: Pace) -> float:
    """Measure how fast an accelerator copies a gigabyte, GB/s, bytes read and written counted."""
    source = torch.empty(min(_COPIED_BYTES, torch.cuda.mem_get_info(device)[0] // 4), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = time_on_accelerator({"copy": lambda: target.copy_(source)}, pace)["copy"]
    return 2 * source.numel() / statistics.median(times) / 1e9


def issue_rate(device: torch.device) -> float:
    """Return how many instructions an accelerator issues in a second, counted a thread each, at its nominal clock."""
    from triton.runtime import driver

    facts = driver.active.utils.get_device_properties(device.index or 0)
    # four schedulers a multiprocessor, each issuing for 32 threads; the clock is in kHz
    return float(facts["multiprocessor_count"] * 4 * 32 * facts["sm_clock_rate"] * 1e3)


def _compile(function: Function) -> Function:
    # what was compiled for other cases counts towards a limit beyond which calls silently run uncompiled
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True, options=_ROUNDED_AS_WRITTEN)


def _check(case: Case, calls: Mapping[str, Call]) -> None:
    ours = calls[OURS]()
    for name, call in calls.items():
        difference = None if name == OURS else first_difference(case, name, call(), ours)
        if difference:
            sys.exit(difference)


def _time_on_host(calls: Mapping[str, Call], pace: Pace) -> dict[str, list[float]]:
    """Return seconds per call of every turn."""
    repeats = {name: max(1, round(pace.turn_s / _seconds(call, 3))) for name, call in calls.items()}
    order = list(calls)
    times: dict[str, list[float]] = {name: [] for name in calls}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(pace.warm_up + pace.rounds):
            for name in order:
                # what ran before has emptied the caches: one call to fill them, which is not counted
                calls[name]()
                elapsed = _seconds(calls[name], repeats[name])
                if turn >= pace.warm_up:
                    times[name].append(elapsed)
            # nobody always follows the same one
            order = order[1:] + order[:1] if turn % 2 else order[::-1]
    finally:
        if was_enabled:
            gc.enable()
    return times


def _seconds(call: Call, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def time_on_accelerator(calls: Mapping[str, Call], pace: Pace) -> dict[str, list[float]]:
    """Return seconds per call of every turn, by events on the current stream."""
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for turn in range(pace.warm_up + pace.rounds):
        for name, call in calls.items():
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            flushed.zero_()
            started.record()
            call()
            ended.record()
            if turn >= pace.warm_up:
                events[name].append((started, ended))
    torch.cuda.synchronize()
    return {name: [one.elapsed_time(other) / 1e3 for one, other in its] for name, its in events.items()}


def _launches(call: Call) -> int:
    """Count the kernels, copies and fills that a call puts on the accelerator."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiled.events())


def _timing(times: Sequence[float], ours: Sequence[float], launches: int | None) -> Timing:
    low, median, high = torch.quantile(_microseconds(times), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    ratios = [one / other for one, other in zip(times, ours, strict=True)]
    return Timing(median.item(), low.item(), high.item(), statistics.median(ratios), launches)


def _microseconds(seconds: Sequence[float]) -> Tensor:
    return torch.tensor(seconds, dtype=torch.float64) * 1e6
