"""A plan as a person reads it, and as JSON: the answer, then where it comes from, then what it takes for granted."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from loadtest.planner import Assumptions, Demand, Load, Network, Plan, Replica


def plan_text(plan: Plan, demand: Demand, replica: Replica, assumptions: Assumptions) -> str:
    """Write a plan."""
    times, money = replica.calibration.times, assumptions.currency
    answer = [
        ("replicas", f"{plan.replicas:,}", f"{assumptions.spare_replicas} of them spare"),
        ("cores", f"{plan.cores:,.6g}", f"{replica.cores:g} a replica"),
        ("accelerators", f"{plan.accelerators:,.6g}", f"{replica.accelerators:g} a replica"),
        ("egress at the peak", f"{_bits(plan.egress_bytes_s)}", "packages and headers"),
        ("egress in a month", f"{plan.egress_bytes_month / 1e9:,.0f} GB", ""),
        ("cost in a month", f"{plan.cost_month:,.0f} {money}", "replicas for the peak around the clock"),
        ("cost of 10^6 updates", f"{plan.cost_per_million:.3g} {money}", _following(plan, money)),
    ]
    load = [
        ("updates a second", f"{demand.mean_updates_s:,.0f}", "mean of the day"),
        ("requests at the peak", f"{plan.peak_rps:,.0f} / s", f"x {demand.peak_factor:g}, retries included"),
        ("server's share", f"{plan.server_share_ms:.1f} ms", f"of {demand.budget_ms:g}: the slowest covered network"),
        ("a replica at most", f"{times.capacity_rps * assumptions.core_speed:,.0f} / s", "batches full"),
        (
            "a replica at the peak",
            f"{plan.planned.requests_s:,.0f} / s",
            f"{plan.planned.utilisation:.0%} of that, limited by {plan.limited_by}",
        ),
        (
            "its times then",
            f"p95 {plan.planned.p95_ms:.1f} ms",
            f"p50 {plan.planned.p50_ms:.1f}, p99 {plan.planned.p99_ms:.1f}: wait and compute, simulated",
        ),
    ]
    blocks = [
        _headline(plan, demand, assumptions),
        _table(answer, "<><"),
        "How it comes about\n" + _table(load, "<><"),
        "Networks: who is in time at the peak\n" + _networks(plan.networks),
        "One replica under load, simulated (ms, without the network)\n" + _curve(plan.curve),
        "Measured\n" + _calibration(replica),
        "Taken for granted (--assumptions FILE, --set NAME=VALUE)\n"
        + _table([(name, _value(value, name, replica)) for name, value in assumptions.model_dump().items()], "<<"),
    ]
    return "\n\n".join(blocks)


def plan_json(plan: Plan, demand: Demand, replica: Replica, assumptions: Assumptions) -> dict[str, Any]:
    """Spell a plan, with what it comes from, as JSON has it."""
    calibration = asdict(replica.calibration)
    calibration["times"].pop("disturbances_ms")
    calibration["times"]["capacity_rps"] = replica.calibration.times.capacity_rps
    return {
        "format": 1,
        "demand": asdict(demand) | {"mix": dict(demand.mix.shares)},
        "plan": asdict(plan),
        "measured": calibration,
        "replica": {
            name: getattr(replica, name) for name in ("cores", "accelerators", "request_bytes", "package_bytes")
        },
        "assumptions": assumptions.model_dump(),
    }


def _headline(plan: Plan, demand: Demand, assumptions: Assumptions) -> str:
    told = (
        f"{demand.devices:,.0f} devices, {demand.updates_per_day:g} updates a day each, in {demand.budget_ms:g} ms: "
        f"{plan.replicas:,} replicas on {plan.cores:,.6g} cores, {plan.cost_per_million:.3g} {assumptions.currency} "
        "per million updates."
    )
    missed = sum(each.share for each in plan.networks if each.left_ms <= 0)
    return told if not missed else f"{told}\n{missed:.0%} of the devices have networks that alone take longer."


def _networks(networks: Sequence[Network]) -> str:
    rows = [("network", "devices", "takes ms", "leaves ms", "in time", "")]
    for each in networks:
        told = "" if each.is_covered else "may be late: beyond covered_share"
        if each.left_ms <= 0:
            told = "out of reach of any server; counted as load all the same"
        left, in_time = f"{max(each.left_ms, 0):.1f}", f"{100 * each.in_time_share:.1f} %"
        rows.append((each.name, f"{100 * each.share:.0f} %", f"{each.network_ms:.1f}", left, in_time, told))
    return _table(rows, "<>>>><")


def _curve(curve: Sequence[Load]) -> str:
    rows: list[Sequence[str]] = [("of capacity", "requests / s", "p50", "p95", "p99")]
    for each in curve:
        times = (f"{value:.1f}" for value in (each.p50_ms, each.p95_ms, each.p99_ms))
        rows.append((f"{each.utilisation:.0%}", f"{each.requests_s:,.0f}", *times))
    return _table(rows, ">>>>>")


def _calibration(replica: Replica) -> str:
    found = replica.calibration
    times = found.times
    rows = [
        ("from", found.source),
        ("a batch of n takes", f"{times.batch_ms:.3g} + {times.request_ms:.3g} n ms, n up to {times.max_batch}"),
        ("and beside it", f"{times.fixed_ms:.3g} ms a request, without keeping the worker"),
        (
            "measured at most",
            f"{found.measured_rps:,.0f} / s in closed loop, of {times.capacity_rps:,.0f} by the times",
        ),
        ("fit", "exact" if found.fit_error < 1e-6 else f"within {found.fit_error:.1%} of every closed loop"),
    ]
    if found.knee_rps is not None:
        rows.append(("knee in open loop", f"{found.knee_rps:,.0f} / s"))
    return _table(rows, "<<")


def _following(plan: Plan, money: str) -> str:
    return f"at best {plan.cost_per_million_following:.3g} {money}, if replicas followed the load at once"


def _value(value: object, name: str, replica: Replica) -> str:
    if value is not None:
        return f"{value:g}" if isinstance(value, int | float) else str(value)
    return f"{getattr(replica, name.removesuffix('_per_replica')):g} (as measured)"


def _bits(bytes_s: float) -> str:
    bits = 8 * bytes_s
    size, unit = next((each for each in ((1e9, "Gbit/s"), (1e6, "Mbit/s")) if bits >= each[0]), (1e3, "kbit/s"))
    return f"{bits / size:,.3g} {unit}"


def _table(rows: Iterable[Sequence[str]], sides: str) -> str:
    """Set cells in columns: ``<`` to the left, ``>`` to the right."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(sides))]
    return "\n".join(
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
