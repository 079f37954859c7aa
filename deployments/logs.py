"""Gives our log lines time, level and logger, in processes where nobody else has set logging up.

A replica is born into a process of Ray's, which gives handlers to Ray's own loggers only: what ours say would reach
Python's last resort, which writes the bare message.
"""

import logging
from datetime import UTC, datetime

LOGGERS = ("app", "deployments", "duet", "kernels")
"""The roots of every logger of ours."""


class _IsoFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _ProcessHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr, unless somebody has given the process handlers: those get our lines as well."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_IsoFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.addFilter(lambda _: not logging.getLogger().handlers)


def configure_logs() -> None:
    """Make our loggers write from level INFO on; a second call changes nothing, and levels that are set stay."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _ProcessHandler) for handler in logger.handlers):
            logger.addHandler(_ProcessHandler())
