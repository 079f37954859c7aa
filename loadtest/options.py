"""The options that the locustfiles share, beside Locust's own."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from loadtest.profiles import SERVER_SHARE_MS, WORLDS, load_mixes
from loadtest.slo import SLO_FILE

_GROUP = "DUET"


def add_common_options(parser: ArgumentParser) -> None:
    """Add what every run may choose: who the devices are, and where the report goes."""
    parser.add_argument("--model", default="demo", help="name of the served model")
    parser.add_argument("--world", default="demo", choices=WORLDS, help="synthetic world that the model was trained on")
    mixes = sorted(load_mixes())
    parser.add_argument("--mix", default="mobile", choices=mixes, help="network mix of loadtest/network_mixes.json")
    parser.add_argument("--server-share-ms", type=float, default=SERVER_SHARE_MS, help="budget beyond the network")
    parser.add_argument("--histories", type=int, default=500, help="different histories that a process draws from")
    parser.add_argument("--retries", type=int, default=2, help="most retries of an update that was shed or lost")
    parser.add_argument(
        "--malformed-share", type=share, default=0.01, help="share of requests that are wrong on purpose"
    )
    parser.add_argument(
        "--oversized-share", type=share, default=0.001, help="share of requests that are larger than a server reads"
    )
    parser.add_argument(
        "--forgetful", action="store_true", help="devices never say what they hold, so that every update is generated"
    )
    parser.add_argument(
        "--api-key",
        default="",
        env_var="DUET_API_KEY",
        is_secret=True,
        help="sent with every request, where the server asks for one",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    # not in the web UI: whoever may start a run there may not write files here
    parser.add_argument(
        "--report", default="", include_in_web_ui=False, help="folder for report.html, report.json and seconds.csv"
    )
    parser.add_argument(
        "--slo",
        default=str(SLO_FILE),
        include_in_web_ui=False,
        help="file of objectives; those of the shape's name count",
    )


def share(text: str) -> float:
    """Read a share."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"Expected a share from 0 to 1, got {text}.")
    return value


def event_command(text: str) -> tuple[str, str]:
    """Read what is to be run at an event."""
    name, separator, command = text.partition("=")
    if not (separator and name and command):
        raise ArgumentTypeError(f"Expected EVENT=COMMAND such as rollover='duet models activate demo v2', got {text}.")
    return name, command


def at_least(smallest: float) -> Callable[[str], float]:
    """Read a number that is not smaller than this one."""

    def read(text: str) -> float:
        value = float(text)
        if not value >= smallest:
            raise ArgumentTypeError(f"Expected at least {smallest:g}, got {text}.")
        return value

    return read


def existing_file(text: str) -> str:
    """Read the path of a file that is there; it stays text, which is what a leading process can send to its workers."""
    if not Path(text).is_file():
        raise ArgumentTypeError(f"Expected a file, got {text}.")
    return text
