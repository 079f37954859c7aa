"""Believes no reply: decodes every package and holds it to the manifest, the headers and the sample that was sent.

delivered_ms = measured_ms + rtt_ms + transfer of request and reply over the device's link
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from duet.protocol.budget import Link
from duet.protocol.errors import DuetError
from duet.protocol.manifest import Manifest, digest_of
from duet.protocol.package import MEDIA_TYPE, ParameterPackage, tag_of
from duet.protocol.representation import Representation
from duet.protocol.signature import SequenceSignature, Signature

KEEP = "keep"
_SHED = (429, 503)


@dataclass(frozen=True)
class ServedVersion:
    """The version that a cloud said it serves."""

    manifest: Manifest
    digest: bytes
    signature: Signature

    @classmethod
    def read(cls, manifest_bytes: bytes) -> Self:
        """Read the manifest that the cloud answered with.

        Raises:
            CorruptVersion: If it is none.
            UnsupportedManifest: If it is of another format.
        """
        manifest = Manifest.from_bytes(manifest_bytes, source="the cloud")
        return cls(manifest, digest_of(manifest_bytes), manifest.read_signature())

    @property
    def sample_length(self) -> int:
        """How many items a sample has at most.

        Raises:
            ValueError: If samples of this model are no lists of items, which simulated devices do not make yet.
        """
        if not isinstance(self.signature, SequenceSignature):
            raise ValueError(f"Expected a model whose samples are sequences, got {self.signature.to_json()}.")
        return self.signature.length

    @property
    def largest_package_bytes(self) -> int:
        """Size of the largest package that it offers."""
        return max((record.package_bytes for record in self.manifest.representations), default=0)


@dataclass(frozen=True)
class Reply:
    """A verified reply.

    Attributes:
        representation: What arrived, or None if the device is to keep what it holds.
        version: Version of the parameters, hexadecimal.
        tag: Tag of the parameters, hexadecimal.
        predicted_ms: What the cloud predicted, from sending to the last byte received.
        server_ms: What the cloud measured on its side.
    """

    representation: Representation | None
    version: str
    tag: str
    predicted_ms: float
    server_ms: float


class BadReply(Exception):  # noqa: N818 - a verdict on the server, not an error of ours
    """The reply is not what was promised; its text is short and alike for alike faults, so that they add up."""


class OtherVersion(Exception):  # noqa: N818
    """The reply is of another version than the one known: read the manifest again, then verify again."""


class Refusal(Exception):  # noqa: N818
    """The cloud refused, in one of its documented ways.

    Attributes:
        is_shed: Whether it did so to protect itself, which is its own class in a report.
        retry_after_s: How long it asked to be left alone.
    """

    def __init__(self, text: str, *, is_shed: bool, retry_after_s: float) -> None:
        super().__init__(text)
        self.is_shed, self.retry_after_s = is_shed, retry_after_s


def verify_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    served: ServedVersion,
    sample: object,
    held_tag: str | None = None,
) -> Reply:
    """Verify one reply to the last bit.

    Args:
        status: HTTP status; 0 where there was no answer.
        headers: By name in lower case.
        body: All of it.
        served: The version that the package is to be of.
        sample: What was sent.
        held_tag: Tag of what the device holds, for a reply that tells it to keep that.

    Raises:
        OtherVersion: If the cloud serves another version by now.
        Refusal: If the status is not 200 or 204.
        BadReply: If anything is not as promised.
    """
    if status not in (200, 204):
        raise _refusal(status, headers, body)
    version = headers.get("duet-version", "")
    if version != served.digest.hex():
        raise OtherVersion(version)
    plan, tag = headers.get("duet-plan"), headers.get("duet-tag", "")
    representation = None
    if status == 204:
        if body or plan != KEEP or held_tag is None or tag != held_tag:
            raise BadReply("told to keep what is not held")
    else:
        package = _decode(headers, body, served)
        representation = package.representation
        if plan != str(representation) or served.manifest.record(representation) is None:
            raise BadReply(f"planned {plan}, sent {representation}")
        expected = tag_of(served.digest, representation, served.signature.canonical(sample))
        if package.tag != expected or tag != expected.hex():
            raise BadReply("parameters of another sample")
    return Reply(
        representation, version, tag, _number(headers, "duet-predicted-ms"), _number(headers, "duet-server-ms")
    )


def model_names(body: bytes) -> list[str]:
    """Read which models a cloud says it serves; none where it does not say so."""
    try:
        return [str(model["name"]) for model in json.loads(body)["models"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def delivered_ms(measured_ms: float, *, link: Link, request_bytes: int, response_bytes: int) -> float:
    """Add to a time measured beside the server what the device's network takes; bodies in bytes, headers are added."""
    return measured_ms + link.exchange_ms(request_bytes=request_bytes, response_bytes=response_bytes)


def _decode(headers: Mapping[str, str], body: bytes, served: ServedVersion) -> ParameterPackage:
    if headers.get("content-type", "").partition(";")[0] != MEDIA_TYPE:
        raise BadReply(f"content type {headers.get('content-type')}")
    try:
        return ParameterPackage.decode(body, served.manifest.layers, version=served.digest)
    except DuetError as error:
        raise BadReply(error.code) from error


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = None
    code = problem.get("code") if isinstance(problem, dict) else None
    try:
        retry_after_s = float(headers.get("retry-after", 0))
    except ValueError:
        retry_after_s = 0.0
    text = f"{'shed' if status in _SHED else 'refused'}: {status or 'no answer'}" + (f" {code}" if code else "")
    return Refusal(text, is_shed=status in _SHED, retry_after_s=min(max(retry_after_s, 0.0), 60.0))


def _number(headers: Mapping[str, str], name: str) -> float:
    try:
        return float(headers[name])
    except (KeyError, ValueError) as error:
        raise BadReply(f"no number in {name}") from error
