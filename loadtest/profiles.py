"""Who the simulated devices are: their networks, their budgets, and samples that drift as they act. Knows no Locust.

The shares in ``network_mixes.json`` are assumptions to be replaced by one's own; the links are those of the protocol.
Samples come from the synthetic world, from devices that no generator was trained on.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random

from duet.data.synthetic import PRESETS, SyntheticWorld
from duet.protocol.budget import PROFILES, Link

MIXES_FILE = Path(__file__).with_name("network_mixes.json")

WORLDS = tuple(PRESETS)
"""Synthetic worlds that samples can come from."""

SERVER_SHARE_MS = 50.0
"""What a budget leaves to the server unless a run says otherwise."""

MAX_BUDGET_MS = 10_000.0
"""Largest budget that the API takes."""


@dataclass(frozen=True)
class NetworkMix:
    """How devices are spread over network profiles.

    Args:
        shares: Share of the devices by profile; they need not add up to 1.

    Raises:
        ValueError: If a profile is unknown, a share negative or not finite, or there is no device at all.
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.shares) - set(PROFILES))
        if unknown:
            raise ValueError(f"Expected profiles of {sorted(PROFILES)}, got {unknown}.")
        if not all(0 <= share < math.inf for share in self.shares.values()) or not sum(self.shares.values()) > 0:
            raise ValueError(f"Expected shares of at least 0 and one above it, got {dict(self.shares)}.")

    def draw(self, random: Random) -> str:
        """Draw the profile of one device."""
        (profile,) = random.choices(list(self.shares), list(self.shares.values()))
        return profile


def load_mixes(path: Path = MIXES_FILE) -> dict[str, NetworkMix]:
    """Read mixes by name from a JSON file, ``{name: {profile: share}}``.

    Raises:
        ValueError: If the file is not of this form.
    """
    mixes = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(mixes, dict) or not all(isinstance(shares, dict) for shares in mixes.values()):
        raise ValueError(f"Expected {path} to hold {{name: {{profile: share}}}}.")
    return {name: NetworkMix(shares) for name, shares in mixes.items()}


def budget_for(
    link: Link, *, request_bytes: int, package_bytes: int, server_share_ms: float = SERVER_SHARE_MS
) -> float:
    """Give a device the time that its network takes for this exchange and a fixed share for the server, in ms."""
    network_ms = link.exchange_ms(request_bytes=request_bytes, response_bytes=package_bytes)
    return min(network_ms + server_share_ms, MAX_BUDGET_MS)


def device_histories(world: str, count: int, *, seed: int) -> list[list[int]]:
    """Return the raw item ids, oldest first, of ``count`` devices that were not there in training.

    Args:
        world: Preset of the synthetic world that the served model was trained on.
        count: Number of devices.
        seed: Which devices; one seed gives the same ones.

    Raises:
        ValueError: If there is no such preset.
    """
    if world not in PRESETS:
        raise ValueError(f"Expected a world of {sorted(PRESETS)}, got {world!r}.")
    # the catalogue does not depend on how many devices the world has, and theirs are not needed here
    return SyntheticWorld(replace(PRESETS[world], devices=1)).new_devices(count, seed=seed)


class SimulatedDevice:
    """One device under way: acts, so that its sample drifts, and remembers which parameters it holds.

    Starts somewhere in a random history; where a history ends, the next one begins and nothing is held.

    Args:
        histories: Raw item ids of devices, oldest first.
        length: Items that a sample has at most.
        profile: Name of its network profile.
        random: Its source of chance.
        items_per_step: Mean number of items that it touches between two requests; it may be none.
    """

    def __init__(
        self,
        histories: Sequence[Sequence[int]],
        *,
        length: int,
        profile: str,
        random: Random,
        items_per_step: float = 1.0,
    ) -> None:
        self.profile = profile
        self.link = PROFILES[profile]
        self._histories, self._length, self.random = histories, length, random
        self._stop = items_per_step / (1 + items_per_step)
        self._place = random.randrange(len(histories))
        self._end = random.randint(1, len(self._history))
        self._held: tuple[str, str, float] | None = None

    @property
    def sample(self) -> list[int]:
        """The most recent items, oldest first."""
        return list(self._history[max(0, self._end - self._length) : self._end])

    @property
    def held_tag(self) -> str | None:
        """Tag of the parameters that it holds."""
        return None if self._held is None else self._held[1]

    def act(self) -> None:
        """Touch the next items."""
        while self.random.random() < self._stop:
            self._end += 1
        if self._end > len(self._history):
            self._place, self._end, self._held = (self._place + 1) % len(self._histories), 1, None

    def hold(self, *, version: str, tag: str, now_s: float) -> None:
        """Remember the parameters that just arrived."""
        self._held = (version, tag, now_s)

    def request(self, device_id: str, *, now_s: float) -> dict[str, object]:
        """Say what this device sends, without the budget."""
        request: dict[str, object] = {"device": device_id, "sample": self.sample, "link": self.profile}
        if self._held is not None:
            version, tag, since_s = self._held
            request["current"] = {"version": version, "tag": tag, "age_s": round(now_s - since_s, 3)}
        return request

    @property
    def _history(self) -> Sequence[int]:
        return self._histories[self._place]


class Population:
    """Devices of which some ask much more often than others: the n-th most active one as often as ``1 / n ** skew``.

    Args:
        histories: Raw item ids of devices, oldest first.
        count: How many devices there are.
        length: Items that a sample has at most.
        mix: Their networks.
        random: Source of all chance in it.
        skew: Exponent of Zipf's law; with 0 all are equally active.
    """

    def __init__(
        self,
        histories: Sequence[Sequence[int]],
        count: int,
        *,
        length: int,
        mix: NetworkMix,
        random: Random,
        skew: float = 0.8,
    ) -> None:
        self._random = random
        self._devices = [
            SimulatedDevice(histories, length=length, profile=mix.draw(random), random=random) for _ in range(count)
        ]
        self._shares = list(accumulate(1 / (rank + 1) ** skew for rank in range(count)))

    def draw(self) -> tuple[int, SimulatedDevice]:
        """Draw who asks next; its number stays the same for the whole run."""
        (number,) = self._random.choices(range(len(self._devices)), cum_weights=self._shares)
        return number, self._devices[number]
