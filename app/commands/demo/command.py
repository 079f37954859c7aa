"""The ``demo`` subcommand: train small, publish, serve, let held-out devices call over HTTP, and report."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.serve import find_server

if TYPE_CHECKING:
    from rich.console import Console

    from app.commands.demo.devices import Moment
    from app.commands.demo.report import Findings
    from duet.data.interactions import Interactions
    from duet.data.splits import Split
    from duet.registry import PublishedVersion, Registry
    from duet.training.config import TrainingConfig

MODEL = "demo"
LAG = 20
MOMENTS = 4
BUDGET_MS = 200.0
LINK = "lte"
WORKERS = 2
ASKED_PER_LINK = 40
REPORT = "report.html"
PARTS = frozenset({"run", "models", "device-cache", REPORT})


def demo(
    data: Annotated[
        str | None,
        typer.Option(help="Your own log instead of the synthetic world, e.g. ml-100k/u.data. See docs/data.md."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--out", help="Where run, model and report go; an earlier demo there is replaced.")
    ] = Path("runs/demo"),
    devices: Annotated[int, typer.Option(min=2, help="Most held-out devices to simulate.")] = 300,
    quick: Annotated[bool, typer.Option("--quick", help="Two epochs, 30 devices: shows that it runs.")] = False,
) -> None:
    """Watch a phone's model get better: train, publish, serve, generate over HTTP, apply on ONNX Runtime, compare.

    With the synthetic world it takes under three minutes on two cores. The server listens on a free port of 127.0.0.1.
    """
    find_server()
    from rich.console import Console
    from rich.markup import escape

    from app.commands.demo.report import write_report
    from app.commands.train import load_data
    from duet.registry import Registry
    from duet.training.tasks import split_of

    console = Console(highlight=False)
    started = time.perf_counter()
    config = _config(data, quick=quick)
    interactions = load_data(config.data, seed=config.seed)
    split = split_of(config, interactions)
    lives = _lives(split, 30 if quick else devices, length=config.sample_length)
    _empty(folder)
    console.print(
        f"[bold]1. Train[/] on {escape(interactions.name)}: {interactions.user_count:,} users, "
        f"{interactions.item_count:,} items, {len(interactions.items):,} interactions; "
        f"{config.data.unseen_share:.0%} of the users are kept out, as new devices."
    )
    _train(config, interactions, folder / "run", console)
    console.print("[bold]2. Publish[/] with the quality of every representation measured through bytes and ONNX.")
    registry = Registry(folder / "models")
    published = _publish(folder / "run", interactions, registry, console, quick=quick)
    findings = _serve_and_visit(config, published, lives, dataset=interactions.name, folder=folder, console=console)
    report = folder / REPORT
    write_report(report, findings)
    _print_findings(findings, console)
    typer.echo(f"\nReport with plots: {report}  ({time.perf_counter() - started:.0f} s in all)")


def _lives(split: "Split", devices: int, *, length: int) -> "list[list[Moment]]":
    """Choose the held-out users that become devices, and the moments at which they ask.

    Raises:
        DatasetTooSmall: If none of them has a history that is long enough.
    """
    from app.commands.demo.devices import moments_of
    from duet.protocol.errors import DatasetTooSmall

    lives = [moments_of(split, int(user), count=MOMENTS, lag=LAG, length=length) for user in split.unseen]
    lives = [moments for moments in lives if moments][:devices]
    if not lives:
        raise DatasetTooSmall(
            what=f"users with more than {LAG + 1} interactions among the {len(split.unseen)} that are kept out of "
            "training, for the demo to simulate",
            count=0,
            needed=1,
        )
    return lives


def _empty(folder: Path) -> None:
    """Remove what an earlier demo left in the folder, and nothing else.

    Raises:
        UnusableRun: If the folder holds anything that no demo wrote.
    """
    from duet.protocol.errors import UnusableRun

    strangers = [path.name for path in folder.iterdir() if path.name not in PARTS] if folder.is_dir() else []
    if strangers or folder.is_file():
        raise UnusableRun(
            path=folder,
            reason=f"it holds {strangers[0] if strangers else 'a file'}, which no demo wrote",
            remedy="Choose another folder with --out.",
        )
    for name in PARTS - {REPORT}:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / REPORT).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def _config(data: str | None, *, quick: bool) -> "TrainingConfig":
    from app.commands.train import resolve_config

    settings = ["optimisation.max_epochs=2"] if quick else []
    return resolve_config(Path(__file__).parents[3] / "duet/training/configs/demo.yaml", settings, data=data)


def _train(config: "TrainingConfig", interactions: "Interactions", run: Path, console: "Console") -> None:
    import torch

    from app.commands.progress import TrainingProgress
    from duet.training.loop import train

    # the layers are too small for a second thread to pay, and on a busy machine it costs
    torch.set_num_threads(1)
    with TrainingProgress(console, every_epoch=False) as progress:
        result = train(config, interactions, run, observer=progress.observer)
    console.print(
        f"   best epoch {result.best_epoch} of {result.epoch} by validation NDCG@10 ({result.best_value:.4f}), "
        f"{result.seconds:.0f} s"
    )


def _publish(
    run: Path, interactions: "Interactions", registry: "Registry", console: "Console", *, quick: bool
) -> "PublishedVersion":
    from app.commands.progress import bar
    from duet.publishing import Observer, publish

    with bar(console) as progress:
        task = progress.add_task("Publishing", total=None)
        published = publish(
            run,
            interactions,
            registry,
            MODEL,
            quality_users=60 if quick else 400,
            observer=Observer(
                on_stage=lambda stage, total: progress.update(
                    task, description=stage, total=total or None, completed=0
                ),
                on_measured=lambda: progress.advance(task),
            ),
        )
    typer.echo(f"   {published.folder}, {len(published.manifest.representations)} representations")
    return published


def _serve_and_visit(
    config: "TrainingConfig",
    published: "PublishedVersion",
    lives: "list[list[Moment]]",
    *,
    dataset: str,
    folder: Path,
    console: "Console",
) -> "Findings":
    from app.commands.demo.devices import ask_with_link, silence_expected_failures, simulate
    from app.commands.demo.ground_truth import ground_truth
    from app.commands.demo.report import Findings
    from app.commands.demo.summary import delivery_of, quality_of, typical_gain
    from app.commands.progress import bar
    from app.server import start
    from app.settings import AppSettings
    from duet.protocol.budget import PROFILES

    console.print("[bold]3. Serve[/] on Ray Serve, all stages in one replica.")
    cache = folder / "device-cache"
    silence_expected_failures()
    with start(AppSettings(models=str(folder / "models"), model=MODEL), port=0) as server, bar(console) as progress:
        console.print(f"   {server.url}")
        console.print(
            f"[bold]4. Devices[/]: {len(lives)} of the users that were kept out ask over HTTP and rank locally."
        )
        task = progress.add_task("Devices", total=len(lives))
        visits = simulate(
            server.url,
            MODEL,
            lives,
            cache=cache,
            link=LINK,
            budget_ms=BUDGET_MS,
            workers=WORKERS,
            on_device=lambda: progress.advance(task),
        )
        samples = [moments[0].history for moments in lives[:ASKED_PER_LINK]]
        deliveries = [
            delivery_of(
                link,
                ask_with_link(server.url, MODEL, samples, cache=cache, link=link, budget_ms=BUDGET_MS),
                budget_ms=BUDGET_MS,
            )
            for link in PROFILES
        ]
    complete = [visit for visit in visits if visit.is_complete]
    if not complete:
        raise next(update.error for visit in visits for update in visit.updates if update.error is not None)
    if len(complete) < len(visits):
        console.print(
            f"   [red]{len(visits) - len(complete)} of {len(visits)} visits had a failed update; left out.[/]"
        )
    return Findings(
        model=f"{MODEL} {published.version}",
        dataset=dataset,
        budget_ms=BUDGET_MS,
        lag=LAG,
        quality=quality_of(complete),
        records=published.manifest.representations,
        deliveries=deliveries,
        example=typical_gain(complete),
        ground_truth=ground_truth(
            config.data.source, config.seed, [visit.moment for visit in complete], window=config.sample_length
        ),
    )


def _print_findings(findings: "Findings", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    from duet.protocol.budget import PROFILES

    quality = findings.quality
    console.print(
        f"\n[bold]Ranking quality[/] on {quality.devices} devices, {quality.visits} rankings, whole catalogue"
    )
    table = Table("parameters", "NDCG@10", "95 % interval", "HR@10", box=None, header_style="bold")
    for kind, name in (("shared", "shared"), ("stale", f"stale ({findings.lag} interactions)"), ("fresh", "fresh")):
        mean, low, high = quality.ndcg[kind]
        table.add_row(name, f"{mean:.4f}", f"{low:.4f} to {high:.4f}", f"{quality.hits[kind]:.4f}")
    console.print(table)
    for name, (mean, low, high) in (
        ("fresh - shared", quality.fresh_minus_shared),
        ("fresh - stale", quality.fresh_minus_stale),
    ):
        console.print(f"{name}: {mean:+.4f} NDCG@10, 95 % interval {low:+.4f} to {high:+.4f}")
    if findings.ground_truth:
        console.print(findings.ground_truth)
    console.print(
        f"\n[bold]An update[/], budget {findings.budget_ms:g} ms: p50 / p95 in ms, server measured, network modelled"
    )
    columns = ("network", "plan", "bytes", "server", "network", "delivered", "in time")
    table = Table(*columns, box=None, header_style="bold")
    for d in findings.deliveries:
        if d.refusal is not None:
            table.add_row(d.link, "none fits", "", "", f"{PROFILES[d.link].rtt_ms:.0f} or more", "", "0%")
            continue
        table.add_row(
            d.link,
            d.plans[0][0],
            f"{d.bytes_down:,.0f}",
            f"{d.server_ms[0]:.1f} / {d.server_ms[1]:.1f}",
            f"{d.network_ms:.1f}",
            f"{d.delivered_ms[0]:.0f} / {d.delivered_ms[1]:.0f}",
            f"{d.within_budget:.0%}",
        )
    console.print(table)
    for d in findings.deliveries:
        if d.refused and d.refusal is None:
            console.print(f"{d.link}: {d.refused} more were refused, {escape(d.reason)}")
    console.print(
        f"\n[bold]The top 10[/]: with fresh parameters the next item enters it in {quality.entered:,} of "
        f"{quality.visits:,} rankings, and leaves it in {quality.left:,}"
    )
    example = findings.example
    console.print(
        f"\n[bold]One device[/]: its next item moves from rank {example.shared:g} to rank {example.fresh:g} "
        "(of those that entered the top 10, the median gain)"
    )
    table = Table("", "shared parameters", "generated for this device", box=None, header_style="bold")
    for place in range(len(example.after)):
        row = [
            f"[bold green]{escape(ranking.titles[place])} <-[/]"
            if ranking.ids[place] == example.moment.following
            else escape(ranking.titles[place])
            for ranking in (example.before, example.after)
        ]
        table.add_row(str(place + 1), *row)
    console.print(table)
