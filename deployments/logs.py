"""Gives our log lines time, level and logger, in processes where nobody else has set logging up.

A replica is born into a process of Ray's, which gives handlers to Ray's own loggers only: what ours say would reach
Python's last resort, which writes the bare message.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TypeAlias

LOGGERS = ("app", "deployments", "duet", "kernels")
"""The roots of every logger of ours."""

LogFormat: TypeAlias = Literal["text", "json"]
"""Lines for people, or one JSON object a line for machines."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered; stands in every line that is said meanwhile."""

MOST_IDS = 5
"""So many of a batch are named in a line."""

_REQUEST_IDS: ContextVar[Sequence[str]] = ContextVar("request_ids", default=())

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        return _iso_time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        line, request_id = super().formatMessage(record), REQUEST_ID.get()
        if request_id:
            return line if request_id in line else f"{line} [request {request_id}]"
        if not (request_ids := _batch_ids()):
            return line
        further = len(request_ids) - MOST_IDS
        named = ", ".join(request_ids[:MOST_IDS]) + (f" and {further} more" if further > 0 else "")
        return f"{line} [requests {named}]"


class JsonFormatter(logging.Formatter):
    """Spells a line as one JSON object: time, level, logger, message, and what is known beside them.

    Those are ``request_id`` while a request is answered; ``request_ids``, the first of them, and ``requests``, how
    many, while a batch is computed; ``error`` with the traceback, and every ``extra``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Spell one line."""
        document: dict[str, object] = {
            "time": _iso_time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            document["request_id"] = request_id
        elif request_ids := _batch_ids():
            document |= {"request_ids": request_ids[:MOST_IDS], "requests": len(request_ids)}
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        extras = {name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES}
        return json.dumps(extras | document, default=str)


class _ProcessHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr, unless somebody has given the process handlers: those get our lines as well."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(lambda _: not logging.getLogger().handlers)


@contextmanager
def naming(request_ids: Sequence[str]) -> Iterator[None]:
    """Name the first of these requests in every line that is said meanwhile: they are those of a batch.

    Args:
        request_ids: Of the whole batch; it is kept as it is, and read only when something is said.
    """
    token = _REQUEST_IDS.set(request_ids)
    try:
        yield
    finally:
        _REQUEST_IDS.reset(token)


def configure_logs(log_format: LogFormat = "text") -> None:
    """Make our loggers write from level INFO on; a second call changes the format only, and levels that are set stay.

    Args:
        log_format: Of every line.
    """
    formatter = JsonFormatter() if log_format == "json" else _TextFormatter()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _ProcessHandler) for handler in logger.handlers):
            logger.addHandler(_ProcessHandler())
        for handler in logger.handlers:
            if isinstance(handler, _ProcessHandler):
                handler.setFormatter(formatter)


def _batch_ids() -> list[str]:
    return [request_id for request_id in _REQUEST_IDS.get() if request_id]


def _iso_time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
