"""The report of a run: one HTML page with its plots inside, ``report.json`` and ``seconds.csv`` beside it."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from loadtest.figures import Figures, PhaseFigures
from loadtest.headline import CPU_LIMIT, VOID, headline_of
from loadtest.plots import OverTime, latency_over_load, svg
from loadtest.run import Run, saturation_of
from loadtest.slo import GENERATOR, Check, check, exit_code, load_objectives
from loadtest.timeline import CPU, IN_FLIGHT, LAG, LATENCY, SERVICE, USERS
from loadtest.updates import OUTCOMES
from loadtest.words import number, percent, told, written

HTML, JSON, CSV = "report.html", "report.json", "seconds.csv"

_VERDICTS = {0: ("met its objectives", "pass"), 1: ("missed its objectives", "fail"), VOID: ("says nothing", "void")}
_MOST_FAULTS = 12
_ENOUGH_FOR_P999 = 100_000


@dataclass(frozen=True)
class Result:
    """How a run ended: exit code for CI, the checks, and lines to print."""

    exit_code: int
    checks: tuple[Check, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """A plot in the page: what it says, itself, and how to read it."""

    title: str
    svg: str
    text: str


@dataclass(frozen=True)
class NetworkRow:
    """What the devices of one network got."""

    name: str
    replies: int
    in_time: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def write_report(folder: Path, run: Run, slo: Path) -> Result:
    """Write the three files into a folder, which is made if need be.

    Raises:
        ValueError: If the file of objectives is not usable.
        OSError: If the folder cannot be written.
    """
    figures, phases = run.figures()
    objectives = load_objectives(slo, run.plan.name)
    checks = check(objectives, figures, is_open_loop=run.plan.kind == "open")
    if run.plan.kind == "saturation":
        # beyond its capacity a server is late and sheds: what a saturation run has to show is that it is sound
        sound = {name: limit for name, limit in objectives[GENERATOR].items() if name != "lag_p99_ms"}
        checks = check({GENERATOR: sound}, figures, is_open_loop=False)
    checks += [
        Check(f"event {event.name}", "= 0, exit code", event.exit_code, event.exit_code == 0, is_of_generator=True)
        for event in run.events
    ]
    code = exit_code(checks)
    headline = headline_of(run, figures, phases, checks, code)
    texts = {
        CSV: _csv(run),
        JSON: _json(run, figures, phases, checks, code, headline),
        HTML: _html(run, figures, phases, checks, code, headline),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _write(folder / name, text)
    lines = [f"{headline} The run {_VERDICTS[code][0]}."]
    lines += [
        f"  missed: {told(each.figure)} {each.limit}, measured {written(each.figure, each.measured)}"
        for each in checks
        if not each.holds
    ]
    return Result(code, tuple(checks), (*lines, f"Report: {folder / HTML}"))


def _summary(figures: Figures) -> str:
    return (
        f"{figures.due:,.0f} updates measured, {percent(figures.in_time_share)} in time, "
        f"{percent(figures.failed_share)} failed; p50 {number(figures.p50_ms)}, p99 {number(figures.p99_ms)}, "
        f"p99.9 {number(figures.p999_ms)} ms beside the server."
        + (" So few updates say little about p99.9." if figures.due < _ENOUGH_FOR_P999 else "")
    )


def _html(
    run: Run, figures: Figures, phases: Sequence[PhaseFigures], checks: Sequence[Check], code: int, headline: str
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"figure": number, "percent": percent, "told": told}
    environment.globals["written"] = written
    total = run.timeline.total
    verdict, verdict_class = _VERDICTS[code]
    versions = total.of("version")
    faults = sorted(total.of("fault").items(), key=lambda item: -item[1])[:_MOST_FAULTS]
    faulty = total.of("faulty")
    return environment.get_template("report.html.j2").render(
        run=run,
        headline=headline,
        verdict=verdict,
        verdict_class=verdict_class,
        summary=_summary(figures),
        checks=checks,
        plots=_plots(run, figures, phases),
        phases=phases,
        networks=_networks(run),
        faults=faults,
        versions=f"Versions served: {', '.join(f'{name} ({count:,})' for name, count in versions.items()) or 'none'}.",
        faulty=f"Faulty requests sent on purpose: {sum(faulty.values()):,}, of which "
        f"{faulty.get('mishandled', 0):,} were not refused as documented.",
        written_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _plots(run: Run, figures: Figures, phases: Sequence[PhaseFigures]) -> list[Plot]:
    over_time = OverTime(run, phases)
    share_ms = float(run.options.get("server_share_ms", "50"))
    from_due = "From when an update was due, so that a stall shows for all who came meanwhile."
    from_sent = "From sending, by users who wait for replies: a stall counts once, not for all who would have come."
    drawn: list[tuple[str, Figure | None, str]] = [
        (
            _knee_title(run, figures),
            latency_over_load(run, phases),
            "A point a phase. Green: loads at which 99 % of the updates were in time; the knee is the largest of them.",
        ),
        (
            f"Throughput: {figures.goodput_rps:,.0f} updates a second in time, of {figures.offered_rps:,.0f} due",
            over_time.throughput(),
            "Each update stands in the second in which it was due. Grey phases are warm-up, orange ones a disturbance.",
        ),
        (
            f"Latency beside the server: p99 {number(figures.p99_ms)} ms",
            over_time.latency(share_ms),
            from_due if run.plan.kind == "open" else from_sent,
        ),
        (
            f"Budget misses: {percent(1 - figures.in_time_share)}",
            over_time.misses(figures.recovery_s),
            "Late, shed, refused, failed and dropped together.",
        ),
        ("Plan mix", over_time.plans(), "Which representation devices got; keep is a 204."),
        ("Rungs", over_time.rungs(), "plan: generated; keep and shared cost no computing; shed is 429 or 503."),
        ("Versions", over_time.versions(), "Which version the replies were of, by the first digits of its digest."),
        (
            "Replicas",
            over_time.replicas(),
            "By the server's own metrics, which arrive some seconds late; a gap is a server that told nothing.",
        ),
        (
            "The load generator itself",
            over_time.generator(),
            "Above 90 % of a core, or milliseconds late in sending, it measures itself and not the server.",
        ),
    ]
    return [Plot(title, svg(figure), text) for title, figure, text in drawn if figure is not None]


def _knee_title(run: Run, figures: Figures) -> str:
    if run.plan.kind != "open":
        return "Latency against throughput"
    if math.isnan(figures.knee_rps):
        return "Latency against load: none was carried"
    return f"Latency against load: good to {figures.knee_rps:,.0f} updates a second"


def _networks(run: Run) -> list[NetworkRow]:
    total = run.timeline.total
    rows = []
    for name in sorted(name.removeprefix("delivered/") for name in total.histograms if name.startswith("delivered/")):
        outcomes = total.of(f"profile/{name}")
        replies = sum(outcomes.values())
        quantiles = (total.quantile_ms(f"delivered/{name}", share) for share in (0.5, 0.95, 0.99))
        rows.append(NetworkRow(name, replies, outcomes.get("in-time", 0) / replies, *quantiles))
    return rows


def _json(
    run: Run, figures: Figures, phases: Sequence[PhaseFigures], checks: Sequence[Check], code: int, headline: str
) -> str:
    shape = run.plan.shape
    document = {
        "format": 1,
        "exit_code": code,
        "headline": f"{headline} The run {_VERDICTS[code][0]}.",
        "run": {
            "kind": run.plan.kind,
            "shape": run.plan.name,
            "rate": run.plan.rate,
            "ran_s": run.ran_s,
            "host": run.host,
            "options": dict(run.options),
            "phases": [phase.model_dump(mode="json") for phase in shape.phases] if shape else [],
            "events": [asdict(event) for event in run.events],
        },
        "figures": asdict(figures),
        "phases": [asdict(phase) for phase in phases],
        "checks": [asdict(each) for each in checks],
        "saturation": asdict(saturation_of(list(phases), CPU_LIMIT)) if run.plan.kind == "saturation" else None,
        "seconds": run.timeline.to_json(),
    }
    return json.dumps(_finite(document), indent=1)


def _csv(run: Run) -> str:
    """One row a second, for a spreadsheet."""
    text = io.StringIO()
    columns = ["second", "due", *OUTCOMES, "dropped", "retries", "p50_ms", "p95_ms", "p99_ms", "p999_ms"]
    columns += ["service_p99_ms", "lag_p99_ms", "cpu_share", "in_flight", "users", "plan", "keep", "shared"]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for at_s in sorted(run.timeline.seconds):
        second = run.timeline.seconds[at_s]
        outcomes, answers = second.of("outcome"), second.of("answer")
        row: dict[str, object] = {"second": at_s, "due": second.counts["due"]}
        row |= {name: outcomes.get(name, 0) for name in OUTCOMES}
        row |= {name: second.counts[name] for name in ("dropped", "retries")}
        quantiles = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}
        row |= {name: _cell(second.quantile_ms(LATENCY, share)) for name, share in quantiles.items()}
        row["service_p99_ms"] = _cell(second.quantile_ms(SERVICE, 0.99))
        row["lag_p99_ms"] = _cell(second.quantile_ms(LAG, 0.99))
        gauges = (("cpu_share", CPU), ("in_flight", IN_FLIGHT), ("users", USERS))
        row |= {name: _cell(second.gauges.get(gauge, math.nan)) for name, gauge in gauges}
        row |= {name: answers.get(name, 0) for name in ("plan", "keep", "shared")}
        writer.writerow(row)
    return text.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}" if value < 1000 else f"{value:.1f}"


def _finite(value: object) -> object:
    """Put null where JSON has no number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)
