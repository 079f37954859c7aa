"""The demo's report: one HTML file with its plots inside, nothing to fetch."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import matplotlib

from app.commands.demo.devices import Visit
from app.commands.demo.summary import STAGES, Delivery, Quality
from duet.evaluation.provenance import provenance
from duet.protocol.manifest import RepresentationRecord

matplotlib.use("Agg")
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED = "#1f2933", "#9aa5b1"
COLOURS = {"shared": MUTED, "stale": "#f0b429", "fresh": "#2680c2"}
FORMS = {"shared": MUTED, "factors": "#2680c2", "composed": "#8719e0", "full": "#e12d39", "embedding": "#3ebd93"}
MARKS = {"float32": "o", "float16": "s", "int8": "^"}
STAGE_COLOURS = dict(zip(STAGES, ("#f7c948", "#3ebd93", "#2680c2", "#8719e0"), strict=True))


@dataclass(frozen=True)
class Findings:
    """Everything the report shows.

    Attributes:
        model: Name and version of the model.
        dataset: Name of the data set.
        budget_ms: Budget of the updates.
        lag: How many interactions old the stale parameters are.
        quality: Ranking quality on the devices.
        records: Size and quality of each representation, from the manifest.
        deliveries: Updates for each kind of network.
        example: The device that is shown.
        ground_truth: What the synthetic world knows, a sentence; None for real data.
    """

    model: str
    dataset: str
    budget_ms: float
    lag: int
    quality: Quality
    records: Sequence[RepresentationRecord]
    deliveries: Sequence[Delivery]
    example: Visit
    ground_truth: str | None


def write_report(path: Path, findings: Findings) -> None:
    """Write the report to a file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    example = findings.example
    following = str(example.moment.following)
    html = environment.get_template("report.html.j2").render(
        findings=findings,
        gain=findings.quality.fresh_minus_shared,
        plots={
            "quality": _svg(plot_quality(findings.quality, findings.lag)),
            "bytes": _svg(plot_bytes(findings.records)),
            "latency": _svg(plot_latency(findings.deliveries, findings.budget_ms)),
        },
        before=[
            (title, str(raw) == following) for raw, title in zip(example.before.ids, example.before.titles, strict=True)
        ],
        after=[
            (title, str(raw) == following) for raw, title in zip(example.after.ids, example.after.titles, strict=True)
        ],
        provenance=provenance(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path.write_text(html, encoding="utf-8")


def plot_quality(quality: Quality, lag: int) -> Figure:
    """Draw NDCG@10 with shared, stale and fresh parameters as bars with their intervals."""
    figure, axes = _figure(4.6, 3.2)
    names = {"shared": "shared", "stale": f"{lag} interactions old", "fresh": "fresh"}
    for place, kind in enumerate(names):
        mean, low, high = quality.ndcg[kind]
        axes.bar(place, mean, color=COLOURS[kind], width=0.62)
        axes.errorbar(place, mean, [[mean - low], [high - mean]], color=INK, capsize=4, lw=1)
        axes.annotate(f"{mean:.3f}", (place, high), ha="center", va="bottom", xytext=(0, 3), textcoords="offset points")
    axes.set_xticks(range(len(names)), list(names.values()))
    axes.set_ylabel("NDCG@10, whole catalogue")
    axes.set_ylim(0, 1.15 * max(high for _, _, high in quality.ndcg.values()))
    return figure


def plot_bytes(records: Sequence[RepresentationRecord]) -> Figure:
    """Draw the quality of each representation against its bytes, with the line of the best for each size."""
    figure, axes = _figure(6.2, 3.6)
    for record in records:
        form = record.representation.form.name.lower()
        axes.plot(
            record.package_bytes,
            record.quality.value,
            MARKS[record.representation.dtype.name.lower()],
            color=FORMS[form],
            ms=7,
            alpha=0.9,
        )
    best = -1.0
    frontier: list[tuple[int, float, str]] = []
    for record in sorted(records, key=lambda r: (r.package_bytes, -r.quality.value)):
        if record.quality.value > best:
            best = record.quality.value
            frontier.append((record.package_bytes, best, str(record.representation)))
    axes.step([x for x, _, _ in frontier], [y for _, y, _ in frontier], where="post", color=INK, lw=0.8, zorder=0)
    for at, (x, y, name) in enumerate(frontier):
        offset = (4, -12) if at % 2 == 0 else (-4, 6)
        side = "left" if at % 2 == 0 else "right"
        axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", fontsize=9, color=INK, ha=side)
    axes.set_xscale("log")
    axes.set_xlabel("package bytes")
    axes.set_ylabel("NDCG@10, validation")
    axes.margins(x=0.12, y=0.15)
    present = {record.representation.form.name.lower() for record in records}
    handles = [axes.plot([], [], "o", color=colour)[0] for form, colour in FORMS.items() if form in present]
    handles += [axes.plot([], [], mark, color=INK, mfc="none")[0] for mark in MARKS.values()]
    labels = [form for form in FORMS if form in present] + list(MARKS)
    axes.legend(
        handles,
        labels,
        fontsize=9,
        ncols=(len(labels) + 1) // 2,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        frameon=False,
    )
    return figure


def plot_latency(deliveries: Sequence[Delivery], budget_ms: float) -> Figure:
    """Draw where the milliseconds of an update go, for each kind of network: against the budget, and in the server."""
    shown = [delivery for delivery in deliveries if delivery.refusal is None]
    figure = Figure(figsize=(10, 0.42 * len(shown) + 1.7), layout="constrained")
    whole, server = figure.subplots(1, 2, sharey=True)
    for axes in (whole, server):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10)
    network = [delivery.network_ms for delivery in shown]
    measured = [delivery.server_ms[0] for delivery in shown]
    _stack(whole, {"network, modelled": (network, "#cbd2d9"), "server, measured": (measured, "#334e68")}, "{:.0f} ms")
    whole.axvline(budget_ms, color="#e12d39", lw=1, ls="--", label=f"budget {budget_ms:g} ms")
    whole.set_xlim(0, budget_ms * 1.15)
    stages = {stage: [delivery.stages_ms[stage] for delivery in shown] for stage in STAGES}
    rest = [max(0.0, total - sum(parts)) for total, *parts in zip(measured, *stages.values(), strict=True)]
    _stack(
        server,
        {stage: (widths, STAGE_COLOURS[stage]) for stage, widths in stages.items()} | {"rest": (rest, "#cbd2d9")},
        "{:.1f} ms",
    )
    server.margins(x=0.18)
    whole.set_yticks(range(len(shown)), [delivery.link for delivery in shown])
    whole.invert_yaxis()  # in the order of the table
    whole.set_title("An update, p50", loc="left", fontsize=11)
    server.set_title("The server's share of it alone, p50 of each stage", loc="left", fontsize=11)
    for axes, columns in ((whole, 3), (server, len(STAGES) + 1)):
        axes.set_xlabel("ms", fontsize=10)
        axes.legend(
            fontsize=9,
            ncols=columns,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            frameon=False,
            handlelength=1,
            columnspacing=1,
        )
    return figure


def _stack(axes: "Axes", parts: Mapping[str, tuple[Sequence[float], str]], total: str) -> None:
    """Draw one horizontal bar a row out of named parts, with its sum behind it."""
    left = [0.0] * max(len(widths) for widths, _ in parts.values())
    for name, (widths, colour) in parts.items():
        axes.barh(range(len(widths)), widths, left=left, color=colour, label=name, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, end in enumerate(left):
        axes.annotate(
            total.format(end),
            (end, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
