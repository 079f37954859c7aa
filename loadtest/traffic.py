"""What one arrival becomes: an update of a device, or now and then a request that is wrong on purpose."""

from functools import lru_cache
from random import Random

import gevent
from locust.env import Environment

from loadtest.faulty_requests import malformed_requests, oversized_request
from loadtest.locust_cloud import LocustCloud
from loadtest.profiles import SimulatedDevice, device_histories
from loadtest.recorder import recorder_of
from loadtest.replies import BadReply
from loadtest.updates import KnownVersions, RetryPolicy, Update, Updater

DELIVERED = "DEVICE"
"""Request type of the figures that include the modelled network."""


class BudgetMissed(Exception):  # noqa: N818
    """The parameters were right, and late."""


@lru_cache(maxsize=1)
def histories_of(world: str, number: int, seed: int) -> list[list[int]]:
    """Make the histories once a process."""
    return device_histories(world, number, seed=seed)


class Traffic:
    """Carries out what devices want, records it, and tells Locust.

    Args:
        environment: Of the run.
        cloud: Where to ask.
        versions: What it serves.
        random: Source of chance.
    """

    def __init__(self, environment: Environment, cloud: LocustCloud, versions: KnownVersions, random: Random) -> None:
        options = environment.parsed_options
        self._environment, self._cloud, self._random = environment, cloud, random
        self._recorder = recorder_of(environment)
        self._oversized_share, self._malformed_share = options.oversized_share, options.malformed_share
        self._updater = Updater(
            cloud=cloud,
            versions=versions,
            clock=self._recorder.now_s,
            pause=gevent.sleep,
            server_share_ms=options.server_share_ms,
            policy=RetryPolicy(most=options.retries),
            shows_current=not options.forgetful,
        )

    def ask(self, name: str, device: SimulatedDevice, *, due_s: float) -> None:
        """Let a device act and ask; what comes of it is recorded when it is known.

        Args:
            name: Id of the device.
            device: Who asks.
            due_s: When it wanted to.
        """
        drawn = self._random.random()
        if drawn < self._oversized_share + self._malformed_share:
            self._ask_wrongly(name, device, due_s, is_oversized=drawn < self._oversized_share)
            return
        device.act()
        self._recorder.due(due_s)
        self._recorder.in_flight += 1
        try:
            update = self._updater.update(name, device, due_s=due_s)
        except gevent.GreenletExit:
            self._recorder.withdrawn(due_s)  # the run ends, and its users with it
            raise
        finally:
            self._recorder.in_flight -= 1
        self._recorder.update(update)
        self._tell_locust(update)

    def _ask_wrongly(self, name: str, device: SimulatedDevice, due_s: float, *, is_oversized: bool) -> None:
        try:
            request, _ = self._updater.request_of(name, device)
        except BadReply:
            return  # the manifest is missing: that stands in Locust's statistics, and the next update fails for it
        kind = "oversized" if is_oversized else "malformed"
        faulty = oversized_request(request) if is_oversized else self._random.choice(malformed_requests(request))
        self._recorder.faulty(due_s, self._cloud.post_faulty(faulty, kind))

    def _tell_locust(self, update: Update) -> None:
        if update.answer is None:
            return
        self._environment.events.request.fire(
            request_type=DELIVERED,
            name=f"delivered {update.profile}",
            response_time=update.delivered_ms,
            response_length=update.package_bytes,
            exception=BudgetMissed("over budget") if update.outcome == "late" else None,
            context={},
        )
