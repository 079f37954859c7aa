"""The pin of a model: which version its devices get, which one a share of them tries, and what was tried before.

    <root>/<model>/active    {"version", "previous", "since", "canary", "ended"}

A device belongs to a canary by a hash of model and device id alone, so every gateway decides alike, before a restart
and after it; a larger percentage keeps the devices of a smaller one:

    place = first 8 bytes of SHA-256(model / device), as a share of 2^64        canary if place < percent / 100
"""

import fcntl
import hashlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from duet.protocol.canonical_json import Json, decode_json, encode_json
from duet.protocol.errors import CorruptVersion
from duet.registry.files import replace

PIN_NAME = "active"
_LOCK_NAME = ".active.lock"
_PLACES = 2**64


@dataclass(frozen=True)
class Canary:
    """A version that a share of the devices gets.

    Attributes:
        version: Its name.
        percent: Of the devices, above 0 and below 100.
        since: When this share began to get it, ISO 8601; names this trial among those of the same version.
    """

    version: str
    percent: float
    since: str

    def takes(self, model: str, device: str) -> bool:
        """Whether a device of ``model`` is among them."""
        # no model name has a slash; a lone surrogate, which JSON can carry, is no reason to fail
        digest = hashlib.sha256(f"{model}/{device}".encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.percent / 100 * _PLACES


@dataclass(frozen=True)
class EndedCanary:
    """The last canary that was given up, and why."""

    version: str
    percent: float
    since: str
    ended: str
    reason: str


@dataclass(frozen=True)
class Pin:
    """What the requests of a model are answered with.

    Attributes:
        version: The version that every device gets, or every device outside the canary.
        previous: The one before it, for a rollback.
        since: When ``version`` was pinned, ISO 8601; None if nothing is pinned, or it was by an older library.
        canary: The version that a share of the devices gets.
        ended: The last canary that was given up; it is not tried again by itself.
    """

    version: str
    previous: str | None = None
    since: str | None = None
    canary: Canary | None = None
    ended: EndedCanary | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that requests may ask for, now or after a rollback; the one most in need first."""
        wanted = (self.version, None if self.canary is None else self.canary.version, self.previous)
        return tuple(dict.fromkeys(version for version in wanted if version is not None))

    def without_canary(self, reason: str) -> "Pin":
        """Give the canary up, if there is one."""
        if self.canary is None:
            return self
        canary = self.canary
        ended = EndedCanary(canary.version, canary.percent, canary.since, ended=now(), reason=reason)
        return Pin(self.version, self.previous, self.since, None, ended)


def now() -> str:
    """Name this moment, ISO 8601 in UTC; two moments have two names."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_pin(path: Path, remedy: str) -> Pin | None:
    """Read a pin.

    Args:
        path: Of the file.
        remedy: What to do about one that cannot be read.

    Returns:
        None if nothing is pinned.

    Raises:
        CorruptVersion: If it cannot be read, or is no pin.
    """
    if not path.exists():
        return None
    try:
        value = decode_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise CorruptVersion(path=path, reason=f"the pin cannot be read: {error}", remedy=remedy) from error
    try:
        return _pin(value)
    except (KeyError, TypeError, ValueError) as error:
        reason = "the pin is not of the form {version, previous, since, canary, ended}"
        raise CorruptVersion(path=path, reason=reason, remedy=remedy) from error


def write_pin(path: Path, pin: Pin) -> None:
    """Replace a pin in one step.

    Raises:
        OSError: If the disk refuses.
    """
    replace(path, encode_json(asdict(pin)))


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the pin of a model between our reading and our writing; readers do not wait.

    Raises:
        OSError: If the folder cannot be written.
    """
    with (folder / _LOCK_NAME).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pin(value: Json) -> Pin:
    """Make the pin of what a file says.

    Raises:
        KeyError, TypeError, ValueError: If it says something else.
    """
    fields = _fields(value, {"version", "previous"}, {"since", "canary", "ended"})
    canary, ended = fields.get("canary"), fields.get("ended")
    return Pin(
        version=_text(fields["version"]),
        previous=None if fields["previous"] is None else _text(fields["previous"]),
        since=None if fields.get("since") is None else _text(fields["since"]),
        canary=None if canary is None else _canary(canary),
        ended=None if ended is None else _ended(ended),
    )


def _canary(value: Json) -> Canary:
    fields = _fields(value, {"version", "percent", "since"})
    return Canary(_text(fields["version"]), _percent(fields["percent"]), _text(fields["since"]))


def _ended(value: Json) -> EndedCanary:
    fields = _fields(value, {"version", "percent", "since", "ended", "reason"})
    texts = {name: _text(fields[name]) for name in ("version", "since", "ended", "reason")}
    return EndedCanary(percent=_percent(fields["percent"]), **texts)


def _fields(value: Json, needed: Set[str], possible: Set[str] = frozenset()) -> Mapping[str, Json]:
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | possible:
        raise TypeError(f"expected the fields {sorted(needed | possible)}")
    return value


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.40}")
    return value


def _percent(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
        raise ValueError(f"expected a percentage between 0 and 100, got {value!r:.40}")
    return float(value)
