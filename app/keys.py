"""API keys: what a key is, the file of their hashes, and whether a request carries a valid one.

A key is ``duet_ID_SECRET`` with 256 random bits of secret; the file holds its id and its SHA-256, a JSON object a line:

    {"id": "5f0c2a91", "sha256": "9b74…", "rate_per_s": 50.0, "burst": 100, "expires": "2027-01-31T00:00:00Z"}

A guess among 2^256 is hopeless however fast it is hashed, so the hash need not be slow (docs/decisions/0012).
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.followed_file import FollowedFile
from app.rate_limits import Rate, RateLimits
from duet.protocol.access_errors import InvalidKeyFile, Unauthorized
from duet.protocol.private_file import read_private, write_private

MAX_KEYS = 10_000
"""More than anybody manages by hand; a file is read in the event loop, so its length is a pause of everybody's."""

_PREFIX = "duet"
_SECRET_BYTES, _ID_BYTES = 32, 4
_MAX_KEY_BYTES = 256
_SCHEME = b"bearer "
_NOBODY = hashlib.sha256(b"no key has this hash").digest()
_REMEDY = "Write the file with `duet keys`."


class ApiKey(BaseModel):
    """One line of the file."""

    # a key that was pasted here by mistake must not end up in a log
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[a-z0-9-]{1,32}$", description="Stands in the key and in logs; no secret.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole key, hexadecimal.")
    label: str = Field(default="", max_length=64, description="Whose it is, in words.")
    rate_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Requests a second.")
    burst: int | None = Field(default=None, ge=1, description="Requests at once; one second's worth by default.")
    expires: AwareDatetime | None = Field(default=None, description="From when on it is refused.")

    @model_validator(mode="after")
    def _burst_needs_a_rate(self) -> "ApiKey":
        if self.burst is not None and self.rate_per_s is None:
            raise ValueError("a burst limits nothing without rate_per_s")
        return self

    @property
    def rate(self) -> Rate | None:
        """What it may send, if that is limited."""
        if self.rate_per_s is None:
            return None
        return Rate(self.rate_per_s, self.burst or max(1, math.ceil(self.rate_per_s)))

    def is_expired(self, now: datetime) -> bool:
        """Whether it is refused by now."""
        return self.expires is not None and now >= self.expires


def create_key(
    *,
    label: str = "",
    rate_per_s: float | None = None,
    burst: int | None = None,
    expires: datetime | None = None,
    taken: Iterable[str] = (),
) -> tuple[str, ApiKey]:
    """Draw a key.

    Args:
        label: Whose it is.
        rate_per_s: Requests a second; no limit when None.
        burst: Requests at once.
        expires: From when on it is refused, with a time zone; never when None.
        taken: Ids of other keys.

    Returns:
        The key, which is told once and kept nowhere, and its line for the file.
    """
    others = set(taken)
    while (name := secrets.token_hex(_ID_BYTES)) in others:
        pass
    text = f"{_PREFIX}_{name}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text, ApiKey(id=name, sha256=digest, label=label, rate_per_s=rate_per_s, burst=burst, expires=expires)


def read_keys(path: Path) -> Mapping[str, ApiKey]:
    """Read a file of keys, by id. An empty one lets nobody in.

    Raises:
        InvalidKeyFile: If a line is no key, or two have the same id.
        OSError: If it cannot be read.
    """
    keys: dict[str, ApiKey] = {}
    try:
        lines = read_private(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidKeyFile(
            path=path, line=None, expected="UTF-8 text", received="other bytes", remedy=_REMEDY
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key = _read_line(path, number, line)
        if key.id in keys:
            raise InvalidKeyFile(
                path=path, line=number, expected="an id of its own", received=f"{key.id} again", remedy="Remove one."
            )
        keys[key.id] = key
    if len(keys) > MAX_KEYS:
        received, remedy = f"{len(keys):,}", "Revoke the expired ones."
        raise InvalidKeyFile(
            path=path, line=None, expected=f"at most {MAX_KEYS:,} keys", received=received, remedy=remedy
        )
    return MappingProxyType(keys)


def write_keys(path: Path, keys: Iterable[ApiKey]) -> None:
    """Write a file of keys whole, readable by its owner alone; a server that follows it sees the old one or the new."""
    lines = (key.model_dump_json(exclude_defaults=True) for key in keys)
    write_private(path, "".join(f"{line}\n" for line in lines))


class Keyring:
    """Who may ask, and how often. Belongs to one event loop; costs a request some microseconds."""

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Read the file of keys; a change of it counts from the next second on.

        Args:
            path: The file.
            clock: Seconds that never go back, for rates.
            now: Seconds since 1970, for expiry.

        Raises:
            InvalidKeyFile: If it is none.
            OSError: If it cannot be read.
        """
        self._file = FollowedFile(path, read_keys, clock=clock)
        self._keys: Mapping[str, _Held] = {}
        self._read_from: Mapping[str, ApiKey] | None = None
        self._now, self._limits = now, RateLimits(clock)

    def admit(self, authorization: bytes | None) -> None:
        """Let a request in.

        Args:
            authorization: Value of its header ``Authorization``.

        Raises:
            Unauthorized: If it carries no valid key.
            RateLimited: If its key has sent too many.
        """
        presented = _presented(authorization)
        held = self._held().get(_id_of(presented))
        # an id that nobody has costs the same comparison
        is_right = hmac.compare_digest(hashlib.sha256(presented).digest(), _NOBODY if held is None else held.digest)
        if held is None or not is_right or self._now() >= held.expires_s:
            raise Unauthorized
        if held.rate is not None:
            self._limits.take(held.id, held.rate)

    def _held(self) -> Mapping[str, "_Held"]:
        keys = self._file.content()
        if keys is not self._read_from:
            self._read_from, self._keys = keys, {name: _Held(key) for name, key in keys.items()}
            self._limits.keep(keys.keys())
        return self._keys


class _Held:
    """A line of the file, ready to be compared."""

    __slots__ = ("digest", "expires_s", "id", "rate")

    def __init__(self, key: ApiKey) -> None:
        self.id, self.digest, self.rate = key.id, bytes.fromhex(key.sha256), key.rate
        self.expires_s = math.inf if key.expires is None else key.expires.timestamp()


def _presented(authorization: bytes | None) -> bytes:
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    key = authorization[len(_SCHEME) :].strip()
    return key if len(key) <= _MAX_KEY_BYTES else b""


def _id_of(presented: bytes) -> str:
    parts = presented.split(b"_", 2)
    return parts[1].decode("ascii", "replace") if len(parts) == 3 else ""


def _read_line(path: Path, number: int, line: str) -> ApiKey:
    try:
        return ApiKey.model_validate_json(line)
    except ValidationError as error:
        mistakes = [
            f"{'.'.join(map(str, mistake['loc'])) or 'the line'}: {mistake['msg']}"
            for mistake in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidKeyFile(
            path=path, line=number, expected="a key as JSON", received="; ".join(mistakes), remedy=_REMEDY
        ) from error
