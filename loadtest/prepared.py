"""Requests made before the clock runs, and what became of them, found out after it has stopped.

Replies do not change what is sent: a device says that it holds what it would have got for its last request.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx

from duet.protocol.budget import Link
from duet.protocol.errors import DuetError
from duet.protocol.package import MEDIA_TYPE, tag_of
from duet.protocol.representation import Representation
from loadtest.faulty_requests import FaultyRequest, malformed_requests, oversized_request
from loadtest.lean_client import Exchange
from loadtest.profiles import NetworkMix, Population, budget_for, device_histories
from loadtest.replies import KEEP, BadReply, Refusal, Reply, ServedVersion, model_names, verify_reply
from loadtest.timeline import LAG, LATENCY, SERVICE, Timeline

_TIMEOUT_S = 15.0
_KEEPS, _LATE = 204, 504
_HISTORIES = 500
JSON = "application/json"

Verdict: TypeAlias = tuple[str | None, Reply | None]
"""What is wrong with a reply, or what it is."""


@dataclass(frozen=True)
class PreparedRequest:
    """One request, as it is sent.

    Attributes:
        message: Head and body.
        body_bytes: Size of its body.
        sample: What it asks about.
        held_tag: Tag of the parameters that the device says it holds, hexadecimal.
        profile: Network of the device.
        link: The same, as numbers.
        budget_ms: What the device gives it.
        faulty: How it is wrong, where it is so on purpose.
    """

    message: bytes
    body_bytes: int
    sample: object
    held_tag: str | None
    profile: str
    link: Link
    budget_ms: float
    faulty: FaultyRequest | None = None


@dataclass(frozen=True)
class Mistakes:
    """Shares of the requests that are wrong on purpose."""

    malformed_share: float = 0.0
    oversized_share: float = 0.0


@dataclass(frozen=True)
class Target:
    """What is asked: a model of a server.

    Attributes:
        url: Of the server.
        model: Its name there.
        api_key: Sent with every request, if there is one.
    """

    url: str
    model: str
    api_key: str = ""

    def served(self) -> ServedVersion:
        """Ask what is served.

        Raises:
            ValueError: If the server does not say, or does not serve the model; the text says what it does serve.
        """
        try:
            with self._client() as client:
                answer = client.get(f"/v1/models/{self.model}", params={"device": "loadtest"})
                if answer.status_code == 404:
                    known = ", ".join(model_names(client.get("/v1/models").content)) or "none is served"
                    raise ValueError(
                        f"Expected a model that {self.url} serves, got --model {self.model}. Use one of: {known}."
                    )
            if answer.status_code != 200:
                raise ValueError(f"Expected a manifest from {self.url}, got: {answer.status_code}.")
            return ServedVersion.read(answer.content)
        except (httpx.HTTPError, DuetError) as error:
            raise ValueError(f"Expected a manifest from {self.url}, got: {str(error) or repr(error)}") from error

    def representation(self, body: bytes) -> Representation:
        """Ask for parameters once, to see in which representation they come.

        Raises:
            ValueError: If none come.
        """
        try:
            with self._client() as client:
                answer = client.post(f"/v1/models/{self.model}/parameters", content=body, headers=_headers(JSON))
            return Representation.parse(answer.headers["duet-plan"])
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise ValueError(f"Expected parameters from {self.url}, got: {str(error) or repr(error)}") from error

    def message(self, body: bytes, content_type: str = JSON) -> bytes:
        """Put the head of an HTTP request before a body."""
        parts = urlsplit(self.url)
        lines = [
            f"POST {parts.path.rstrip('/')}/v1/models/{self.model}/parameters HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in (_headers(content_type) | self._authorization).items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    @property
    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self._authorization, timeout=_TIMEOUT_S)


def prepare(
    target: Target,
    served: ServedVersion,
    *,
    world: str,
    mix: NetworkMix,
    count: int,
    server_share_ms: float,
    is_forgetful: bool = False,
    mistakes: Mistakes | None = None,
    seed: int = 0,
) -> list[PreparedRequest]:
    """Make what devices send, one after the other, as if each got what it asked for.

    Args:
        target: Whom they ask; one request is sent there, to see which representation they get.
        served: What is served there.
        world: Synthetic world that the model was trained on.
        mix: Their networks.
        count: How many requests.
        server_share_ms: What a budget leaves to the server.
        is_forgetful: Whether devices never say what they hold, so that parameters are generated for every request.
        mistakes: How many requests are wrong on purpose; none by default.
        seed: Of all that is drawn.

    Raises:
        ValueError: If the server does not answer with a package.
    """
    random = Random(f"{seed} prepared")
    histories = device_histories(world, _HISTORIES, seed=seed)
    population = Population(histories, count // 4 + 1, length=served.sample_length, mix=mix, random=random)
    representation: Representation | None = None
    mistakes = mistakes or Mistakes()
    made: list[PreparedRequest] = []
    while len(made) < count:
        number, device = population.draw()
        device.act()
        request = device.request(f"loadtest-{number}", now_s=float(len(made)))
        budget_ms = budget_for(
            device.link,
            request_bytes=len(json.dumps(request)),
            package_bytes=served.largest_package_bytes,
            server_share_ms=server_share_ms,
        )
        request["budget_ms"] = round(budget_ms, 1)
        body = json.dumps(request).encode()
        prepared = PreparedRequest(
            target.message(body), len(body), request["sample"], device.held_tag, device.profile, device.link, budget_ms
        )
        drawn = random.random()
        if drawn < mistakes.oversized_share + mistakes.malformed_share:
            is_oversized = drawn < mistakes.oversized_share
            faulty = oversized_request(request) if is_oversized else random.choice(malformed_requests(request))
            message = target.message(faulty.body, faulty.content_type)
            made.append(replace(prepared, message=message, faulty=faulty))
            continue
        made.append(prepared)
        if is_forgetful:
            continue
        if representation is None:
            representation = target.representation(body)
        tag = tag_of(served.digest, representation, served.signature.canonical(device.sample))
        device.hold(version=served.digest.hex(), tag=tag.hex(), now_s=float(len(made)))
    return made


def judged(
    exchanges: Sequence[Exchange],
    requests: Sequence[PreparedRequest],
    versions: Sequence[ServedVersion],
    *,
    is_open_loop: bool,
    dropped_s: Sequence[float] = (),
) -> Timeline:
    """Find out what became of requests, second by second.

    Every reply is decoded and verified; one with the very bytes that its request got before is what that one was.

    Args:
        exchanges: What was sent and came back.
        requests: What was made before, which their numbers count.
        versions: Those that the replies may be of.
        is_open_loop: Whether requests were due at a time.
        dropped_s: When some were due that were never sent.
    """
    timeline = Timeline()
    known = {version.digest.hex(): version for version in versions}
    verdicts: dict[int, Verdict] = {}
    for each in exchanges:
        request, second = requests[each.number], timeline.at(each.due_s)
        if request.faulty is not None:
            fault = request.faulty.judge(each.status, *_parsed(each.reply))
            second.counts["faulty/refused" if fault is None else "faulty/mishandled"] += 1
            if fault is not None:
                second.counts[f"fault/{fault}"] += 1
            continue
        counts, latency_ms = second.counts, 1000 * (each.received_s - each.due_s)
        counts["due"] += 1
        counts["retries"] += each.retries
        if is_open_loop and not each.retries:
            second.observe(LAG, 1000 * (each.sent_s - each.due_s))
        if each.status == 200 and not each.reply:
            fault, reply = verdicts[each.number]
        else:
            fault, reply = _verdict(each, request, known)
            if each.status == 200:
                verdicts[each.number] = fault, reply
        # of an attempt before the last one there is a refusal, which has next to no body
        delivered_ms = (
            latency_ms
            + request.link.exchange_ms(request_bytes=request.body_bytes, response_bytes=each.reply_bytes)
            + each.retries * request.link.exchange_ms(request_bytes=request.body_bytes, response_bytes=0)
        )
        if fault is None:
            outcome = "in-time" if delivered_ms <= request.budget_ms else "late"
            second.observe(LATENCY, latency_ms)
            second.observe(SERVICE, 1000 * (each.received_s - each.sent_s))
            second.observe(f"delivered/{request.profile}", delivered_ms)
            counts[f"profile/{request.profile}/{outcome}"] += 1
            rung = KEEP if each.status == _KEEPS else "plan"
            counts[f"answer/{rung}"] += 1
            counts[f"rung/{rung}"] += 1
            counts["bytes"] += each.reply_bytes
            if reply is not None:
                counts[f"plan/{reply.representation or KEEP}"] += 1
                counts[f"version/{reply.version[:8]}"] += 1
        else:
            outcome = _outcome(each.status)
            counts[f"fault/{fault}"] += 1
            counts[f"rung/{outcome}"] += 1
        counts[f"outcome/{outcome}"] += 1
    for due_s in dropped_s:
        timeline.at(due_s).counts.update({"due": 1, "dropped": 1})
    return timeline


def versions_of(exchanges: Sequence[Exchange]) -> set[str]:
    """Name the versions that the replies say they are of, as digests in hexadecimal."""
    found = (_parsed(each.reply)[0].get("duet-version", "") for each in exchanges if each.reply)
    return {each for each in found if each}


def _verdict(exchange: Exchange, request: PreparedRequest, versions: Mapping[str, ServedVersion]) -> Verdict:
    headers, body = _parsed(exchange.reply)
    digest = headers.get("duet-version", "")
    if exchange.status in (200, _KEEPS) and digest not in versions:
        return "a version that is not served", None
    served = versions.get(digest) or next(iter(versions.values()))
    try:
        return None, verify_reply(
            exchange.status, headers, body, served=served, sample=request.sample, held_tag=request.held_tag
        )
    except (Refusal, BadReply) as error:
        return str(error), None


def _outcome(status: int) -> str:
    if status in (429, 503):
        return "shed"
    if status == _LATE:
        return "late"
    return "refused" if 400 <= status < 500 and status != 408 else "failed"


def _headers(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type, "Accept": MEDIA_TYPE}


def _parsed(reply: bytes) -> tuple[Mapping[str, str], bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":")[::2] for line in lines)
    return {name.strip().lower(): value.strip() for name, value in pairs}, body
