"""One update of one device: what it sends, what it believes, when it tries again, and whether it was in time.

latency    from when the update was due to the last byte of its final reply, retries and pauses included
delivered  latency + what the device's network takes, modelled, for every attempt
in time    delivered <= budget,  budget = network of one attempt + server share
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from duet.protocol.errors import DuetError
from duet.protocol.representation import Form
from loadtest.profiles import SERVER_SHARE_MS, SimulatedDevice, budget_for
from loadtest.replies import BadReply, OtherVersion, Refusal, Reply, ServedVersion, verify_reply

Outcome = Literal["in-time", "late", "shed", "refused", "failed"]
"""What became of an update. Late: the parameters were right, or the cloud said itself that they would be (504). Shed:
429 or 503 to the last. Refused: another documented 4xx. Failed: wrong, lost, or an error of the cloud."""

OUTCOMES: tuple[Outcome, ...] = ("in-time", "late", "shed", "refused", "failed")

_BUDGET_FIELD_BYTES = len(', "budget_ms": 1234.5')
_TOO_LATE = 504


@dataclass(frozen=True)
class Response:
    """What came back, and when.

    Attributes:
        status: 0 where nothing came.
        headers: By name in lower case.
        body: All of it.
        sent_s: When the request left, on the clock of the run.
        received_s: When the last byte was there, before anybody looked at it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_s: float
    received_s: float


@dataclass(frozen=True)
class Verdict:
    """What a device makes of a response.

    Attributes:
        fault: Why it is not what was asked for; None if it is. Alike for alike faults.
        outcome: What became of it: ``"in-time"`` stands for parameters that may be used.
        reply: The verified reply, if it is one.
        retry_after_s: How long the cloud asked to be left alone.
        is_worth_a_retry: Whether asking again may help.
    """

    fault: str | None
    outcome: Outcome
    reply: Reply | None = None
    retry_after_s: float = 0.0
    is_worth_a_retry: bool = False


class Cloud(Protocol):
    """How a device reaches its cloud."""

    def post(self, body: bytes, judge: Callable[[Response], Verdict]) -> tuple[Response, Verdict]:
        """Send a request for parameters; ``judge`` is called once with what came back."""

    def manifest(self, device: str) -> ServedVersion:
        """Read what this device is served.

        Raises:
            BadReply: If the cloud does not say.
        """


@dataclass(frozen=True)
class RetryPolicy:
    """When to ask again: after what the cloud says, or exponentially longer pauses, spread by half to either side.

    Attributes:
        most: Retries of one update.
        first_s: The first pause, if the cloud names none.
        longest_s: The longest one.
    """

    most: int = 2
    first_s: float = 0.25
    longest_s: float = 8.0

    def pause_s(self, attempt: int, retry_after_s: float, random: Random) -> float:
        """Draw the pause after an attempt, counted from 0."""
        own_s: float = min(self.first_s * 2**attempt, self.longest_s) * random.uniform(0.5, 1.5)
        # never before the cloud said, and not all devices at the same moment
        return max(own_s, retry_after_s * random.uniform(1.0, 1.5))


@dataclass(frozen=True)
class Update:
    """What became of one update; times in ms.

    Attributes:
        due_s: When the device wanted it, on the clock of the run.
        profile: Network of the device.
        outcome: What became of it.
        answer: Rung of the last reply that verified: ``plan``, ``keep`` or ``shared``; else None.
        plan: Representation that was sent, or ``keep``; None if nothing verified.
        version: Version of the parameters; None if nothing verified.
        latency_ms: From due to the last byte.
        service_ms: From sending to the last byte, of the last attempt.
        delivered_ms: With the device's network.
        budget_ms: What it had.
        retries: Attempts beyond the first.
        fault: Why there are no parameters.
        package_bytes: Of the last reply.
    """

    due_s: float
    profile: str
    outcome: Outcome
    answer: str | None
    plan: str | None
    version: str | None
    latency_ms: float
    service_ms: float
    delivered_ms: float
    budget_ms: float
    retries: int
    fault: str | None
    package_bytes: int


class KnownVersions:
    """The versions that the cloud has said it serves, by digest; read again when a reply is of another one."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._by_digest = cloud, dict[str, ServedVersion]()
        self._latest: ServedVersion | None = None

    def latest(self, device: str) -> ServedVersion:
        """Return the one that was read last; the first time, ask for what this device is served.

        Raises:
            BadReply: If the cloud does not say.
        """
        return self._latest or self.read(device)

    def read(self, device: str) -> ServedVersion:
        """Ask what this device is served.

        Raises:
            BadReply: If the cloud does not say.
        """
        try:
            served = self._cloud.manifest(device)
        except DuetError as error:
            raise BadReply(error.code) from error
        self._latest = self._by_digest[served.digest.hex()] = served
        return served

    def of(self, digest: str, device: str) -> ServedVersion:
        """Return the version of a reply.

        Raises:
            BadReply: If the cloud does not say that it serves it.
        """
        if digest not in self._by_digest and self.read(device).digest.hex() != digest:
            raise BadReply("a version that is not served")
        return self._by_digest[digest]


@dataclass(frozen=True)
class Updater:
    """Carries updates out.

    Attributes:
        cloud: Where to ask.
        versions: What it serves.
        clock: Seconds of the run.
        pause: Waits for some seconds.
        server_share_ms: What a budget leaves to the server.
        policy: When to ask again.
        shows_current: Whether devices say what they hold; without it every update is generated.
    """

    cloud: Cloud
    versions: KnownVersions
    clock: Callable[[], float]
    pause: Callable[[float], None]
    server_share_ms: float = SERVER_SHARE_MS
    policy: RetryPolicy = RetryPolicy()
    shows_current: bool = True

    def request_of(self, name: str, device: SimulatedDevice) -> tuple[dict[str, object], float]:
        """Make the request of a device as it stands now, and its budget in ms.

        Raises:
            BadReply: If the cloud does not say what it serves.
        """
        request = device.request(name, now_s=self.clock())
        if not self.shows_current:
            request.pop("current", None)
        budget_ms = budget_for(
            device.link,
            request_bytes=len(json.dumps(request)) + _BUDGET_FIELD_BYTES,
            package_bytes=self.versions.latest(name).largest_package_bytes,
            server_share_ms=self.server_share_ms,
        )
        return request | {"budget_ms": round(budget_ms, 1)}, budget_ms

    def update(self, name: str, device: SimulatedDevice, *, due_s: float) -> Update:
        """Ask until there are parameters or no more patience, then give them to the device."""
        try:
            request, budget_ms = self.request_of(name, device)
        except BadReply as error:
            return self._unasked(device, due_s, str(error))
        body, held_tag = json.dumps(request).encode(), device.held_tag
        judge = lambda response: self._judge(response, name, request["sample"], held_tag)  # noqa: E731
        network_ms, attempt = 0.0, 0
        while True:
            response, verdict = self.cloud.post(body, judge)
            network_ms += device.link.exchange_ms(request_bytes=len(body), response_bytes=len(response.body))
            if not verdict.is_worth_a_retry or attempt >= self.policy.most:
                break
            self.pause(self.policy.pause_s(attempt, verdict.retry_after_s, device.random))
            attempt += 1
        latency_ms, reply = (response.received_s - due_s) * 1000, verdict.reply
        outcome = verdict.outcome
        if reply is not None:
            outcome = "in-time" if latency_ms + network_ms <= budget_ms else "late"
            if reply.representation is not None:
                device.hold(version=reply.version, tag=reply.tag, now_s=response.received_s)
        return Update(
            due_s=due_s,
            profile=device.profile,
            outcome=outcome,
            answer=None if reply is None else rung_of(reply),
            plan=None if reply is None else str(reply.representation or "keep"),
            version=None if reply is None else reply.version,
            latency_ms=latency_ms,
            service_ms=(response.received_s - response.sent_s) * 1000,
            delivered_ms=latency_ms + network_ms,
            budget_ms=budget_ms,
            retries=attempt,
            fault=verdict.fault,
            package_bytes=len(response.body) if reply is not None else 0,
        )

    def _unasked(self, device: SimulatedDevice, due_s: float, fault: str) -> Update:
        late_ms = (self.clock() - due_s) * 1000
        return Update(
            due_s, device.profile, "failed", None, None, None, late_ms, late_ms, late_ms, 0.0, 0, fault, package_bytes=0
        )

    def _judge(self, response: Response, name: str, sample: object, held_tag: str | None) -> Verdict:
        status, headers = response.status, response.headers
        try:
            # a rollover, or a canary: what the cloud says it serves is what counts
            digest = headers.get("duet-version", "")
            served = self.versions.of(digest, name) if status in (200, 204) else self.versions.latest(name)
            reply = verify_reply(status, headers, response.body, served=served, sample=sample, held_tag=held_tag)
        except Refusal as error:
            return _verdict_of(error, status)
        except (BadReply, OtherVersion) as error:
            return Verdict(str(error), "failed")
        return Verdict(None, "in-time", reply)


def rung_of(reply: Reply) -> str:
    """Name the rung of a reply: generated parameters, what the device holds already, or the shared ones."""
    if reply.representation is None:
        return "keep"
    return "shared" if reply.representation.form is Form.SHARED else "plan"


def _verdict_of(refusal: Refusal, status: int) -> Verdict:
    text, retry_after_s = str(refusal), refusal.retry_after_s
    if refusal.is_shed:
        return Verdict(text, "shed", retry_after_s=retry_after_s, is_worth_a_retry=True)
    if status == _TOO_LATE:
        return Verdict(text, "late")
    if status == 0 or status >= 500 or status == 408:
        return Verdict(text, "failed", retry_after_s=retry_after_s, is_worth_a_retry=True)
    return Verdict(text, "refused")
