"""Simulated devices: ``locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 50 -t 60s``.

Two figures a request. ``POST parameters`` is what was measured beside the server; it fails when the reply is refused or
does not verify. ``DEVICE delivered <profile>`` adds the device's network, modelled; it fails when the budget is missed.
Users wait for their replies, so this is a closed loop: it shows what devices get, not what the server does when they
come regardless.
"""

import json
import logging
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from random import Random

import gevent
from locust import FastHttpUser, events, task
from locust.exception import StopUser

from duet.protocol.errors import DuetError
from loadtest.profiles import SERVER_SHARE_MS, WORLDS, SimulatedDevice, budget_for, device_histories, load_mixes
from loadtest.replies import (
    BadReply,
    OtherVersion,
    Refusal,
    Reply,
    ServedVersion,
    delivered_ms,
    model_names,
    verify_reply,
)

DELIVERED = "DEVICE"
"""Request type of the figures that include the modelled network."""

_LOGGER = logging.getLogger(__name__)
_numbers = count()


class BudgetMissed(Exception):  # noqa: N818
    """The parameters were right, and late."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """Add what a run may choose."""
    parser.add_argument("--model", default="demo", help="name of the served model")
    parser.add_argument("--world", default="demo", choices=WORLDS, help="synthetic world that the model was trained on")
    parser.add_argument(
        "--mix",
        default="mobile",
        choices=sorted(load_mixes()),
        help="network mix, a name of loadtest/network_mixes.json",
    )
    parser.add_argument("--server-share-ms", type=float, default=SERVER_SHARE_MS, help="budget beyond the network")
    parser.add_argument("--think-time-s", type=float, default=1.0, help="mean pause of a device between requests")
    parser.add_argument("--histories", type=int, default=500, help="different devices that a process draws from")
    parser.add_argument(
        "--api-key",
        default="",
        env_var="DUET_API_KEY",
        is_secret=True,
        help="sent with every request, where the server asks for one",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


@lru_cache(maxsize=1)
def histories_of(world: str, number: int, seed: int) -> list[list[int]]:
    """Make the histories once a process."""
    return device_histories(world, number, seed=seed)


class DeviceUser(FastHttpUser):  # type: ignore[misc]
    """One device: thinks, acts, asks for parameters with what it holds, verifies the reply."""

    network_timeout = 15.0
    _is_ending = False

    def on_start(self) -> None:
        """Draw who this device is and read what is served."""
        options = self.environment.parsed_options
        self._id = f"loadtest-{next(_numbers)}"
        self._random = Random(f"{options.seed} {self._id}")
        self._pause_s = 0.0
        if options.api_key:
            self.client.auth_header = f"Bearer {options.api_key}"
        self._served = self._read_manifest()
        self._device = SimulatedDevice(
            histories_of(options.world, options.histories, options.seed),
            length=self._served.sample_length,
            profile=load_mixes()[options.mix].draw(self._random),
            random=self._random,
        )

    def wait_time(self) -> float:
        """Think, for a time without memory; longer where the cloud asked for it."""
        pause_s, self._pause_s = self._pause_s, 0.0
        return pause_s + self._random.expovariate(1 / self.environment.parsed_options.think_time_s)

    @task  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Ask for parameters once."""
        device, options = self._device, self.environment.parsed_options
        device.act()
        request = device.request(self._id, now_s=time.monotonic())
        budget_ms = budget_for(
            device.link,
            request_bytes=len(json.dumps(request)) + len(', "budget_ms": 1234.5'),
            package_bytes=self._served.largest_package_bytes,
            server_share_ms=options.server_share_ms,
        )
        body = json.dumps(request | {"budget_ms": round(budget_ms, 1)}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/vnd.duet.package"}
        started_s = time.perf_counter()
        with self.client.post(
            f"/v1/models/{options.model}/parameters",
            data=body,
            headers=headers,
            name="parameters",
            catch_response=True,
        ) as response:
            measured_ms = (time.perf_counter() - started_s) * 1000
            content = response.content or b""
            try:
                reply = self._verified(response.status_code, _lower(response.headers), content, request["sample"])
            except (BadReply, Refusal) as error:
                self._pause_s = getattr(error, "retry_after_s", 0.0)
                response.failure(str(error))
                return
            response.success()
        if reply.representation is not None:
            device.hold(version=reply.version, tag=reply.tag, now_s=time.monotonic())
        self._report(measured_ms, budget_ms, request_bytes=len(body), response_bytes=len(content))

    def _read_manifest(self) -> ServedVersion:
        # under a canary two devices are served two versions
        path = f"/v1/models/{self.environment.parsed_options.model}?device={self._id}"
        with self.client.get(path, name="manifest", catch_response=True) as response:
            try:
                if response.status_code == 404:
                    self._end_the_run()
                if response.status_code != 200:
                    raise BadReply(f"no manifest: {response.status_code or 'no answer'}")
                served = ServedVersion.read(response.content)
                response.success()
            except (BadReply, DuetError) as error:
                response.failure(str(error))
                raise StopUser from error
        return served

    def _end_the_run(self) -> None:
        """Say which models there are: with another one no device of this run would get anything."""
        if DeviceUser._is_ending:
            return
        DeviceUser._is_ending = True
        environment = self.environment
        with self.client.get("/v1/models", name="models", catch_response=True) as response:
            known = model_names(response.content or b"")
        _LOGGER.error(
            "Expected a model that %s serves, got --model %s. Use one of: %s.",
            environment.host,
            environment.parsed_options.model,
            ", ".join(known) or "none is served",
        )
        # in a greenlet of its own, because it ends this one
        gevent.spawn(environment.runner.quit)

    def _verified(self, status: int, headers: dict[str, str], content: bytes, sample: object) -> Reply:
        try:
            return self._verify(status, headers, content, sample)
        except OtherVersion:
            self._served = self._read_manifest()  # a rollover: what is served is what counts
        try:
            return self._verify(status, headers, content, sample)
        except OtherVersion as error:
            raise BadReply("a version that is not served") from error

    def _verify(self, status: int, headers: dict[str, str], content: bytes, sample: object) -> Reply:
        held_tag = self._device.held_tag
        return verify_reply(status, headers, content, served=self._served, sample=sample, held_tag=held_tag)

    def _report(self, measured_ms: float, budget_ms: float, *, request_bytes: int, response_bytes: int) -> None:
        link = self._device.link
        total_ms = delivered_ms(measured_ms, link=link, request_bytes=request_bytes, response_bytes=response_bytes)
        self.environment.events.request.fire(
            request_type=DELIVERED,
            name=f"delivered {self._device.profile}",
            response_time=total_ms,
            response_length=response_bytes,
            exception=BudgetMissed("over budget") if total_ms > budget_ms else None,
            context={},
        )


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}
