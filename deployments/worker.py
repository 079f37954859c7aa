"""The one thread on which a replica computes its batches, and the record of what they did there."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from deployments.backlog import Backlog, Ticket

Value = TypeVar("Value")


class Worker:
    """Computes one batch after the other, off the event loop."""

    def __init__(self, name: str) -> None:
        """Start idle.

        Args:
            name: What the thread is called.
        """
        self._thread, self._backlog = ThreadPoolExecutor(1, name), Backlog()

    async def run(self, size: int, compute: Callable[[], Value], *, begin: Callable[[], int] | None = None) -> Value:
        """Compute a batch of ``size``.

        Whoever is cancelled before its batch begins takes it out of the queue. What has begun cannot be stopped on a
        thread: it is waited for, so that nobody takes the worker for free meanwhile.

        Args:
            size: Requests in the batch.
            compute: What to do.
            begin: Is asked on the thread, when the batch's turn has come, how many of it are still to be computed; all
                by default. Of a batch of nobody no cost is learnt.
        """
        ticket = self._backlog.arrive(size)
        running = self._thread.submit(self._compute, ticket, compute, begin)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancelled():
                ended = asyncio.wrap_future(running)
                await asyncio.wait([ended])
                ended.exception()  # nobody is left to be told of it
            raise
        finally:
            self._backlog.leave(ticket)

    def run_here(self, size: int, compute: Callable[[], Value]) -> Value:
        """Compute a brief batch of ``size`` on the thread that calls, between two of ``run``."""
        ticket = self._backlog.arrive(size)
        try:
            return self._compute(ticket, compute, None)
        finally:
            self._backlog.leave(ticket)

    async def check(self) -> None:
        """Return when an idle thread has answered; judge a busy one by its batches.

        Raises:
            RuntimeError: If it is stuck, or most of its batches fail.
        """
        self._backlog.check()
        if self._backlog.is_idle:
            await asyncio.get_running_loop().run_in_executor(self._thread, bool)

    def load(self) -> dict[str, float]:
        """Tell how busy it was since the last time, and how long a batch had to wait; see ``Backlog.report``."""
        return self._backlog.report()

    def _compute(self, ticket: Ticket, compute: Callable[[], Value], begin: Callable[[], int] | None) -> Value:
        if begin is not None:
            ticket = replace(ticket, size=begin())
            if not ticket.size:
                return compute()
        with self._backlog.running(ticket):
            return compute()
