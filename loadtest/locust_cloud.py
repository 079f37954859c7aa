"""The cloud as Locust's HTTP client reaches it: every attempt is a line of Locust's own statistics."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment

from loadtest.faulty_requests import FaultyRequest
from loadtest.replies import BadReply, ServedVersion, model_names
from loadtest.updates import Response, Verdict

JSON = "application/json"
PACKAGE = "application/vnd.duet.package"


_LOGGER = logging.getLogger(__name__)


class UnknownModel(BadReply):
    """The cloud does not serve this model."""


class LocustCloud:
    """Posts for one user, or for many that share a connection pool.

    Args:
        client: Locust's client; it may be used by many greenlets at once.
        model: Name of the served model.
        clock: Seconds of the run.
        api_key: Sent with every request, if there is one.
    """

    def __init__(self, client: FastHttpSession, model: str, *, clock: Callable[[], float], api_key: str = "") -> None:
        self._client, self._model, self._clock = client, model, clock
        if api_key:
            client.auth_header = f"Bearer {api_key}"

    def post(self, body: bytes, judge: Callable[[Response], Verdict]) -> tuple[Response, Verdict]:
        """Send a request for parameters; Locust counts it as failed where the verdict has a fault."""
        with self._post(body, JSON, "parameters") as sent:
            response = self._response(sent)
            verdict = judge(response)
            if verdict.fault is None:
                sent.success()
            else:
                sent.failure(verdict.fault)
        return response, verdict

    def post_faulty(self, request: FaultyRequest, kind: str) -> str | None:
        """Send a request that is wrong on purpose; return what is wrong with the answer, if anything is."""
        with self._post(request.body, request.content_type, kind) as sent:
            response = self._response(sent)
            fault = request.judge(response.status, response.headers, response.body)
            if fault is None:
                sent.success()
            else:
                sent.failure(fault)
        return fault

    def manifest(self, device: str) -> ServedVersion:
        """Read what this device is served; under a canary two devices are served two versions.

        Raises:
            UnknownModel: If the cloud does not serve the model.
            BadReply: If it does not say.
            DuetError: If what it says is no manifest.
        """
        with self._client.get(
            f"/v1/models/{self._model}?device={device}", name="manifest", catch_response=True
        ) as sent:
            try:
                if sent.status_code == 404:
                    raise UnknownModel("no manifest: 404")
                if sent.status_code != 200:
                    raise BadReply(f"no manifest: {sent.status_code or 'no answer'}")
                served = ServedVersion.read(sent.content)
            except Exception as error:
                sent.failure(str(error))
                raise
            sent.success()
        return served

    def _post(self, body: bytes, content_type: str, name: str) -> Any:
        return self._client.post(
            f"/v1/models/{self._model}/parameters",
            data=body,
            headers={"Content-Type": content_type, "Accept": PACKAGE},
            name=name,
            catch_response=True,
        )

    def _response(self, sent: Any) -> Response:
        """Read a response; Locust has measured how long it took, headers and body included."""
        received_s = self._clock()
        took_s = sent.request_meta["response_time"] / 1000
        return Response(sent.status_code, _lower(sent.headers), sent.content or b"", received_s - took_s, received_s)


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def end_run_without_model(environment: Environment, client: FastHttpSession) -> None:
    """Say which models the cloud serves, and end the run."""
    with client.get("/v1/models", name="models", catch_response=True) as response:
        known = model_names(response.content or b"")
    end_run(
        environment,
        f"Expected a model that {environment.host} serves, got --model {environment.parsed_options.model}. "
        f"Use one of: {', '.join(known) or 'none is served'}.",
    )


def end_run(environment: Environment, reason: str) -> None:
    """Say once why no device of a run would get anything, and end it."""
    if getattr(environment, "duet_is_ending", False):
        return
    environment.duet_is_ending = True
    _LOGGER.error("%s", reason)
    # in a greenlet of its own, because it ends this one
    gevent.spawn(environment.runner.quit)
