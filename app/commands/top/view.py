"""How ``duet top`` looks: numbers as text for a terminal of 80 columns or more."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.commands.top.numbers import STAGES, Numbers, Quantiles

_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR_CELLS = 16
_STALE_S = 15.0
_SHOWN_SHARES = 6
_MANY = 100
_NAME_CELLS, _VALUE_CELLS = 16, 20


def view(numbers: Numbers, *, url: str, history: Sequence[Numbers] = (), problem: str = "") -> RenderableType:
    """Draw one moment.

    Args:
        numbers: Of the window that ends now.
        url: The server.
        history: The windows before, oldest first.
        problem: Why the numbers are not the present ones; empty if they are.
    """
    rows: list[RenderableType] = [_header(numbers, url), _replicas(numbers)]
    if problem:
        rows.append(Text(problem, style="bold red"))
    rows += [_facts(numbers), Text(), _times(numbers), Text(), _mixes(numbers)]
    if len(history) > 1:
        rows += [Text(), _curves([*history, numbers])]
    return Group(*rows)


def _header(numbers: Numbers, url: str) -> Text:
    header = Text.assemble(("duet top ", "bold"), url)
    for model, versions in numbers.versions.items():
        header.append(f"   {model} ")
        header.append(" and ".join(versions), style="bold" if len(versions) == 1 else "bold yellow")
    header.append(f"   last {_span(numbers.window_s)}")
    if numbers.age_s > _STALE_S:
        header.append(f"   values are {_span(numbers.age_s)} old", style="yellow")
    return header


def _replicas(numbers: Numbers) -> Text:
    """Name what runs: the gateways that report, and Ray Serve's own count where it is there."""
    counts = numbers.replicas or {"Gateway": numbers.gateways}
    line = Text(",  ".join(f"{deployment} {count}" for deployment, count in counts.items()), style="dim")
    if counts.get("Gateway", 0) != numbers.gateways:
        line.append(f"   ({numbers.gateways} report)", style="yellow")
    return line


def _facts(numbers: Numbers) -> Table:
    table = Table.grid(padding=(0, 1))
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True, min_width=_NAME_CELLS)
        table.add_column(no_wrap=True, min_width=_VALUE_CELLS, style="bold")
    refused, missed = numbers.rungs.get("refused", 0.0), numbers.late + numbers.missed
    share = f" ({numbers.goodput / numbers.requests:.1%})" if numbers.requests else ""
    close = None if numbers.dishonest_share is None else 1 - numbers.dishonest_share
    slack_ms = numbers.slack["p5"]
    rows: list[tuple[str | Text, ...]] = [
        ("requests", _rate(numbers.requests), "goodput", _rate(numbers.goodput) + share),
        ("refused", _red(_rate(refused), refused > 0), "deadline misses", _red(_rate(missed), missed > 0)),
        ("sent", f"{_bytes(numbers.response_bytes)}/s", "slack p5", _red(_ms(slack_ms), (slack_ms or 0.0) < 0)),
        ("queue", f"{numbers.queue_length:.0f}", "predicted wait", _ms(numbers.predicted_wait)),
        ("batch size", _plain(numbers.batch_mean), "batches", _rate(numbers.batches)),
        ("predictions kept", _percent(close), "off by, p95", _ms(numbers.prediction_error["p95"])),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _curves(history: Sequence[Numbers]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", min_width=_NAME_CELLS)
    table.add_column(style="cyan")
    table.add_row("requests/s", _sparkline([past.requests for past in history]))
    table.add_row("server p95", _sparkline([past.server["p95"] or 0.0 for past in history]))
    table.add_row("refused/s", _sparkline([past.rungs.get("refused", 0.0) for past in history]))
    return table


def _times(numbers: Numbers) -> Table:
    table = Table("milliseconds", box=None, pad_edge=False, header_style="bold")
    for name in ("p50", "p95", "p99"):
        table.add_column(name, justify="right", min_width=9)
    table.add_column("p95", header_style="dim")
    rows = {"server": numbers.server, **{f"  {stage}": numbers.stages[stage] for stage in STAGES}}
    longest = max((row["p95"] or 0.0 for row in rows.values()), default=0.0)
    for name, row in rows.items():
        style = "" if name.startswith(" ") else "bold"
        table.add_row(Text(name, style), *_cells(row), _bar((row["p95"] or 0.0) / longest if longest else 0.0))
    table.add_row("refusal", *_cells(numbers.refused), "")
    return table


def _mixes(numbers: Numbers) -> Table:
    table = Table.grid(padding=(0, 4))
    for _ in range(3):
        table.add_column(vertical="top")
    table.add_row(
        _shares("plan", numbers.plans), _shares("rung", numbers.rungs), _shares("refused for", numbers.refusals)
    )
    return table


def _shares(title: str, rates: Mapping[str, float]) -> Table:
    table = Table(title, "", box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.columns[1].justify = "right"
    whole = sum(rates.values())
    shown = list(rates.items())[:_SHOWN_SHARES]
    rest = whole - sum(rate for _, rate in shown)
    for name, rate in [*shown, *([("others", rest)] if len(rates) > _SHOWN_SHARES else [])]:
        table.add_row(name, f"{rate / whole:.1%}")
    if not rates:
        table.add_row(Text("none", style="dim"), "")
    return table


def _red(text: str, is_red: bool) -> Text:
    return Text(text, "bold red" if is_red else "bold")


def _cells(row: Quantiles) -> list[str]:
    return ["–" if row[name] is None else f"{row[name]:,.2f}" for name in ("p50", "p95", "p99")]


def _bar(share: float) -> Text:
    return Text("━" * round(share * _BAR_CELLS), style="cyan")


def _sparkline(values: Sequence[float]) -> str:
    top = max(values, default=0.0)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1)) if top else 0] for value in values)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= _MANY or rate == 0 else f"{rate:.1f}/s"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} ms"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
