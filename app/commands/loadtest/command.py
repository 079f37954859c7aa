"""The ``loadtest`` subcommand: capacity in closed loop, then a shape in open loop, then the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.arguments import ModelName, check_models_folder

if TYPE_CHECKING:
    from rich.console import Console


_ROOT = Path(__file__).parents[3]
_SHARE_OF_CAPACITY = {"steady": 0.7, "spike": 0.85, "compressed-day": 0.85}
"""What a load of 1 is where --rate is not given; for the other shapes it is the capacity itself."""


def loadtest(
    shape: Annotated[
        str, typer.Argument(help="How the load goes: step, steady, spike, compressed-day, overload, rollover, ...")
    ] = "step",
    url: Annotated[
        str | None, typer.Option(help="A running server; by default one is brought up for the run, and stopped.")
    ] = None,
    models: Annotated[
        Path, typer.Option("--models", callback=check_models_folder, help="Where the model to serve is published.")
    ] = Path("models"),
    model: ModelName = "demo",
    world: Annotated[str, typer.Option(help="Synthetic world that the model was trained on: demo, tiny.")] = "demo",
    mix: Annotated[str, typer.Option(help="Networks of the devices, a mix of network_mixes.json.")] = "mobile",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Updates a second at a load of 1; by default from the capacity.")
    ] = None,
    stretch: Annotated[float, typer.Option(min=0.001, help="Make all phases longer, or shorter.")] = 1.0,
    server_share_ms: Annotated[float, typer.Option(min=1, help="What a budget leaves to the server.")] = 50.0,
    processes: Annotated[int, typer.Option(min=1, help="Of the load generator; one fills a core.")] = 1,
    locust: Annotated[
        bool,
        typer.Option("--locust", help="Send the shape with Locust, which takes some ten times the processor time."),
    ] = False,
    pin: Annotated[bool, typer.Option(help="Keep generator and server to different cores.")] = True,
    slo: Annotated[Path | None, typer.Option(help="Objectives of your own instead of loadtest/slo.yaml.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the reports; what stands there is replaced.")] = Path(
        "runs/loadtest"
    ),
) -> None:
    """Put the service under load and report what it carries: report.html, report.json, seconds.csv, exit code for CI.

    Brings up a server by itself, finds its capacity with users who wait, then sends what devices would send, whether or
    not it keeps up.
    """
    _find_libraries(with_server=url is None)
    from rich.console import Console

    from loadtest.shapes import load_shapes

    if shape not in (known := load_shapes()):
        raise typer.BadParameter(f"Expected one of {', '.join(known)}, got {shape!r}.", param_hint="SHAPE")
    console = Console(highlight=False, soft_wrap=True)
    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    cores = _cores(processes) if pin and url is None else _Cores()
    options = ["--model", model, "--world", world, "--mix", mix, "--server-share-ms", f"{server_share_ms:g}"]
    options += ["--slo", str(slo.expanduser().absolute())] if slo is not None else []
    generator = _Generator(cores.of_generator, processes, out, options, with_locust=locust)
    further = ["--stretch", f"{stretch:g}"]
    try:
        with _interrupted_by_sigterm(), ExitStack() as started:
            if url is None:
                url, commands = _bring_up(started, models, model, out, cores, console)
                further += [part for name, command in commands.items() for part in ("--on", f"{name}={command}")]
            report = _measure(generator, url, shape, rate=rate, options=further, console=console)
    except RuntimeError as error:
        # a server that did not come up, a generator that wrote no report: the sentence names the log
        typer.echo(f"duet: {error}", err=True)
        raise typer.Exit(1) from error
    _print(report, out / shape / "report.html", console)
    if report["exit_code"]:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Cores:
    of_server: str | None = None
    of_generator: str | None = None


@dataclass(frozen=True)
class _Generator:
    """Processes of its own: Locust may not share one with Ray, and no load should share one with what it measures."""

    cores: str | None
    processes: int
    out: Path
    options: Sequence[str]
    with_locust: bool

    def saturate(self, url: str) -> dict[str, Any]:
        """Find the capacity of a server; return what ``report.json`` says.

        Raises:
            RuntimeError: If there is none.
        """
        return self._run("saturation", ["-m", "loadtest.saturation", "--host", url])

    def shape(self, url: str, name: str, options: Sequence[str]) -> dict[str, Any]:
        """Run a shape against a server; return what ``report.json`` says.

        Raises:
            RuntimeError: If there is none.
        """
        locust = ["locust", "-f", str(_ROOT / "loadtest" / "open_loop.py"), "--headless", "--only-summary"]
        program = locust if self.with_locust else ["loadtest.lean_open_loop"]
        return self._run(name, ["-m", *program, "--host", url, "--shape", name, *options])

    def _run(self, name: str, words: Sequence[str]) -> dict[str, Any]:
        from app.commands.loadtest.service import pinned, stop

        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [*pinned(self.cores), sys.executable, *words, "--report", str(folder), *self.options]
        command += ["--processes", str(self.processes)] if self.processes > 1 else []
        log = folder / "generator.log"
        with log.open("wb") as output:
            running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            running.wait()
        finally:
            stop(running)
        report = folder / "report.json"
        if not report.is_file():
            told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(f"Expected a report, got: {told[-1] if told else 'nothing'} The log is {log}.")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def _measure(
    generator: _Generator, url: str, shape: str, *, rate: float | None, options: Sequence[str], console: "Console"
) -> dict[str, Any]:
    """Find the capacity unless a rate is given, then run the shape; return its report."""
    beside: list[str] = []
    if rate is None:
        console.print("[bold]Capacity[/]: ever more users without pauses, who wait for their replies.")
        found = generator.saturate(url)["saturation"]
        page = generator.out / "saturation" / "report"
        if found["capacity_rps"] <= 0:
            raise RuntimeError(f"Expected updates in time, got none. Read {page}.html.")
        console.print(f"   {found['capacity_rps']:,.0f} updates a second in time")
        if found["generator_was_limit"]:
            console.print("   [red]The load generator was the limit: the server can do more.[/] Use --processes.")
        rate = _SHARE_OF_CAPACITY.get(shape, 1.0) * found["capacity_rps"]
        beside = ["--saturation", f"{page}.json"]
    console.print(f"[bold]{shape}[/]: {rate:,.0f} updates a second at a load of 1, whether or not replies come.")
    return generator.shape(url, shape, ["--rate", f"{rate:.6g}", *beside, *options])


def _find_libraries(*, with_server: bool) -> None:
    for library in ("locust", *(("fastapi", "ray", "torch") if with_server else ())):
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)


def _cores(processes: int) -> _Cores:
    """Give the generator the last cores, one a process, and the server the others."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(available) <= processes or shutil.which("taskset") is None:
        return _Cores(None, None)
    last = len(available) - processes
    return _Cores(",".join(map(str, available[:last])), ",".join(map(str, available[last:])))


def _bring_up(
    started: ExitStack, models: Path, model: str, out: Path, cores: _Cores, console: "Console"
) -> tuple[str, dict[str, str]]:
    """Start a server; return its address, and how to make happen what shapes may ask for."""
    from app.commands.loadtest.service import COPY, copies, serving, small_version
    from duet.registry import Registry

    models = models.expanduser().absolute()
    if not Registry(models).models():
        models = small_version(out, model, console)
    folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="duet-loadtest-")))
    registry = copies(models, model, folder)
    places = f"cores {cores.of_server}" if cores.of_server else "all cores"
    console.print(f"[bold]Service[/]: {model} {Registry(models).active(model)} from {models}, on {places}.")
    service = started.enter_context(serving(registry.root, model, out, cores=cores.of_server, options=()))
    kept = f"the generator has core {cores.of_generator}" if cores.of_generator else "no core for the generator alone"
    console.print(f"   {service.url}; {kept}")
    duet = f"{sys.executable} -c 'from app.commands import main; main()'"
    return service.url, {
        "rollover": f"{duet} models activate {model} {COPY} --models {registry.root}",
        "replica-kill": f"kill -KILL {service.gateway_pid()}",
    }


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """End at SIGTERM as at Ctrl-C, stopping what was started; once, so that nothing cuts the end short."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print(report: dict[str, Any], page: Path, console: "Console") -> None:
    from rich.table import Table

    from loadtest.words import told, written

    table = Table("objective", "measured", "limit", "", box=None, header_style="bold")
    for row in report["checks"]:
        measured = "–" if row["measured"] is None else written(row["figure"], row["measured"])
        verdict = "[green]pass[/]" if row["holds"] else "[red]fail[/]"
        table.add_row(told(row["figure"]), measured, row["limit"], verdict)
    console.print(table)
    console.print(report["headline"])
    typer.echo(f"Report: {page}")
