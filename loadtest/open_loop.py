"""Devices that come regardless: ``locust -f loadtest/open_loop.py --host URL --headless --shape step --rate 200``.

One source a process draws arrivals from a Poisson process and gives each a greenlet of its own; nobody waits for a
reply before the next one is sent. Times count from when a request was *due*, so a server that stalls is late for all
who came meanwhile (Locust's own wait times all start after the reply, ``constant_throughput`` and ``poisson`` too, and
hide that). What cannot be sent for too many under way is counted as dropped, and fails the run.
"""

import logging
import shlex
from argparse import ArgumentParser
from pathlib import Path
from random import Random

import gevent
from gevent import subprocess
from gevent.pool import Group
from locust import FastHttpUser, LoadTestShape, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WORKER_REPORT_INTERVAL, MasterRunner, WorkerRunner

from loadtest.arrivals import arrivals
from loadtest.locust_cloud import LocustCloud, UnknownModel, end_run, end_run_without_model
from loadtest.options import add_common_options, at_least, event_command, existing_file
from loadtest.profiles import Population, load_mixes
from loadtest.recorder import Recorder, recorder_of
from loadtest.replies import BadReply
from loadtest.run import Event, LoadPlan, Saturation
from loadtest.shapes import SHAPES_FILE, load_shapes
from loadtest.traffic import Traffic, histories_of
from loadtest.updates import KnownVersions

_DRAIN_S = 30.0
"""How long the end of a run waits for its last replies."""

_LOGGER = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """Add what a run may choose."""
    add_common_options(parser)
    parser.add_argument("--shape", default="steady", help="how the load goes, a name of the file of shapes")
    parser.add_argument(
        "--shapes", default=str(SHAPES_FILE), type=existing_file, include_in_web_ui=False, help="file of shapes"
    )
    parser.add_argument("--rate", type=at_least(0.001), default=50.0, help="updates a second at a load of 1")
    parser.add_argument("--stretch", type=at_least(0.001), default=1.0, help="make all phases longer, or shorter")
    parser.add_argument("--devices", type=int, default=2000, help="devices of each process")
    parser.add_argument("--max-in-flight", type=int, default=1000, help="of each process; what comes beyond is dropped")
    parser.add_argument(
        "--on",
        action="append",
        type=event_command,
        default=[],
        metavar="EVENT=COMMAND",
        include_in_web_ui=False,
        help="what to run when a shape has this event",
    )
    parser.add_argument(
        "--saturation",
        type=existing_file,
        include_in_web_ui=False,
        help="report.json of a saturation run, to draw beside this one",
    )


class OpenLoop:
    """The plan of the open-loop runs of one process.

    Files and commands are taken from the options once, when the process starts: the web UI writes whatever it is sent
    into the options of a running one.
    """

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        self._environment, self._recorder = environment, recorder_of(environment)
        self._shapes = load_shapes(Path(options.shapes))
        self._commands = dict(options.on)
        self._saturation = Saturation.read(Path(options.saturation)) if options.saturation else None
        self._happening: list[gevent.Greenlet] = []
        self.under_way = Group()
        self._plan()
        environment.events.test_start.add_listener(lambda **_: self._start())
        environment.events.test_stop.add_listener(lambda **_: self._stop())

    def rate_at(self, now_s: float) -> float:
        """Tell the rate of this process at a time, in updates a second."""
        plan, options = self._recorder.plan, self._environment.parsed_options
        return plan.rate * plan.shape.load_at(now_s) / getattr(options, "sources", 1) if plan.shape else 0.0

    @property
    def seconds(self) -> float:
        """How long the shape of the next run lasts."""
        shape = self._recorder.plan.shape
        return shape.seconds if shape else 0.0

    def _plan(self) -> None:
        options = self._environment.parsed_options
        if options.shape not in self._shapes:
            raise ValueError(f"Expected --shape to be one of {', '.join(self._shapes)}, got {options.shape}.")
        shape = self._shapes[options.shape].stretched(float(options.stretch))
        is_leader = not isinstance(self._environment.runner, WorkerRunner)
        missing = sorted({name for _, name in shape.events} - self._commands.keys())
        if is_leader and missing:
            raise ValueError(
                f"Expected a command for each event of the shape {options.shape}, got none for {', '.join(missing)}. "
                f"Add --on {missing[0]}='COMMAND'."
            )
        self._recorder.plan = LoadPlan("open", options.shape, shape, float(options.rate), self._saturation)

    def _start(self) -> None:
        self._plan()
        plan = self._recorder.plan
        if not isinstance(self._environment.runner, WorkerRunner) and plan.shape:
            self._happening = [gevent.spawn_later(at_s, self._happen, name) for at_s, name in plan.shape.events]

    def _stop(self) -> None:
        gevent.killall(self._happening)
        self.under_way.kill()

    def _happen(self, name: str) -> None:
        at_s = self._recorder.now_s()
        done = subprocess.run(
            shlex.split(self._commands[name]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            _LOGGER.error("The command of %s failed: %s", name, done.stdout.decode(errors="replace")[-2000:])
        self._recorder.events.append(Event(at_s, name, done.returncode))


@events.init.add_listener  # type: ignore[untyped-decorator]
def start_open_loop(environment: Environment, **_: object) -> None:
    """Read the files, and make what takes a moment before anything is due."""
    options = environment.parsed_options
    environment.duet_open_loop = OpenLoop(environment)
    SourceUser.concurrency = options.max_in_flight
    if not isinstance(environment.runner, MasterRunner):
        histories_of(options.world, options.histories, options.seed)


class SourceUser(FastHttpUser):  # type: ignore[misc]
    """All devices of one process, on one pool of connections: as many as may be under way."""

    network_timeout = 15.0

    def on_start(self) -> None:
        """Read what is served, and make the devices."""
        environment, options = self.environment, self.environment.parsed_options
        self._recorder: Recorder = recorder_of(environment)
        self._open_loop: OpenLoop = environment.duet_open_loop
        self._index = environment.runner.worker_index
        self._random = Random(f"{options.seed} source {self._index}")
        cloud = LocustCloud(self.client, options.model, clock=self._recorder.now_s, api_key=options.api_key)
        versions = KnownVersions(cloud)
        try:
            served = versions.read(self._name(0))
        except UnknownModel as error:
            end_run_without_model(environment, self.client)
            raise StopUser from error
        except BadReply as error:
            end_run(environment, f"Expected a manifest from {environment.host}, got: {error}")
            raise StopUser from error
        self._population = Population(
            histories_of(options.world, options.histories, options.seed),
            options.devices,
            length=served.sample_length,
            mix=load_mixes()[options.mix],
            random=self._random,
        )
        self._traffic = Traffic(environment, cloud, versions, self._random)

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """Send what is due when it is due, until the shape is over; then wait for the end of the run."""
        recorder, under_way = self._recorder, self._open_loop.under_way
        most = self.environment.parsed_options.max_in_flight
        now_s = recorder.now_s()
        for due_s in arrivals(self._open_loop.rate_at, self._random, self._open_loop.seconds, from_s=now_s):
            # also where there is no time left to sleep: replies are read while this greenlet waits
            gevent.sleep(max(0.0, due_s - recorder.now_s()))
            if len(under_way) >= most:
                recorder.dropped(due_s)
                continue
            under_way.spawn(self._update, due_s)
        gevent.sleep(_DRAIN_S * 10)

    def _update(self, due_s: float) -> None:
        self._recorder.lag(due_s)
        number, device = self._population.draw()
        self._traffic.ask(self._name(number), device, due_s=due_s)

    def _name(self, number: int) -> str:
        return f"loadtest-{self._index}-{number}"


class ArrivalShape(LoadTestShape):  # type: ignore[misc]
    """Keeps a source in every process until the shape is over and the last reply is there."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of sources, or None at the end."""
        environment = self.runner.environment
        recorder, over_s = recorder_of(environment), environment.duet_open_loop.seconds
        is_distributed = isinstance(environment.runner, MasterRunner)
        drained_s = self.get_run_time() - over_s - (WORKER_REPORT_INTERVAL if is_distributed else 0.0)
        if drained_s >= 0 and (recorder.outstanding() <= 0 or drained_s > _DRAIN_S):
            return None
        # workers are told with the next order to start, which a new number of them makes Locust send
        environment.parsed_options.sources = max(1, environment.runner.worker_count)
        return environment.parsed_options.sources, 100.0
