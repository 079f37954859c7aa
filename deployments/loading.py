"""The thread on which a process loads versions while it serves: it steps back for the threads that answer requests."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")

_HANDOVER_S = 0.0005
LOADER_STEPS_BACK = 5
"""Not more: one that the system hardly ever runs would keep the interpreter's lock from those it steps back for."""

_counting = threading.Lock()
_loads = 0
_usual_handover_s = 0.0


class VersionLoader:
    """One thread for hashing, reading, building sessions and warming up.

    On Linux it runs at a lower priority. While it loads, the interpreter hands over between threads more often.
    """

    def __init__(self, *, intra_op_threads: int = 1) -> None:
        """Start no thread yet.

        Args:
            intra_op_threads: Of the sessions that will be built. Those with threads of their own hand the priority of
                who builds them down to these for good, so then it stays.
        """
        self._thread = ThreadPoolExecutor(1, "versions", initializer=_step_back if intra_op_threads == 1 else None)

    def submit(
        self, load: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> "Future[Value]":
        """Load on the thread, after what was submitted before."""
        return self._thread.submit(_load, partial(load, *args, **kwargs))

    async def run(
        self, load: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Value:
        """Load on the thread while the event loop goes on."""
        return await asyncio.wrap_future(self.submit(load, *args, **kwargs))


def _load(load: Callable[[], Value]) -> Value:
    with _frequent_handover():
        return load()


@contextmanager
def _frequent_handover() -> Iterator[None]:
    """Let a thread that asks for the interpreter have it soon: by default it waits 5 ms for one that computes."""
    global _loads, _usual_handover_s
    with _counting:
        if _loads == 0:
            _usual_handover_s = sys.getswitchinterval()
            sys.setswitchinterval(_HANDOVER_S)
        _loads += 1
    try:
        yield
    finally:
        with _counting:
            _loads -= 1
            if _loads == 0:
                sys.setswitchinterval(_usual_handover_s)


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere it would be the priority of the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + LOADER_STEPS_BACK)
