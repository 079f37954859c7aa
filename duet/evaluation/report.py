"""A document of all grids: tables between markers, so that what a person wrote around them stays, and plots beside.

<!-- grid movielens-1m -->
whatever stands here is written anew
<!-- end movielens-1m -->
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.evaluation.comparison import (
    METRIC_NAMES,
    Variant,
    baseline_of,
    deviation,
    families,
    group_runs,
    with_deviation,
    with_interval,
)
from duet.evaluation.convergence import converge
from duet.evaluation.cost_tables import COST_READING, choice_lines, cost_table, latency_table
from duet.evaluation.grid import OUTLINE, read_outline
from duet.evaluation.plots import draw
from duet.evaluation.record import INT8, OWN, RunRecord, read_record
from duet.evaluation.size_plots import draw_sizes
from duet.evaluation.size_sweep import device_bytes, needed
from duet.protocol.errors import InvalidData
from duet.training.checkpoint import write_atomically

PLOTS = "plots"
BASELINES = ("static", "capacity-matched")
READING = (
    "Mean ± standard deviation over seeds. Δ: difference paired by user and seed, with its 95 % bootstrap interval "
    "over users."
)
GROUPS = {
    "cold": "the quarter of the users with the fewest interactions",
    "unseen": "users of whom nothing was trained on",
}
SIZE_READING = (
    "How many times the bytes of the device model a static one needs to rank as well: interpolated between the sizes "
    "that were run, linear in the logarithm of bytes, with the 95 % interval over users. What training again would "
    "change is not in it."
)
CONVERGENCE_READING = (
    "*Target*: 95 % of the lowest best validation value of these. *Roughness*: root mean square of the change of "
    "validation from one epoch to the next, from the target on. Means over seeds."
)
SWAP_READING = (
    "With parameters of this user now (*own*), of some interactions ago (*stale*; the device's sample is the newest), "
    "of the mean embedding, and of another user (*swapped*). Δ to own; *step*: to the row above, below zero where "
    "own > stale > mean > swapped holds."
)


@dataclass(frozen=True)
class GridResults:
    """What is known of one grid.

    Attributes:
        name: The grid.
        records: Its records, variant by variant in the order of the grid.
        missing: Names of the runs that have none.
        strangers: Names of records in its folder that the grid does not have.
    """

    name: str
    records: tuple[RunRecord, ...]
    missing: tuple[str, ...]
    strangers: tuple[str, ...]


def read_results(folder: Path) -> GridResults:
    """Read the records of a grid from ``<results>/<grid>``.

    Raises:
        InvalidData: If the folder does not say what the grid consists of.
        UnusableRun: If a record is damaged.
    """
    outline = read_outline(folder)
    wanted = [f"{variant}-s{seed}" for variant in outline.variants for seed in outline.seeds]
    there = {file.stem for file in folder.glob("*.json") if file.name != OUTLINE}
    return GridResults(
        name=folder.name,
        records=tuple(read_record(folder / f"{name}.json") for name in wanted if name in there),
        missing=tuple(name for name in wanted if name not in there),
        strangers=tuple(sorted(there - set(wanted))),
    )


def write_report(results: Path, out: Path) -> tuple[GridResults, ...]:
    """Write tables and plots of every grid below a folder; other text of the document stays.

    Args:
        results: Folder of the grids.
        out: The Markdown document; created if it is not there.

    Returns:
        What was found.

    Raises:
        InvalidData: If there is no grid, or a marker in the document has no end.
        UnusableRun: If a record is damaged or cannot be compared with the others.
    """
    grids = tuple(read_results(path.parent) for path in sorted(results.glob(f"*/{OUTLINE}")))
    if not grids:
        raise InvalidData(
            path=results,
            line=None,
            expected="a folder with the records of grids",
            received="none",
            remedy="Run `duet evaluate --grid` first.",
        )
    text = out.read_text(encoding="utf-8") if out.exists() else "# Results\n"
    for grid in grids:
        text = place_section(text, grid.name, _section(grid, results / grid.name, out.parent), out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.encode())
    return grids


def place_section(document: str, name: str, section: str, path: Path) -> str:
    """Return the document with what stands between the markers of a grid replaced, or with the grid at its end.

    Raises:
        InvalidData: If one of the markers stands there without the other, or twice.
    """
    start, end = f"<!-- grid {name} -->", f"<!-- end {name} -->"
    block = f"{start}\n\n{section.strip()}\n\n{end}"
    counts = document.count(start), document.count(end)
    if counts == (0, 0):
        return f"{document.rstrip()}\n\n## {name}\n\n{block}\n"
    if counts != (1, 1) or document.index(start) > document.index(end):
        raise InvalidData(
            path=path,
            line=None,
            expected=f"{start} and then {end}, once each",
            received=f"{counts[0]} and {counts[1]} of them" if counts != (1, 1) else "them the other way round",
            remedy="Repair the markers, or remove both to have the grid added at the end.",
        )
    return document[: document.index(start)] + block + document[document.index(end) + len(end) :]


def _section(grid: GridResults, folder: Path, base: Path) -> str:
    """Return the text of a grid, and write its plots."""
    parts = []
    if grid.missing:
        parts.append(f"**Missing: {', '.join(grid.missing)}.**")
    if grid.strangers:
        parts.append(f"Left out, since the grid does not have them: {', '.join(grid.strangers)}.")
    if not grid.records:
        return "\n\n".join(parts)
    variants = group_runs(grid.records)
    data = grid.records[0].dataset
    seeds = sorted({record.seed for record in grid.records})
    counts = sorted({len(variant.seeds) for variant in variants.values()})
    subtitle = f"{data.name}, {' to '.join(map(str, counts))} seed{'s' * (counts[-1] > 1)}"
    parts.append(
        f"{data.name}: {data.evaluated:,} users ranked, {data.items:,} items, "
        f"seeds {', '.join(map(str, seeds))}. {READING}"
    )
    by_backbone = families(variants)
    for backbone, family in by_backbone.items():
        if len(by_backbone) == 1:
            parts.append(_family(family, folder / PLOTS, base, subtitle))
        else:
            parts += [f"### {backbone}", _family(family, folder / PLOTS / backbone, base, f"{backbone}, {subtitle}")]
    return "\n\n".join([*parts, _provenance(grid.records)])


def _family(variants: Mapping[str, Variant], folder: Path, base: Path, subtitle: str) -> str:
    """Return the tables of one backbone, and write its plots."""
    plots = draw(variants, folder, subtitle=subtitle) | draw_sizes(variants, folder, subtitle=subtitle)
    place = os.path.relpath(folder, base).replace(os.sep, "/")
    images = {name: f"![{text}]({place}/{name})" for name, text in plots.items()}
    parts = [
        main_table(variants),
        images.pop("quality-by-bytes.svg", ""),
        group_reading(variants),
        difference_table(variants),
    ]
    for reading, table in (
        (SIZE_READING, size_table(variants)),
        (CONVERGENCE_READING, convergence_table(variants)),
        (SWAP_READING, swap_table(variants)),
    ):
        parts += [reading, table] if table else []
    costs = cost_table(variants)
    if costs:
        parts += [COST_READING, choice_lines(variants), costs, latency_table(variants)]
        parts.append(images.pop("time-per-device.svg", ""))
    return "\n\n".join([*filter(None, parts), *images.values()])


def main_table(variants: Mapping[str, Variant]) -> str:
    """Return quality, differences in NDCG@10 to both baselines, and costs: a row for all that each variant serves."""
    head = ["variant", "seeds", *METRIC_NAMES.values(), *(f"Δ NDCG@10 to {name}" for name in BASELINES)]
    rows = []
    for variant in _served(variants):
        training = [record.training for record in variant.records]
        rows.append(
            [
                variant.label,
                str(len(variant.seeds)),
                *(_mean(variant, metric) for metric in METRIC_NAMES),
                *(_difference(variant, baseline_of(variants, name, variant), "ndcg@10") for name in BASELINES),
                f"{sum(run.best_epoch for run in training) / len(training):.0f}",
                f"{sum(run.seconds for run in training) / len(training) / 60:.1f}",
                _update_bytes(variant),
            ]
        )
    return _table([*head, "best epoch", "minutes", "bytes per update, float32 / int8"], rows)


def _update_bytes(variant: Variant) -> str:
    update = variant.records[0].sizes.update.get(variant.condition.removesuffix(INT8))
    if update is None:
        return "–"
    return (
        f"– / {update['int8']:,}" if variant.condition.endswith(INT8) else f"{update['float32']:,} / {update['int8']:,}"
    )


def group_reading(variants: Mapping[str, Variant]) -> str:
    """Say which groups of users the table of differences has."""
    told = (f"*{name}*: {GROUPS[name]}" for name in _groups(variants))
    return "; ".join(["More differences to `static`", *told]) + "."


def _groups(variants: Mapping[str, Variant]) -> list[str]:
    """List the groups that every record knows."""
    return [name for name in GROUPS if all(name in run.groups for each in variants.values() for run in each.records)]


def difference_table(variants: Mapping[str, Variant]) -> str:
    """Return differences to the static model in other metrics, and for groups of users."""
    groups = _groups(variants)
    rows = [
        [
            variant.label,
            *(_difference(variant, static, metric) for metric in ("hr@10", "uauc", "sampled_ndcg@10")),
            *(_difference(variant, static, "ndcg@10", group=group) for group in groups),
        ]
        for variant in _served(variants)
        for static in [baseline_of(variants, "static", variant)]
        if variant.model != "static"
    ]
    heads = (f"Δ NDCG@10, {group}" for group in groups)
    return _table(["variant", "Δ HR@10", "Δ UAUC", "Δ 1+99 NDCG@10", *heads], rows)


def size_table(variants: Mapping[str, Variant]) -> str:
    """Return how many times the bytes a static model needs; empty unless static models of several sizes were run."""
    rows = [
        [
            found.variant.name,
            f"{device_bytes(found.variant):,}",
            _mean(found.variant, "ndcg@10"),
            str(found),
        ]
        for found in needed(variants, "ndcg@10")
    ]
    return _table(["variant", "device model, bytes", "NDCG@10", "a static model needs, times"], rows) if rows else ""


def convergence_table(variants: Mapping[str, Variant]) -> str:
    """Return how fast and steadily variants learn; empty unless they differ in the decoders of the adapter."""
    found = converge(variants)
    decoders = {each.variant.name: each.variant.records[0].config.generator.decoders for each in found}
    if len(set(decoders.values())) < 2:
        return ""
    rows = [
        [
            each.variant.name,
            str(decoders[each.variant.name]),
            f"{each.best:.4f}",
            f"{each.epochs:.1f}",
            f"{each.roughness:.4f}",
        ]
        for each in found
    ]
    return _table(["variant", "decoders", "best validation NDCG@10", "epochs to the target", "roughness"], rows)


def swap_table(variants: Mapping[str, Variant]) -> str:
    """Return quality with own, stale, mean and swapped parameters, with differences to own; empty without any."""
    rows = []
    for variant in variants.values():
        record = variant.records[0]
        if record.tested is None:
            continue
        own = variant.under(OWN)
        names = [name for name in record.answers if name.startswith("stale-") or name in ("mean", "swapped", "shared")]
        chain = [own, *(variant.under(name) for name in sorted(names, key=_order))]
        for above, held in zip([own, *chain], chain, strict=False):
            rows.append(
                [
                    variant.name,
                    held.condition,
                    *(_mean(held, metric) for metric in ("ndcg@10", "uauc")),
                    *(_difference(held, own, metric) for metric in ("ndcg@10", "uauc")),
                    "–" if held.condition == "shared" else _difference(held, above, "ndcg@10"),
                ]
            )
    head = ["variant", "parameters", "NDCG@10", "UAUC", "Δ NDCG@10", "Δ UAUC", "NDCG@10, step"]
    return _table(head, rows) if rows else ""


def _order(condition: str) -> tuple[int, int]:
    """Sort conditions from what should be best to what should be worst, the shared parameters at the end."""
    age = re.fullmatch(r"stale-(\d+)", condition)
    return (0, int(age[1])) if age else (["mean", "swapped", "shared"].index(condition) + 1, 0)


def _served(variants: Mapping[str, Variant]) -> list[Variant]:
    return [variant.under(condition) for variant in variants.values() for condition in variant.served]


def _mean(variant: Variant, metric: str) -> str:
    means = variant.means(metric)
    return with_deviation(sum(means) / len(means), deviation(means), len(means))


def _difference(variant: Variant, other: Variant | None, metric: str, *, group: str | None = None) -> str:
    if other is None or (variant.name == other.name and variant.condition == other.condition):
        return "–"
    return with_interval(variant.minus(other, metric, group=group))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _provenance(records: Sequence[RunRecord]) -> str:
    """Name every commit and machine that the records come from."""
    commits = sorted({str(record.provenance.get("commit", "unknown")) for record in records})
    machines = sorted({str(record.provenance.get("hardware", "unknown")) for record in records})
    return f"Grid `{records[0].grid}`, ranked at commit {', '.join(commits)} on {'; '.join(machines)}."
