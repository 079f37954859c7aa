"""A file that an operator may change while the server runs: read anew when it changes, the last good content kept."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from duet.protocol.errors import DuetError

LOOK_EVERY_S = 1.0

_Content = TypeVar("_Content")

logger = logging.getLogger(__name__)


class FollowedFile(Generic[_Content]):
    """What a file says. Looks for changes when it is asked, at most once a second: no thread, no task, no event."""

    def __init__(
        self, path: Path | str, read: Callable[[Path], _Content], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file.

        Args:
            path: The file, or a link to it.
            read: Reads the whole of it; raises ``DuetError`` or ``OSError`` for what cannot be used.
            clock: Seconds.

        Raises:
            DuetError: If the content cannot be used.
            OSError: If there is none.
        """
        self._path, self._read, self._clock = Path(path), read, clock
        self._seen = self._stamp()
        self._content = read(self._path)
        self._next_look_s = clock() + LOOK_EVERY_S

    def content(self) -> _Content:
        """Return what the file says now; the same object until it changes, the last good one if it cannot be used."""
        now_s = self._clock()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_EVERY_S
            self._look()
        return self._content

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp  # a broken file is told once
        try:
            self._content = self._read(self._path)
        except (DuetError, OSError) as error:
            logger.error("Going on with what %s said before: %s", self._path, error)
        else:
            logger.info("Read %s anew", self._path)

    def _stamp(self) -> tuple[int, int, int] | None:
        """Tell one content from the next: files are replaced by renaming, which changes the inode."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
