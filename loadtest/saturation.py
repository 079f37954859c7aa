"""Finds the capacity: ``locust -f loadtest/saturation.py --host URL --headless --report DIR``.

Ever more users without pauses, each waiting for its reply: a closed loop, whose latencies say nothing about what
devices get (they come regardless), and whose throughput says what the server can do at most.
"""

from argparse import ArgumentParser

from locust import LoadTestShape, events
from locust.env import Environment

from loadtest.locustfile import DeviceUser as DeviceUser
from loadtest.recorder import recorder_of
from loadtest.run import LoadPlan
from loadtest.shapes import Phase, Role, Shape

_RAMP_S = 2.0


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """Add what a run may choose; the options of ``locustfile.py`` are there already."""
    parser.set_defaults(think_time_s=0.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16, 64], help="numbers of users")
    parser.add_argument("--step-s", type=float, default=8.0, help="how long each of them asks")


def stairs(connections: list[int], step_s: float) -> Shape:
    """Make a shape whose loads are users: up to each number for two seconds, which do not count, then measured."""
    phases = []
    for users in connections:
        phases.append(Phase(name=f"to {users}", seconds=_RAMP_S, load=users, role=Role.WARM_UP))
        phases.append(Phase(name=f"{users} users", seconds=step_s, load=users))
    return Shape(about="Ever more users without pauses.", phases=tuple(phases))


@events.init.add_listener  # type: ignore[untyped-decorator]
def plan_stairs(environment: Environment, **_: object) -> None:
    """Say how the load goes."""
    options = environment.parsed_options
    recorder_of(environment).plan = LoadPlan("saturation", "saturation", stairs(options.connections, options.step_s))


class Stairs(LoadTestShape):  # type: ignore[misc]
    """Starts and stops users as the shape says."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users, or None at the end."""
        shape = recorder_of(self.runner.environment).plan.shape
        now_s = self.get_run_time()
        return None if shape is None or now_s >= shape.seconds else (round(shape.load_at(now_s)), 100.0)
