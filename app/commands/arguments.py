"""What several subcommands take: the folder of models, a server, a sample, a link; and how their text is read."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from duet.protocol.budget import Link
    from duet.protocol.signing import SigningKey


# as a log is read: anything else, 0115 or +5, is text
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
# what needs no quotes, neither of the shell nor of JSON
_PLAIN = re.compile(r"[A-Za-z0-9_.:+][A-Za-z0-9_.:+-]*")
_PRINTABLE = re.compile(r"[!-~]+")


def _check_api_key(key: str | None) -> str | None:
    if key is not None and not _PRINTABLE.fullmatch(key):
        raise typer.BadParameter("Expected an API key of printable ASCII characters without spaces.")
    return key


def _check_url(url: str) -> str:
    from duet.device.cloud import check_url

    try:
        check_url(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return url


def check_models_folder(folder: Path | None) -> Path | None:
    """Refuse a file where the model repository belongs; a folder need not exist yet.

    Raises:
        typer.BadParameter: If it is one.
    """
    if folder is not None and folder.expanduser().is_file():
        raise typer.BadParameter(
            f"Expected the folder of published models, got the file {str(folder)!r}. "
            "A log of interactions belongs to `duet train --data`."
        )
    return folder


ModelsFolder = Annotated[
    Path,
    typer.Option("--models", callback=check_models_folder, help="The model repository: one folder a model."),
]
ModelName = Annotated[str, typer.Option("--model", help="Name of a published model.")]
ServerUrl = Annotated[str, typer.Option("--url", callback=_check_url, help="Where `duet serve` listens.")]
SampleText = Annotated[
    str,
    typer.Option(
        "--sample",
        help="What the device sends: item ids of your log, oldest first ('1,2,3'), any JSON, or @FILE with either.",
    ),
]
Sends = Annotated[
    Literal["sample", "embedding"],
    typer.Option(
        "--sends",
        help="What goes up: the sample, or the embedding that the version's encoder makes of it here.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="DUET_API_KEY",
        callback=_check_api_key,
        show_default=False,
        help="Where the server asks for one. Better in the variable: other users see the options of a process.",
    ),
]
SigningKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        envvar="DUET_SIGNING_KEY",
        help="File of signing keys: believe only what is signed with one of them.",
    ),
]
BudgetMs = Annotated[
    float,
    typer.Option("--budget-ms", min=1, max=10_000, help="From sending to the last byte received, in milliseconds."),
]
LinkText = Annotated[
    str,
    typer.Option(
        "--link",
        help="The device's connection: slow-3g, slow-4g, fast-4g, lte, wifi, 5g, or DOWN/UP/RTT (kbit/s, kbit/s, ms).",
    ),
]


def read_signing_keys(file: Path | None) -> "tuple[SigningKey, ...]":
    """Read the keys that a package must be signed with; none where no file is named.

    Raises:
        InvalidKeyFile: If the file holds none.
        OSError: If it cannot be read.
    """
    from duet.protocol import signing

    return () if file is None else signing.read_signing_keys(file.expanduser())


def read_sample(text: str, *, item_type: str = "any") -> object:
    """Read a sample from the command line.

    Args:
        text: JSON; or item ids between commas or line ends, where what an integer is written as is one (``115``, not
            ``0115``); or ``@`` and a file.
        item_type: What the signature of the model calls an id; ``"string"`` keeps the ids between commas text.

    Raises:
        InvalidSample: If there is nothing in it, it is no text, or it starts like JSON and is none.
    """
    from duet.protocol.errors import InvalidSample

    source = text
    if text.startswith("@"):
        try:
            text = Path(text[1:]).expanduser().read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidSample(
                expected="UTF-8 text", received=f"{source!r} ({error})", remedy="Save it so."
            ) from error
        except OSError as error:
            raise InvalidSample(
                expected="in a file that can be read",
                received=f"{source!r} ({error.strerror})",
                remedy="Check the path behind the @.",
            ) from error
    text = text.strip()
    if text.startswith(("[", "{")):
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InvalidSample(
                expected="JSON, as it starts with a bracket",
                received=f"{source!r} ({error})",
                remedy="""Write ids as '[1, 2]' or '["a", "b"]', or without brackets: 'a,b'.""",
            ) from error
    ids = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if not ids:
        raise InvalidSample(expected="at least one item id", received=repr(source), remedy="Try --sample 1,2,3.")
    if item_type == "string":
        return ids
    return [int(part) if _INTEGER.fullmatch(part) else part for part in ids]


def sample_text(ids: Sequence[str | int]) -> str:
    """Write ids as what a shell passes to ``--sample``."""
    texts = [str(raw) for raw in ids]
    if all(_PLAIN.fullmatch(text) for text in texts):
        return ",".join(texts)
    return shlex.quote(json.dumps(list(ids), ensure_ascii=False))


def read_link(text: str) -> "str | Link":
    """Read a link from the command line.

    Returns:
        The name of a profile, or the link that the three numbers describe.

    Raises:
        InvalidRequest: If it is neither.
    """
    from duet.protocol.budget import FASTEST_KBPS, PROFILES, SLOWEST_KBPS, Link
    from duet.protocol.errors import InvalidRequest

    if text in PROFILES:
        return text
    try:
        down_kbps, up_kbps, rtt_ms = (float(part) for part in text.split("/"))
        return Link(down_kbps, up_kbps, rtt_ms)
    except ValueError as error:
        raise InvalidRequest(
            detail=f"Expected a link, {', '.join(PROFILES)} or DOWN/UP/RTT such as 9000/1500/60 (kbit/s, kbit/s, ms; "
            f"rates of {SLOWEST_KBPS:g} to {FASTEST_KBPS:g}, a round trip of at least 0), got {text!r}."
        ) from error


def _refuse_constant(name: str) -> object:
    # Python reads and writes NaN and Infinity, which no JSON has
    raise ValueError(f"{name} is not JSON")
