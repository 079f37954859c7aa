"""Files that only their owner may read: written beside their place, then renamed."""

import os
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 600, whole or not at all.

    Raises:
        OSError: If the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
