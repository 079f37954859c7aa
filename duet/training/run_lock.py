"""One process at a time may write a run folder: a lock that the kernel drops with the process, however that ends."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from duet.protocol.errors import UnusableRun

LOCK = ".lock"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is created if need be.

    Raises:
        UnusableRun: If another process holds it.
    """
    with try_lock(folder) as holder:
        if holder is not None:
            raise UnusableRun(
                path=folder,
                reason=f"{holder} is writing it",
                remedy="Let it finish or stop it, then repeat the command; or choose another folder.",
            )
        yield


@contextmanager
def try_lock(folder: Path) -> Iterator[str | None]:
    """Hold a run folder if nobody else does; else say who does.

    Yields:
        None when the folder is held now, or the holder: ``process 4711 on this-machine``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    file, is_ours = _acquire(path)
    with file:
        if not is_ours:
            file.seek(0)
            yield file.read(200).strip() or "another process"
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield None
        finally:
            # before the lock goes, or somebody could lock a file that nobody else will ever open
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> tuple[IO[str], bool]:
    """Open the lock file and try to lock it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, True
        except BlockingIOError:
            return file, False
        except FileNotFoundError:
            pass
        # its last holder removed it between our opening and our locking
        file.close()
