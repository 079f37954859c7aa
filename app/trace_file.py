"""Spans as JSON lines in a file, for a machine without a collector. Imported only where such a file is asked for."""

import logging
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

LIMIT_BYTES = 256 * 2**20
"""Where the file ends: requests whose budget ran out could fill a disk."""

logger = logging.getLogger(__name__)


class JsonLines(SpanExporter):
    """Appends; whole lines at a time, so that the replicas of one machine may share a file."""

    def __init__(self, file: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        """Open the file.

        Args:
            file: Need not exist; its folder has to.
            limit_bytes: Size from which on nothing is appended.

        Raises:
            OSError: If it cannot be written.
        """
        self._file, self._limit_bytes = file.open("ab", buffering=0), limit_bytes
        self._is_full = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append spans, or refuse them where the file is full."""
        if self._file.tell() >= self._limit_bytes:
            if not self._is_full:
                logger.warning("The file of traces %s is full: move it away and restart.", self._file.name)
            self._is_full = True
            return SpanExportResult.FAILURE
        self._file.write("".join(f"{span.to_json(indent=None)}\n" for span in spans).encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()
