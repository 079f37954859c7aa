"""Simulated devices: ``locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 50 -t 60s``.

Two figures a request. ``POST parameters`` is what was measured beside the server; it fails when the reply is refused or
does not verify. ``DEVICE delivered <profile>`` adds the device's network, modelled; it fails when the budget is missed.
Users wait for their replies, so this is a closed loop: it shows what devices get, not what the server does when they
come regardless; that is ``open_loop.py``.
"""

from argparse import ArgumentParser
from itertools import count
from random import Random

from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest.locust_cloud import LocustCloud, UnknownModel, end_run_without_model
from loadtest.options import add_common_options
from loadtest.profiles import SimulatedDevice, load_mixes
from loadtest.recorder import Recorder, recorder_of
from loadtest.replies import BadReply
from loadtest.traffic import Traffic, histories_of
from loadtest.updates import KnownVersions

_numbers = count()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """Add what a run may choose."""
    add_common_options(parser)
    parser.add_argument(
        "--think-time-s", type=float, default=1.0, help="mean pause of a device between requests; 0: none"
    )


@events.init.add_listener  # type: ignore[untyped-decorator]
def start_recorder(environment: Environment, **_: object) -> None:
    """Record from here on."""
    recorder_of(environment)


class DeviceUser(FastHttpUser):  # type: ignore[misc]
    """One device: thinks, acts, asks for parameters with what it holds, verifies the reply."""

    network_timeout = 15.0

    def on_start(self) -> None:
        """Draw who this device is and read what is served."""
        options = self.environment.parsed_options
        self._id = f"loadtest-{next(_numbers)}"
        self._random = Random(f"{options.seed} {self._id}")
        self._recorder: Recorder = recorder_of(self.environment)
        cloud = LocustCloud(self.client, options.model, clock=self._recorder.now_s, api_key=options.api_key)
        versions = KnownVersions(cloud)
        try:
            served = versions.read(self._id)
        except UnknownModel as error:
            end_run_without_model(self.environment, self.client)
            raise StopUser from error
        except BadReply as error:
            raise StopUser from error
        self._traffic = Traffic(self.environment, cloud, versions, self._random)
        self._device = SimulatedDevice(
            histories_of(options.world, options.histories, options.seed),
            length=served.sample_length,
            profile=load_mixes()[options.mix].draw(self._random),
            random=self._random,
        )

    def wait_time(self) -> float:
        """Think, for a time without memory."""
        think_time_s = self.environment.parsed_options.think_time_s
        return self._random.expovariate(1 / think_time_s) if think_time_s > 0 else 0.0

    @task  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Ask for parameters once."""
        self._traffic.ask(self._id, self._device, due_s=self._recorder.now_s())
