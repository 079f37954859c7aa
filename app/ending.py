"""What processes that start a Ray have in common: its environment, and an end by Ctrl-C or SIGTERM that leaves nothing.

``ray`` is imported inside functions: it reads its variables when it is imported.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

_SIGNAL_POLL_S = 0.01

Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
"""What Python lets handle a signal."""


@contextmanager
def exported(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes of Ray, except those that the operator has set."""
    ours = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def stop_ray() -> None:
    """Stop the Ray of this process; signals to end do not cut it short."""
    import ray

    previous = handle(_ignore)
    stopping = threading.Thread(target=ray.shutdown)
    stopping.start()
    while stopping.is_alive():
        # Ray's core puts SIGTERM back to its default meanwhile, which ends the process before what it has started
        handle(_ignore)
        stopping.join(_SIGNAL_POLL_S)
    restore(previous)


def handle(handler: Handler) -> dict[signal.Signals, Handler]:
    """Handle the signals that ask to end; return what handled them. Python allows that in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}


def restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    """Let the signals be handled as before."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Begin to end, once, as Ctrl-C does."""
    # a second one, such as a whole process group gets, would cut short the stop that this one begins
    handle(_ignore)
    raise KeyboardInterrupt


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing. Unlike ``SIG_IGN``, processes that start meanwhile do not inherit it."""
