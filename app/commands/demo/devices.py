"""Simulated phones: held-out users that call the server over HTTP and rank with what came back.

A device is asked at several moments of its history. At each it ranks its true next item three times: with the shared
parameters, with parameters generated ``lag`` interactions ago (stale), and with parameters generated now (fresh).
Everything but the shared ranking is computed from packages that came over the wire.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duet.data.splits import Split
from duet.device import DuetDevice
from duet.device.runtime import DeviceModel, Ranking
from duet.device.update import Update
from duet.training.ranking import full_catalogue_ranks

Sample = list[str | int]
TOP = 10


@dataclass(frozen=True)
class Moment:
    """One point in the life of a device.

    Attributes:
        user: Position of the user in the data set.
        step: How many interactions came before.
        history: The latest of them, as the device would send them.
        following: What came next.
        stale_history: What the device would have sent some interactions earlier.
    """

    user: int
    step: int
    history: Sample
    following: str | int
    stale_history: Sample


@dataclass(frozen=True)
class Visit:
    """What one device did at one moment: ranks of its true next item with each kind of parameters, and updates."""

    device: int
    moment: Moment
    shared: float
    stale: float
    fresh: float
    updates: tuple[Update, Update]
    """The stale and the fresh one."""
    before: Ranking
    after: Ranking

    @property
    def is_complete(self) -> bool:
        """Whether both updates arrived."""
        return all(update.status != "failed" for update in self.updates)


def moments_of(split: Split, user: int, *, count: int, lag: int, length: int) -> list[Moment]:
    """Return the newest ``count`` moments of a user with enough history for a stale sample; perhaps none."""
    ids = split.interactions.item_ids
    raw = [ids[item - 1] for item in split.interactions.sequence(user)]
    newest = range(len(raw) - 1, max(lag, len(raw) - 1 - count), -1)
    return [
        Moment(user, at, raw[max(0, at - length) : at], raw[at], raw[max(0, at - lag - length) : at - lag])
        for at in newest
    ]


def simulate(
    url: str,
    model: str,
    devices: Sequence[Sequence[Moment]],
    *,
    cache: Path,
    link: str,
    budget_ms: float,
    workers: int,
    on_device: Callable[[], None] = lambda: None,
) -> list[Visit]:
    """Let every device live through its moments; devices run side by side.

    Args:
        url: Where the server listens.
        model: Name of the model.
        devices: The moments of each device.
        cache: Folder for downloaded device models.
        link: Network profile that the devices claim.
        budget_ms: Budget of every request.
        workers: Devices at a time.
        on_device: Called after each device.
    """

    def live(index: int) -> list[Visit]:
        with DuetDevice(url, model, device_id=f"demo-{index}", cache=cache, link=link, budget_ms=budget_ms) as device:
            visits = [_visit(device, index, moment) for moment in devices[index]]
        on_device()
        return visits

    with ThreadPoolExecutor(workers) as pool:
        return [visit for visits in pool.map(live, range(len(devices))) for visit in visits]


def silence_expected_failures() -> None:
    """Keep devices from logging each refused update: the demo counts them and shows the reason once."""
    logging.getLogger("duet.device").setLevel(logging.ERROR)


def ask_with_link(
    url: str, model: str, samples: Sequence[Sample], *, cache: Path, link: str, budget_ms: float
) -> list[Update]:
    """Ask once for each sample over one kind of link, as so many different devices."""
    updates = []
    for index, sample in enumerate(samples):
        with DuetDevice(
            url, model, device_id=f"{link}-{index}", cache=cache, link=link, budget_ms=budget_ms, timeout_s=10.0
        ) as device:
            updates.append(device.update(sample))
    return updates


def _visit(device: DuetDevice, index: int, moment: Moment) -> Visit:
    model = device.model
    model.reset()
    shared, before = _rank(model, moment), device.predict(moment.history, k=TOP)
    stale_update = device.update(moment.stale_history)
    stale = _rank(device.model, moment)
    fresh_update = device.update(moment.history)
    fresh, after = _rank(device.model, moment), device.predict(moment.history, k=TOP)
    return Visit(index, moment, shared, stale, fresh, (stale_update, fresh_update), before, after)


def _rank(model: DeviceModel, moment: Moment) -> float:
    """Rank the true next item with the parameters in place, ties averaged, what was seen left out."""
    target = model.vocabulary.index(moment.following)
    if target is None:
        return float("inf")
    seen = np.array([place for place in model.signature.seen(moment.history, model.vocabulary) if place != target], int)
    scores = model.scores(moment.history)[None].copy()
    return float(full_catalogue_ranks(scores, np.array([target]), (seen,))[0])
