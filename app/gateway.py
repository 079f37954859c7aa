"""What happens to one request: validate, plan within the budget, ask the stages in time. Loads no torch and no ONNX."""

import asyncio
import base64
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from app.brought import Brought
from app.call import Call, is_as_good
from app.canary import CanaryLimit
from app.catalog import Catalog
from app.offers import JSON, offers_of
from app.rollout import Peers, Rollouts
from app.schemas import Accepts, PackageAnswer, ParametersRequest
from app.settings import AppSettings
from app.telemetry import NO_ORIGIN, Telemetry
from deployments.admission import ConcurrencyLimit
from deployments.batching import BatchLimits, DispatchWhenFreeBatcher
from deployments.forecast import WorkAround
from deployments.orders import Answered, Order
from deployments.pipeline import Pipeline
from deployments.room import Room
from deployments.telemetry import Origin, RequestRecord, StageTimes
from duet.protocol.budget import Offer, Plan
from duet.protocol.errors import (
    BudgetTooSmall,
    DeadlineExceeded,
    NonFiniteParameters,
    Overloaded,
    VersionNotReady,
)
from duet.protocol.representation import SHARED

KEEP = "keep"
"""What ``Duet-Plan`` says when the device already holds what it would get."""

_PRIORITIES = {"high": 0, "normal": 1, "low": 2}
_READY_S = 5.0
_LEAST_INSIDE = 8
_DEFAULT_ACCEPTS = Accepts()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GatewayAnswer:
    """An answer in HTTP's terms."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    media_type: str | None = None


class Gateway:
    """Answers devices from the stages of one placement.

    Belongs to one event loop. Keeps the active versions and a queue; nothing about a device outlives its request.
    """

    def __init__(
        self,
        settings: AppSettings,
        pipeline: Pipeline,
        *,
        peers: Peers | None = None,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Wire it up; ``start`` makes it ready.

        Args:
            settings: What the operator has set.
            pipeline: The stages.
            peers: Asks every gateway of this server, this one included, for its state of a model; alone by default.
            clock: Seconds.
            telemetry: Who is told of every request; by default nobody else than this object.
        """
        self.telemetry = telemetry or Telemetry(clock=clock)
        in_flight = settings.batches_in_flight if settings.placement == "split" else 1
        limits = BatchLimits(settings.max_batch, settings.max_queued, in_flight)
        self._settings = settings
        most = self._most_inside(in_flight)
        self._limit = ConcurrencyLimit(least=min(_LEAST_INSIDE, most), most=most)
        self.room = Room(least=min(_LEAST_INSIDE, most), most=most, clock=clock)
        self._pipeline, self._clock = pipeline, clock
        self._batcher = DispatchWhenFreeBatcher[Order, Answered](
            pipeline.run, run_now=pipeline.run_now, limits=limits, formed=self.telemetry.formed, clock=clock
        )
        self._work_around: defaultdict[Hashable, WorkAround] = defaultdict(WorkAround)
        self.catalog = Catalog(
            settings.models,
            pipeline.prepare,
            only=settings.model,
            refresh_s=settings.refresh_s,
            canary_limit=CanaryLimit(settings.canary_min_requests, settings.canary_margin),
        )
        self.rollouts = Rollouts(self.catalog, peers)

    def widen(self, batches: int) -> None:
        """Have up to so many batches on their way to the stages at once, and let as many more requests in."""
        self._batcher.widen(batches)
        self._limit.resize(self._most_inside(batches))
        self.room.resize(self._most_inside(batches))

    async def start(self) -> None:
        """Prepare every active version.

        Raises:
            DuetError: If there is nothing to serve, or an active version cannot be served.
        """
        await self.catalog.start()

    async def stop(self) -> None:
        """Stop following the repository."""
        await self.catalog.stop()

    @property
    def queue_length(self) -> int:
        """Requests that wait for a batch."""
        return self._batcher.queue_length

    @property
    def predicted_wait_ms(self) -> float:
        """How long a request that arrives now would wait for its batch, at most."""
        kinds = [(model, version, "package") for model, version in self.active_versions.items()]
        waits_ms = [self._batcher.predicted_ms(kind) - self._batcher.compute_ms(kind) for kind in kinds]
        return max(0.0, *waits_ms)

    @property
    def active_versions(self) -> dict[str, str]:
        """The active version of every model."""
        return self.catalog.active_versions

    async def check(self) -> dict[str, str]:
        """Name the active versions once every stage has answered.

        Raises:
            VersionNotReady: If a stage does not answer.
        """
        active = self.catalog.active_versions
        try:
            async with asyncio.timeout(_READY_S):
                await self._pipeline.check()
        except Exception as error:
            # whatever a stage or the way to it met, the answer to "ready?" is no
            logger.warning("A stage does not answer: %r", error)
            model, version = next(iter(active.items()))
            raise VersionNotReady(model=model, version=version) from error
        return active

    async def parameters(
        self,
        model: str,
        request: ParametersRequest,
        *,
        media_type: str,
        upload_bytes: int,
        origin: Origin = NO_ORIGIN,
        arrived_s: float | None = None,
    ) -> GatewayAnswer:
        """Generate the parameters for one sample, or for the embedding of one.

        Args:
            model: Whose classifier.
            request: What the device sent, its fields checked.
            media_type: What the answer is to be, one of ``ANSWER_TYPES``.
            upload_bytes: Body of the request.
            origin: Who asks, for traces.
            arrived_s: When the request was there, on the gateway's clock; now by default. Its budget counts from then.

        Returns:
            200 with the parameters, or 204 when the device holds them. Where nothing that is to be computed arrives in
            time: 204 if the device holds any for this sample, else 200 with ``shared`` if it accepts that.

        Raises:
            RequestError: If the caller can fix it.
            ServiceUnavailable: If the caller may retry later.
            GenerationError: If the parameters are not finite.
        """
        with self.telemetry.request(request.budget_ms, origin, arrived_s) as record:
            answer = await self._parameters(model, request, record, media_type=media_type, upload_bytes=upload_bytes)
            record.content_bytes = len(answer.content)
            self.room.learn_answer()
            return answer

    async def _parameters(
        self, model: str, request: ParametersRequest, record: RequestRecord, *, media_type: str, upload_bytes: int
    ) -> GatewayAnswer:
        started_s = record.started_s
        served = self.catalog.served_to(model, request.device)
        record.model, record.version = served.published.model, served.published.version
        brought = Brought.by(request, served)
        accepts = request.accepts or _DEFAULT_ACCEPTS
        offers = offers_of(served, accepts, media_type)
        spent_ms = (self._clock() - started_s) * 1000
        inside = self.room.inside
        around = self._work_around[served.published.model, served.published.version, media_type]
        call = Call(
            request, served, brought, upload_bytes, media_type, started_s, spent_ms, inside, around, offers, record
        )
        if self.catalog.canary(model) is None:
            return await self._respond(call)
        try:
            answer = await self._respond(call)
        except Exception as error:
            self.catalog.judge(model, served, is_failure=call.is_fault(error))
            raise
        self.catalog.judge(model, served, is_failure=self._is_late(call, answer))
        return answer

    async def _respond(self, call: Call) -> GatewayAnswer:
        asking_ms = call.request.network.exchange_ms(request_bytes=call.upload_bytes, response_bytes=0)
        self.room.learn_share(call.request.budget_ms - asking_ms)
        held = call.held
        try:
            plan = self._plan(call)
            if held is not None and is_as_good(held, plan):
                return self._keep(call, held)
            answered, times = await self._ask(call, plan)
        except (BudgetTooSmall, Overloaded):
            # the rungs of the ladder that need no computing
            if held is not None:
                return self._keep(call, held)
            shared = call.shared_offers
            if shared is None:
                raise
            plan = call.fitting(shared, 0.0)
            call.record.planned(plan, now_s=self._clock())
            answered, times = call.shared(plan), StageTimes()
        return self._answer(call, plan, answered, times)

    def _is_late(self, call: Call, answer: GatewayAnswer) -> bool:
        """Whether an answer is late, or the last rung for want of time."""
        if answer.headers["Duet-Plan"] == str(SHARED):
            return call.fits_the_network()
        return self._elapsed_ms(call) + float(answer.headers["Duet-Network-Ms"]) > call.request.budget_ms

    def _plan(self, call: Call) -> Plan:
        """Choose before any work.

        Raises:
            BudgetTooSmall: If nothing would arrive in time even if nobody were waiting.
            Overloaded: If only those who are waiting make it too late.
        """
        room, around_ms = self.room, call.around_ms
        forecast = self._batcher.forecast(
            call.batch_kind, inside=call.inside, offered_s=room.offered_s, places=room.places(call.request.priority)
        )
        predicted_ms, guarded_ms = (call.spent_ms + around_ms + ms for ms in forecast)
        try:
            return call.fitting(call.offers, guarded_ms).with_server_ms(predicted_ms)
        except BudgetTooSmall as refusal:
            if self._batcher.is_out_of_date(call.batch_kind):
                # a slow batch may be all that is known: without a trial nobody would be served ever again
                return self._trial(call, predicted_ms, refusal)
            call.fitting(call.offers, self._batcher.compute_ms(call.batch_kind))
            raise Overloaded(retry_after_s=self._batcher.retry_after_s(call.batch_kind)) from refusal

    def _trial(self, call: Call, predicted_ms: float, refusal: BudgetTooSmall) -> Plan:
        try:
            return call.fitting(call.offers, 0.0).with_server_ms(predicted_ms)
        except BudgetTooSmall:
            raise refusal from None

    async def _ask(self, call: Call, plan: Plan) -> tuple[Answered, StageTimes]:
        """Queue the order; give up when the answer could not arrive in time any more.

        Raises:
            Overloaded: If too many are inside, or the queue is full.
            DeadlineExceeded: If there was no answer in time.
        """
        if not self._limit.enter(call.request.priority):
            raise Overloaded(retry_after_s=self._batcher.retry_after_s(call.batch_kind))
        is_late: bool | None = None
        try:
            answered = await self._queued(call, plan)
            is_late = self._elapsed_ms(call) > plan.budget_ms - plan.network_ms
        except DeadlineExceeded:
            is_late = True
            raise
        finally:
            self._limit.leave(is_late=is_late)
        return answered

    async def _queued(self, call: Call, plan: Plan) -> tuple[Answered, StageTimes]:
        deadline_s = call.started_s + (plan.budget_ms - plan.network_ms) / 1000
        order = Order(
            model=call.served.published.model,
            version=call.served.published.version,
            sample=call.brought.value,
            representation=plan.representation,
            tag=call.tag(plan),
            answer=call.answer_kind,
            deadline_s=deadline_s,
            request_id=call.record.origin.request_id,
        )
        priority = _PRIORITIES[call.request.priority]
        call.record.planned(plan, now_s=self._clock())
        try:
            # Serve's own time-out is the client's to switch off; this one is not
            batched = await self._batcher.submit(
                order,
                key=call.batch_kind,
                deadline_s=deadline_s,
                priority=priority,
                predicted_ms=plan.server_ms - call.spent_ms - call.around_ms,
            )
        except TimeoutError as error:
            elapsed_ms = self._elapsed_ms(call) + plan.network_ms
            raise DeadlineExceeded(budget_ms=plan.budget_ms, elapsed_ms=elapsed_ms) from error
        except asyncio.CancelledError:
            order.is_wanted = False
            raise
        except NonFiniteParameters as failure:
            call.brought.answer_for(failure)
            raise
        times = batched.result.times.queued(batched.queue_ms)
        call.record.computed(times, batch_size=batched.batch_size)
        return batched.result, times

    def _answer(self, call: Call, plan: Plan, answered: Answered, times: StageTimes) -> GatewayAnswer:
        tag, server_ms = call.tag(plan).hex(), self._elapsed_ms(call)
        if call.record.batch_size:
            call.around.learn(call.inside, server_ms - (plan.server_ms - call.around_ms))
        headers = call.served.headers | {
            "Duet-Plan": str(plan.representation),
            "Duet-Predicted-Ms": f"{plan.predicted_ms:.2f}",
            "Duet-Server-Ms": f"{server_ms:.2f}",
            "Duet-Network-Ms": f"{plan.network_ms:.2f}",
            "Duet-Tag": tag,
            "Server-Timing": times.server_timing(),
        }
        if call.media_type != JSON:
            return GatewayAnswer(200, headers, answered.content, call.media_type)
        document = PackageAnswer(
            package=base64.b64encode(answered.content).decode(),
            plan=str(plan.representation),
            version=call.served.digest.hex(),
            model_version=call.served.published.version,
            tag=tag,
            predicted_ms=round(plan.predicted_ms, 2),
            server_ms=round(server_ms, 2),
            network_ms=round(plan.network_ms, 2),
        )
        return GatewayAnswer(200, headers, document.model_dump_json().encode(), JSON)

    def _keep(self, call: Call, held: Offer) -> GatewayAnswer:
        server_ms = self._elapsed_ms(call)
        network_ms = call.request.network.exchange_ms(request_bytes=call.upload_bytes, response_bytes=0)
        call.record.kept(network_ms)
        headers = call.served.headers | {
            "Duet-Plan": KEEP,
            "Duet-Predicted-Ms": f"{server_ms + network_ms:.2f}",
            "Duet-Server-Ms": f"{server_ms:.2f}",
            "Duet-Network-Ms": f"{network_ms:.2f}",
            "Duet-Tag": call.tag(held).hex(),
        }
        return GatewayAnswer(204, headers)

    def _most_inside(self, batches: int) -> int:
        return self._settings.max_queued + self._settings.max_batch * batches

    def _elapsed_ms(self, call: Call) -> float:
        return (self._clock() - call.started_s) * 1000
