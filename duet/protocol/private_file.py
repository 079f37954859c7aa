"""Files of keys, which only their owner may read: written beside their place, then renamed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_private(path: Path) -> bytes:
    """Read a file of keys.

    Raises:
        FileNotFoundError: If there is none; with a sentence that says how to make one.
        OSError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Expected a file of keys at {path.absolute()}, got no such file. Make it with `duet keys`."
        ) from error


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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder of a file while the file is read and written anew; others that do so wait.

    Raises:
        OSError: If there is no such folder.
    """
    descriptor = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
