"""``duet plan``: replicas, cores, accelerators, egress and cost for so many devices, from what one replica did."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from loadtest.calibration import Calibration, CapacityProfile


def plan(
    devices: Annotated[float, typer.Option(help="How many devices there are, such as 50e6.")],
    updates_per_day: Annotated[float, typer.Option(help="Of each device.")] = 12.0,
    peak_factor: Annotated[float, typer.Option(help="The busiest minutes against the mean of the day.")] = 3.0,
    budget_ms: Annotated[float, typer.Option(help="From sending to the last byte received, of every update.")] = 100.0,
    mix: Annotated[str, typer.Option(help="Networks of the devices, a mix of network_mixes.json.")] = "mobile",
    report: Annotated[
        Path | None,
        typer.Option(help="report.json of a saturation run with your server; by default --profile says what one does."),
    ] = None,
    knee: Annotated[
        Path | None, typer.Option(help="report.json of an open loop, such as `duet loadtest step`: plan not beyond it.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="What a replica occupies and, without --report, does; of the file of profiles.")
    ] = "colocated-cpu",
    profiles: Annotated[
        Path | None, typer.Option(help="Profiles of your own instead of loadtest/capacity_profiles.yaml.")
    ] = None,
    assumptions: Annotated[
        Path | None, typer.Option(help="YAML with prices, headroom and the like, as loadtest/assumptions.yaml.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One assumption; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what carries so many devices within their budgets, and what it costs; every assumption is printed.

    Starts from what one replica did in closed loop, simulates its queue, and finds the load up to which the budget
    holds. Starts no server. Example: duet plan --devices 50e6 --updates-per-day 12 --peak-factor 3 --budget-ms 100
    """
    import json

    from loadtest.calibration import CannotPlan, knee_of_report
    from loadtest.plan_text import plan_json, plan_text
    from loadtest.planner import Assumptions, Demand, Replica
    from loadtest.planner import plan as planned
    from loadtest.profiles import load_mixes

    try:
        if mix not in (mixes := load_mixes()):
            raise CannotPlan(f"Expected --mix to be one of {', '.join(mixes)}, got {mix!r}.")
        taken = Assumptions.read(assumptions, dict(_change(each) for each in change or ()))
        measured, occupied = _measured(report, profile, profiles)
        if knee is not None:
            from dataclasses import replace

            measured = replace(measured, knee_rps=knee_of_report(knee))
        replica = Replica.of(measured, occupied, taken)
        demand = Demand(devices, updates_per_day, peak_factor, budget_ms, mixes[mix])
        found = planned(demand, replica, taken)
    except ValueError as error:
        # everything that can be wrong here is what the caller gave
        typer.echo(f"duet: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(plan_json(found, demand, replica, taken), indent=1))
    else:
        typer.echo(plan_text(found, demand, replica, taken))


def _measured(report: Path | None, profile: str, profiles: Path | None) -> "tuple[Calibration, CapacityProfile]":
    from loadtest.calibration import PROFILES_FILE, CannotPlan, calibrated, calibrated_by_report, load_profiles

    known = load_profiles(profiles or PROFILES_FILE)
    if profile not in known:
        raise CannotPlan(f"Expected --profile to be one of {', '.join(known)}, got {profile!r}.")
    occupied = known[profile]
    if report is None:
        return calibrated(occupied), occupied
    return calibrated_by_report(report, max_batch=occupied.max_batch), occupied


def _change(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise typer.BadParameter(f"Expected NAME=VALUE such as price_core_hour=0.03, got {text!r}.", param_hint="--set")
    return name.strip(), value
