"""Files of the model repository: read with a bound, hashed, flushed, and replaced so that a reader sees old or new."""

import hashlib
import os
import secrets
from pathlib import Path

from duet.protocol.errors import CorruptVersion

MAX_JSON_BYTES = 256 * 2**20


def read(path: Path) -> bytes:
    """Read a plain file.

    Raises:
        CorruptVersion: If there is none, or it is larger than ``MAX_JSON_BYTES``.
    """
    if path.is_symlink() or not path.is_file():
        raise CorruptVersion(path=path, reason="it is missing or no plain file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CorruptVersion(path=path, reason=f"it is larger than {MAX_JSON_BYTES} bytes")
    return path.read_bytes()


def sha256(path: Path) -> str:
    """Hash a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Return when a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of a file, in one step.

    Raises:
        OSError: If the disk refuses; the file is then what it was.
    """
    draft = path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")
    try:
        draft.write_bytes(data)
        flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    flush(path.parent)
