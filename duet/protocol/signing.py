"""Signatures of what the cloud sends: HMAC-SHA-256 over the body, under a key that cloud and device share.

    Duet-Signature: hmac-sha256=<64 hexadecimal digits>; key=<id>

A file of signing keys holds one JSON object a line, ``{"id": "2026-11", "secret": "<base64url>"}``. The cloud signs
with the first; a device believes every key that it has. ``docs/protocol.md`` says what is signed.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from duet.protocol.access_errors import ForgedPackage, InvalidKeyFile
from duet.protocol.private_file import read_private, write_private

HEADER = "Duet-Signature"

LEAST_SECRET_BYTES, SECRET_BYTES = 16, 32
"""How long a secret must be, and how long one of ours is: that of the hash."""

_ID = re.compile(r"[a-z0-9-]{1,32}")
_SIGNATURE = re.compile(r"hmac-sha256=([0-9a-f]{64}); key=([a-z0-9-]{1,32})")
_REMEDY = "Write the file with `duet keys signing`."


@dataclass(frozen=True)
class SigningKey:
    """A key that cloud and device share.

    Attributes:
        id: Stands in the header, so that there may be two while one replaces the other.
        secret: Its bytes; never shown.
    """

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"Expected an id of 1 to 32 lower-case letters, digits and '-', got {self.id!r:.40}.")
        if len(self.secret) < LEAST_SECRET_BYTES:
            raise ValueError(f"Expected a secret of at least {LEAST_SECRET_BYTES} bytes, got {len(self.secret)}.")

    @classmethod
    def create(cls, name: str) -> "SigningKey":
        """Draw a key.

        Raises:
            ValueError: If ``name`` is no id.
        """
        return cls(name, secrets.token_bytes(SECRET_BYTES))

    def sign(self, body: bytes) -> str:
        """Make the value of the header for a body."""
        return f"hmac-sha256={hmac.digest(self.secret, body, hashlib.sha256).hex()}; key={self.id}"


def check_signature(body: bytes, signature: str | None, keys: Sequence[SigningKey]) -> None:
    """Make sure that a body was made by somebody who has one of the keys.

    Args:
        body: As it arrived.
        signature: Value of the header; None if there was none.
        keys: Those that the device has.

    Raises:
        ForgedPackage: If it was not, or if that cannot be told.
    """
    if signature is None:
        raise ForgedPackage(reason="it has no signature")
    match = _SIGNATURE.fullmatch(signature)
    if match is None:
        raise ForgedPackage(reason="its signature is not of the form that docs/protocol.md describes")
    digits, name = match.groups()
    key = next((key for key in keys if key.id == name), None)
    if key is None:
        raise ForgedPackage(reason=f"it is signed with key {name}, and this device has {_named(keys)}")
    if not hmac.compare_digest(hmac.digest(key.secret, body, hashlib.sha256), bytes.fromhex(digits)):
        raise ForgedPackage(reason=f"its signature with key {name} is wrong")


def read_signing_keys(path: Path | str) -> tuple[SigningKey, ...]:
    """Read a file of signing keys.

    Returns:
        At least one key; the cloud signs with the first.

    Raises:
        InvalidKeyFile: If it has none, a line is no key, or two have the same id.
        OSError: If it cannot be read.
    """
    path = Path(path)
    keys: dict[str, SigningKey] = {}
    for number, line in enumerate(read_private(path).splitlines(), start=1):
        if not line.strip():
            continue
        key = _read_line(path, number, line)
        if key.id in keys:
            raise InvalidKeyFile(
                path=path, line=number, expected="an id of its own", received=f"{key.id} again", remedy="Remove one."
            )
        keys[key.id] = key
    if not keys:
        raise InvalidKeyFile(path=path, line=None, expected="at least one signing key", received="none", remedy=_REMEDY)
    return tuple(keys.values())


def write_signing_keys(path: Path, keys: Iterable[SigningKey]) -> None:
    """Write a file of signing keys whole, readable by its owner alone."""
    lines = (json.dumps({"id": key.id, "secret": base64.urlsafe_b64encode(key.secret).decode()}) for key in keys)
    write_private(path, "".join(f"{line}\n" for line in lines))


def _read_line(path: Path, number: int, line: bytes) -> SigningKey:
    expected = '{"id": "…", "secret": "…"}, the secret as base64url'
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.keys() != {"id", "secret"}:
            raise ValueError("other fields")
        if not all(isinstance(value, str) for value in fields.values()):
            raise ValueError("a value that is no text")
        return SigningKey(fields["id"], base64.b64decode(fields["secret"], altchars=b"-_", validate=True))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        received = "a line that is no JSON"
    except binascii.Error:
        received = "a secret that is no base64url"
    except ValueError as error:
        received = str(error)
    raise InvalidKeyFile(path=path, line=number, expected=expected, received=received, remedy=_REMEDY)


def _named(keys: Sequence[SigningKey]) -> str:
    return ", ".join(key.id for key in keys) or "none"
