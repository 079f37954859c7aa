"""``duet top``: a running server, live in a terminal, or as one snapshot for scripts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.arguments import ApiKey, ServerUrl

if TYPE_CHECKING:
    from app.commands.top.numbers import Numbers
    from app.commands.top.scrape import Scraper, Snapshot

PATIENCE_S = 30.0
"""How long the first values of a server that has just started are waited for."""

HISTORY = 30
"""Windows that the small curves show."""


def top(
    url: ServerUrl = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option("--model", help="Only this model; all by default.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Where metrics are exported; asked of the server by default. Repeatable.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    window: Annotated[float, typer.Option(min=1.0, help="Seconds that rates and quantiles are of.")] = 10.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot, since the server's start, and exit.")
    ] = False,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a line each time.")] = False,
) -> None:
    """Show a running server: requests, goodput, latency by stage, plans, refusals. Ctrl-C ends it."""
    import sys

    from app.commands.top.scrape import Scraper

    scraper = Scraper(url, metrics or (), api_key=api_key)
    try:
        if once or not (json or sys.stdout.isatty()):
            _print(_first(scraper, interval, model), url=url, json=json)
        elif json:
            for numbers, problem in _windows(scraper, interval, window, model):
                if problem:
                    typer.echo(f"duet: {problem}", err=True)
                else:
                    _print(numbers, url=url, json=True)
        else:
            _live(scraper, url, interval, window, model)
    except KeyboardInterrupt:
        # the way to leave
        return
    finally:
        scraper.close()


def _first(scraper: "Scraper", interval_s: float, model: str | None) -> "Numbers":
    """Wait for values, which reach the endpoint some seconds after the server's start.

    Raises:
        ConnectionError: If nobody listens, or there are none.
    """
    import time

    from app.commands.top.numbers import numbers_of
    from app.commands.top.scrape import Snapshot

    snapshot = scraper.scrape()
    deadline = time.monotonic() + PATIENCE_S
    while not snapshot.gateways:
        if time.monotonic() > deadline:
            raise ConnectionError(
                f"Expected metrics of a gateway within {PATIENCE_S:g} s, got none. Look into the log of the server."
            )
        time.sleep(interval_s)
        snapshot = scraper.scrape()
    return numbers_of(Snapshot(), snapshot, now_s=time.time(), model=model)


def _windows(
    scraper: "Scraper", interval_s: float, window_s: float, model: str | None
) -> "Iterator[tuple[Numbers, str]]":
    """Look again and again: the window that ends now, or the last one and why there is no newer one."""
    import time
    from collections import deque

    from app.commands.top.numbers import numbers_of

    numbers = _first(scraper, interval_s, model)
    yield numbers, ""
    past: deque[tuple[float, Snapshot]] = deque([(time.monotonic(), scraper.scrape())])
    while True:
        time.sleep(interval_s)
        try:
            snapshot = scraper.scrape()
        except ConnectionError as error:
            yield numbers, str(error)
            continue
        if _has_moved(past[-1][1], snapshot):
            past.append((time.monotonic(), snapshot))
            while len(past) > 2 and past[-1][0] - past[1][0] >= window_s:
                past.popleft()
            numbers = numbers_of(past[0][1], snapshot, now_s=time.time(), model=model)
        yield (
            numbers,
            "" if snapshot.gateways else "The server exports no values: it starts, or its gateways have ended.",
        )


def _has_moved(before: "Snapshot", now: "Snapshot") -> bool:
    """Whether there are values that are newer: between two exports a scrape finds the same ones again."""
    earlier = before.gateways
    return any(name not in earlier or series.read_s > earlier[name].read_s for name, series in now.gateways.items())


def _live(scraper: "Scraper", url: str, interval_s: float, window_s: float, model: str | None) -> None:
    from collections import deque

    from rich.console import Console
    from rich.live import Live

    from app.commands.top.view import view

    console = Console()
    windows = _windows(scraper, interval_s, window_s, model)
    with console.status("Reading the first values", spinner="dots"):
        numbers, problem = next(windows)
    history: deque[Numbers] = deque(maxlen=HISTORY)
    with Live(view(numbers, url=url), console=console, screen=True, auto_refresh=False) as live:
        for numbers, problem in windows:
            live.update(view(numbers, url=url, history=list(history), problem=problem), refresh=True)
            if not problem and (not history or history[-1] is not numbers):
                history.append(numbers)


def _print(numbers: "Numbers", *, url: str, json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console

    from app.commands.top.view import view

    if json:
        typer.echo(dumps(asdict(numbers)))
    else:
        Console(highlight=False).print(view(numbers, url=url))
