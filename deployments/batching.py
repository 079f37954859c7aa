"""Batches that form when the worker is free, never before.

A batch frozen while the worker is busy stays as small as it was when it froze, and the queue grows behind it. Here a
request waits in one bounded queue, ordered by priority and deadline, until a slot is free; then as many of those who
wait go together as the running estimate of the cost says will all be done in time. With an idle worker a request leaves
at once: nothing lingers in the hope of company.
"""

import asyncio
import heapq
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from deployments.compute_estimate import ComputeEstimate
from deployments.forecast import PredictionGuard
from duet.protocol.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

_FRESH_S = 1.0


@dataclass(frozen=True)
class BatchLimits:
    """How much a batcher holds.

    Attributes:
        max_batch: Most requests in one batch.
        max_queued: Most requests that wait; one more is refused.
        in_flight: Batches that may run at once: one where a worker thread computes, more where stages overlap.
    """

    max_batch: int = 64
    max_queued: int = 256
    in_flight: int = 1


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """The result of one request, and what its batch looked like."""

    result: Result
    queue_ms: float
    batch_size: int


class Forecast(NamedTuple):
    """When a request would be done."""

    predicted_ms: float
    """Queue and compute of the request, and of those who join its batch after it."""
    guarded_ms: float
    """What hardly any request exceeds; the same where nobody is in its way."""


@dataclass(order=True, slots=True)
class _Entry(Generic[Item, Result]):
    priority: int
    deadline_s: float
    sequence: int
    arrived_s: float = field(compare=False)
    key: Hashable = field(compare=False)
    item: Item = field(compare=False)
    future: "asyncio.Future[Batched[Result]]" = field(compare=False)
    predicted_ms: float = field(compare=False)
    batch: "_Batch[Item, Result] | None" = field(default=None, compare=False)
    is_told: bool = field(default=False, compare=False)


@dataclass(eq=False, slots=True)
class _Batch(Generic[Item, Result]):
    entries: "list[_Entry[Item, Result]]"
    task: "asyncio.Task[None]"
    started_s: float
    predicted_ms: float


@dataclass
class _Cost:
    """What is known of the batches of one key."""

    estimate: ComputeEstimate = field(default_factory=ComputeEstimate)
    guard: PredictionGuard = field(default_factory=PredictionGuard)
    finished_s: float = -math.inf


class DispatchWhenFreeBatcher(Generic[Item, Result]):
    """Gathers single requests into batches of one key, as described above.

    Belongs to one event loop. Requests whose caller has gone, or whose deadline has passed, never reach ``run``, and a
    batch all of whose callers have gone is cancelled.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        run_now: Callable[[Sequence[Item]], Sequence[Result | Exception] | None] = lambda items: None,
        limits: BatchLimits,
        formed: Callable[[Sequence[Item]], None] = lambda items: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty.

        Args:
            run: Computes a batch: one result, or one failure, per item and in order; ``TimeoutError`` for an item that
                it has left out because its time was over, of which no cost is learnt.
            run_now: Is asked first: the same, computed before it returns, or None if that would take too long.
            limits: Bounds of queue and batch.
            formed: Is told of every batch.
            clock: Seconds; deadlines are points on it.
        """
        self._run, self._run_now, self._formed = run, run_now, formed
        self._limits, self._clock = limits, clock
        self._waiting: list[_Entry[Item, Result]] = []
        self._running: dict[int, tuple[float, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._costs: dict[Hashable, _Cost] = {}
        self._arrivals = self._told = 0
        self._is_scheduled = False

    async def submit(
        self, item: Item, *, key: Hashable, deadline_s: float, priority: int = 0, predicted_ms: float | None = None
    ) -> Batched[Result]:
        """Wait for the result of ``item``, until its deadline.

        Args:
            item: What ``run`` gets.
            key: Only items of one key share a batch.
            deadline_s: When the result is worthless, on the batcher's clock.
            priority: Lower goes first; within a priority the earliest deadline does.
            predicted_ms: What ``forecast`` has just said, if it was asked.

        Returns:
            The result with its time in the queue.

        Raises:
            Overloaded: If the queue is full.
            TimeoutError: If the deadline passed first.
        """
        if len(self._waiting) >= self._limits.max_queued:
            self._dispatch()  # a burst in one turn of the loop may fill the queue beside an idle worker
            self._forget_the_gone()
        if len(self._waiting) >= self._limits.max_queued:
            raise Overloaded(retry_after_s=self.retry_after_s(key))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Batched[Result]] = loop.create_future()
        self._arrivals += 1
        now_s = self._clock()
        if predicted_ms is None:
            predicted_ms = self.predicted_ms(key)
        entry = _Entry(priority, deadline_s, self._arrivals, now_s, key, item, future, predicted_ms)
        heapq.heappush(self._waiting, entry)
        # at the end of this turn of the loop, so that requests read from the sockets together leave together
        self._dispatch_soon()
        # cheaper than asyncio.timeout, which has a task cancel itself
        timer = None if deadline_s == math.inf else loop.call_later(max(0.0, deadline_s - now_s), _expire, entry)
        try:
            return await future
        except asyncio.CancelledError:
            _leave(entry)
            raise
        finally:
            self._told -= entry.is_told
            if timer is not None:
                timer.cancel()

    def predicted_ms(
        self, key: Hashable, *, coming: int = 0, offered_s: float = 0.0, places: float = math.inf
    ) -> float:
        """Estimate queue and compute of a request that would arrive now, and of those who join its batch after it.

        Args:
            key: Of the request.
            coming: Others that have been read and are neither answered nor submitted yet.
            offered_s: Requests that arrive a second, let in or not.
            places: Most that are let in until others leave.
        """
        now_s = self._clock()
        batches_ahead, place = divmod(len(self._waiting) + coming, self._limits.max_batch)
        estimate = self._cost(key).estimate
        wait_ms = batches_ahead * estimate.predict_ms(self._limits.max_batch) / self._limits.in_flight
        if len(self._running) >= self._limits.in_flight:
            wait_ms += max(0.0, (min(self._running.values())[0] - now_s) * 1000)
        joining = min(places, offered_s * wait_ms / 1000)
        return wait_ms + estimate.predict_ms(min(self._limits.max_batch, place + 1 + joining))

    def forecast(self, key: Hashable, *, inside: int = 0, offered_s: float = 0.0, places: float = math.inf) -> Forecast:
        """Estimate when a request that arrives now will be done.

        Args:
            key: Of the request.
            inside: Requests that have been read and not answered, this one included, as far as that is known.
            offered_s: As of ``predicted_ms``.
            places: As of ``predicted_ms``.
        """
        computing = sum(size for _, size in self._running.values())
        # those who have been told are about to leave
        coming = max(0, inside - 1 - len(self._waiting) - computing - self._told)
        predicted_ms = self.predicted_ms(key, coming=coming, offered_s=offered_s, places=places + self._told)
        is_idle = not (self._running or self._waiting)
        beyond_ms = 0.0 if is_idle else self._cost(key).guard.beyond(predicted_ms)
        return Forecast(predicted_ms, predicted_ms + beyond_ms)

    def compute_ms(self, key: Hashable) -> float:
        """Estimate the compute of a request that meets an empty queue."""
        return self._cost(key).estimate.predict_ms(1)

    def is_out_of_date(self, key: Hashable) -> bool:
        """Whether the worker is idle and no batch of this key has run lately: what is known of its cost may be old."""
        return not (self._running or self._waiting) and self._clock() - self._cost(key).finished_s > _FRESH_S

    def retry_after_s(self, key: Hashable) -> float:
        """Whole seconds, at least one, after which the present queue should be gone."""
        return float(max(1, math.ceil(self.predicted_ms(key) / 1000)))

    @property
    def queue_length(self) -> int:
        """Requests that wait for a batch."""
        return len(self._waiting)

    def widen(self, in_flight: int) -> None:
        """Run so many batches at once from now on; those that run already go on.

        Raises:
            ValueError: If it is none.
        """
        if in_flight < 1:
            raise ValueError(f"Expected at least one batch in flight, got {in_flight}.")
        self._limits = replace(self._limits, in_flight=in_flight)
        self._dispatch()

    def _dispatch_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_scheduled = False
        while len(self._running) < self._limits.in_flight and (batch := self._form_batch()):
            items = [entry.item for entry in batch]
            self._formed(items)
            if self._has_run_now(batch, items):
                if self._waiting:  # when the loop has looked at its sockets
                    self._dispatch_soon()
                return
            predicted_ms = self._cost(batch[0].key).estimate.predict_ms(len(batch))
            # in a context of its own: a batch is not a part of the request that happens to set it off, and what Serve
            # does with that one when its device hangs up, cancelling its calls to other replicas, is not for the others
            task = asyncio.get_running_loop().create_task(self._execute(batch, items), context=Context())
            together = _Batch(batch, task, self._clock(), predicted_ms)
            for entry in batch:
                entry.batch = together
            self._running[batch[0].sequence] = together.started_s + predicted_ms / 1000, len(batch)
            # the loop itself holds its tasks by weak references only
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, together))

    def _has_run_now(self, batch: list[_Entry[Item, Result]], items: Sequence[Item]) -> bool:
        """Compute a batch here if it is brief: it costs no task, and no turn of the loop in which others are read."""
        started_s = self._clock()
        try:
            results = self._run_now(items)
            if results is None:
                return False
            outcomes = list(zip(batch, results, strict=True))
            self._learn(batch[0].key, len(batch), started_s)
        except Exception as error:
            outcomes = [(entry, error) for entry in batch]
        self._tell(outcomes, started_s)
        return True

    def _form_batch(self) -> list[_Entry[Item, Result]]:
        """Take the most urgent request and those of its key, as many as all have time for; put the others back."""
        now_s = self._clock()
        alike: list[_Entry[Item, Result]] = []
        others: list[_Entry[Item, Result]] = []
        while self._waiting and len(alike) < 2 * self._limits.max_batch:
            entry = heapq.heappop(self._waiting)
            if not _is_gone(entry, now_s):
                (others if alike and entry.key != alike[0].key else alike).append(entry)
        batch = self._in_time(alike, now_s) if alike else []
        taken = {entry.sequence for entry in batch}
        for entry in (*alike, *others):
            if entry.sequence not in taken:
                heapq.heappush(self._waiting, entry)
        return batch

    def _in_time(self, alike: list[_Entry[Item, Result]], now_s: float) -> list[_Entry[Item, Result]]:
        """Choose from requests of one key, the most urgent first; at least one.

        The most urgent ones go, as many as are all done in time, if those left behind will be in time as well. If not,
        small batches would only make everybody late in turn: then the largest batch goes of which all are in time, and
        who has least time is left to expire.
        """
        estimate = self._cost(alike[0].key).estimate
        most = min(len(alike), self._limits.max_batch)

        def done_s(size: int) -> float:
            return now_s + estimate.predict_ms(size) / 1000

        size, soonest_s = 1, alike[0].deadline_s
        # with what a batch may take longer: one that just fits by the mean is late every second time
        while size < most and now_s + estimate.upper_ms(size + 1) / 1000 <= (
            soonest_s := min(soonest_s, alike[size].deadline_s)
        ):
            size += 1
        left = alike[size : size + self._limits.max_batch]
        if not left or done_s(size) + done_s(len(left)) - now_s <= min(entry.deadline_s for entry in left):
            return alike[:size]
        patient = sorted(alike[:most], key=lambda entry: entry.deadline_s, reverse=True)
        largest = next((n for n in range(most, size, -1) if done_s(n) <= patient[n - 1].deadline_s), None)
        return alike[:size] if largest is None else patient[:largest]

    async def _execute(self, batch: list[_Entry[Item, Result]], items: Sequence[Item]) -> None:
        started_s = self._clock()
        try:
            results = await self._run(items)
            outcomes = list(zip(batch, results, strict=True))
            if computed := sum(not isinstance(result, TimeoutError) for result in results):
                self._learn(batch[0].key, computed, started_s)
        except Exception as error:
            outcomes = [(entry, error) for entry in batch]
        # before anybody who waits is told, so that who asks again finds the slot free
        del self._running[batch[0].sequence]
        self._tell(outcomes, started_s)
        self._dispatch()

    def _tell(self, outcomes: Sequence[tuple[_Entry[Item, Result], Result | Exception]], started_s: float) -> None:
        guard, now_s = self._cost(outcomes[0][0].key).guard, self._clock()
        for entry, result in outcomes:
            guard.learn((now_s - entry.arrived_s) * 1000 - entry.predicted_ms)
            if entry.future.done():
                continue
            entry.is_told = True
            self._told += 1
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                queue_ms = (started_s - entry.arrived_s) * 1000
                entry.future.set_result(Batched(result, queue_ms, len(outcomes)))

    def _ended(self, batch: _Batch[Item, Result], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._running.pop(batch.entries[0].sequence, None) is None:
            return
        # cancelled, perhaps before it began
        if (self._clock() - batch.started_s) * 1000 > batch.predicted_ms:
            # everybody's time ran out: it would have taken even longer, and without this nothing would ever be learnt
            self._learn(batch.entries[0].key, len(batch.entries), batch.started_s)
        for entry in batch.entries:
            if not entry.future.done():
                entry.future.set_exception(RuntimeError("Expected the batch to run to its end, got it cancelled."))
        self._dispatch()

    def _forget_the_gone(self) -> None:
        now_s = self._clock()
        self._waiting = [entry for entry in self._waiting if not _is_gone(entry, now_s)]
        heapq.heapify(self._waiting)

    def _learn(self, key: Hashable, size: int, started_s: float) -> None:
        cost, now_s = self._cost(key), self._clock()
        silence_s = max(0.0, started_s - cost.finished_s)
        cost.estimate.observe(size, (now_s - started_s) * 1000, silence_s=silence_s)
        cost.finished_s = now_s

    def _cost(self, key: Hashable) -> _Cost:
        cost = self._costs.get(key)
        if cost is None:
            cost = self._costs[key] = _Cost()
        return cost


def _expire(entry: _Entry[Item, Result]) -> None:
    """Tell the caller that its time is over; its batch, if it is in one, is cancelled if nobody else waits for it."""
    if not entry.future.done():
        entry.future.set_exception(TimeoutError("expired"))
        _leave(entry)


def _leave(entry: _Entry[Item, Result]) -> None:
    """Cancel the batch of an entry whose caller has gone, unless anybody else waits for it."""
    if entry.batch is not None and all(other.future.done() for other in entry.batch.entries):
        entry.batch.task.cancel()


def _is_gone(entry: _Entry[Item, Result], now_s: float) -> bool:
    """Whether nobody waits for the entry any more; tells the caller of an expired one."""
    if not entry.future.done() and entry.deadline_s <= now_s:
        entry.future.set_exception(TimeoutError("expired"))
    return entry.future.done()
