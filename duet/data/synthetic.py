"""A synthetic world: devices whose latent tastes drift over a catalogue of films, with the truth known.

Coordinates are genres. Item i has a vector ``v_i [d]``, near the unit vector of its genre, and a popularity ``p_i``.

    context of a device before step t   x_t = normalise(sum_s decay^(s-1) v(item s steps ago)),  x_0 = 0
    shared map                          A_0 = context_strength (stay I + (1 - stay) Next)    Next: genre g -> g + 1
    habit k, rank 1                     B_k = habit_strength toward_k after_k^T              the same for all devices
    taste of device u                   c_uk(0) ~ N(0, 1),  c_uk(t+1) = rho c_uk(t) + sqrt(1 - rho^2) N(0, 1)
                                        rho = 2^(-1 / half_life): Ornstein-Uhlenbeck, stationary, half-life in steps
    operator of the device              A_u(t) = A_0 + sum_k c_uk(t) B_k                     a rank-K residual on A_0
    next item                           P(i | u, t) ~ exp(v_i^T A_u(t) x_t + p_i), without the items the device has had

``after_k[g] = bias + sqrt(1 - bias^2) s_kg`` with signs ``s_kg``, half of them negative: after some genres a habit
pulls towards ``toward_k``, after the others (mostly) away from it. So devices differ in how they react to the *same*
context, which generated weights express and one classifier for all cannot. No device takes an item twice, so that
ranking the items a device has not seen, as the evaluation does, is the true task.

Why the truth is an upper bound: the expected NDCG@10 (and AUC) of one held-out item is largest when items are ranked by
their probability, so nothing that is computed from the past beats ``oracle_scores``. ``shared_scores`` averages P over
the stationary distribution of tastes: the best ranking for someone who sees the context and knows nothing else about
the device. A sequence model reads tastes from a longer history and lands between the two, as ``estimated_scores`` does:
the posterior mean of the tastes given the last transitions (a Gaussian filter, two Newton steps a transition) in place
of the tastes. How far apart they are: ``duet/data/headroom.py``, numbers in ``docs/data.md``.

Shapes: U devices, N items, L steps, K habits, d genres. Draws come from ``numpy.random.default_rng`` seeded with
(seed, purpose), so one seed gives the same bytes and new devices do not depend on how many devices there are.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from duet.data.interactions import Interactions

GENRES = (
    *("Space opera", "Heist comedy", "Courtroom drama", "Nordic noir", "Folk horror", "Samurai epic", "Road movie"),
    *("Cyberpunk thriller", "Period romance", "Desert western", "Nature documentary", "Stop motion", "Spy caper"),
    *("Coming of age", "Monster feature", "Backstage musical", "Disaster movie", "Time loop", "Silent slapstick"),
    "Mountain adventure",
)
"""Names of genres; a world uses the first ``SyntheticConfig.genres`` of them."""

FIRST_ITEM_ID = 1001
"""Raw id of catalogue index 1: raw ids and indices differ, so that mixing them up shows."""

_START_S = 1_704_067_200  # 2024-01-01T00:00:00Z
_DAY_S = 86_400
_MOST_STEPS = 2**15
_BLOCK_LOGITS = 32_000  # of the devices simulated together; they stay in the processor's cache
_CATALOGUE, _DEVICES, _NEW_DEVICES, _DRAWS = range(4)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticConfig:
    """What a world is made of; strengths are in logits, see the module for the formulas.

    Attributes:
        items: Catalogue size N.
        devices: Number of devices U.
        min_interactions: Fewest interactions of a device.
        max_interactions: Most interactions of a device.
        genres: Number of genres d.
        habits: Number of habits K, the rank of what differs between devices.
        half_life: Interactions after which half of a taste is left.
        decay: Weight of an item in the context against the next newer one.
        stay: Share of the shared map that stays in the genre.
        bias: Mean of ``after``: how far a habit is liking (1) rather than reaction to the context (0).
        context_strength: Factor of the shared map.
        habit_strength: Standard deviation, over items, of one habit's logits at taste 1.
        popularity: Standard deviation of ``p_i``.
        spread: Length of an item's own part against its genre's.
        join_days: Devices start at a uniform time within so many days.
        gap_days: Mean time between two interactions of a device.
        seed: Seed of everything.
    """

    items: int = 500
    devices: int = 1500
    min_interactions: int = 60
    max_interactions: int = 100
    genres: int = 16
    habits: int = 4
    half_life: float = 40.0
    decay: float = 0.5
    stay: float = 0.7
    bias: float = 0.3
    context_strength: float = 3.0
    habit_strength: float = 3.0
    popularity: float = 0.5
    spread: float = 0.6
    join_days: float = 90.0
    gap_days: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.genres <= len(GENRES) or self.items < self.genres:
            raise ValueError(f"Expected 2 to {len(GENRES)} genres and an item for each, got {self.genres}.")
        if not 1 <= self.min_interactions <= self.max_interactions < min(self.items, _MOST_STEPS):
            raise ValueError(
                f"Expected 1 <= min_interactions <= max_interactions < items (no item comes twice), got "
                f"{self.min_interactions}, {self.max_interactions}, {self.items}."
            )
        if self.devices < 1 or self.habits < 1 or self.half_life <= 0:
            raise ValueError("Expected at least one device and one habit, and a positive half-life.")


PRESETS = {
    "demo": SyntheticConfig(),
    "small": SyntheticConfig(
        items=120, devices=1500, min_interactions=50, max_interactions=60, genres=8, habits=2, half_life=25.0
    ),
    "tiny": SyntheticConfig(
        items=60, devices=120, min_interactions=22, max_interactions=26, genres=6, habits=2, half_life=20.0
    ),
}
"""Worlds by name: ``demo`` for the demo and its tables, ``small`` for tests that train until personalisation pays,
``tiny`` for unit tests (too little data to learn from)."""


@dataclass(frozen=True)
class _Catalogue:
    vectors: Floats  # [N, d]
    popularity: Floats  # [N]
    genres: NDArray[np.int64]  # [N]
    shared_logits: Floats  # [d, N]: context -> logits of the shared map
    after: Floats  # [K, d]
    habit_logits: Floats  # [K, N]: what taste 1 adds at after . x = 1


@dataclass(frozen=True)
class _Histories:
    items: NDArray[np.int64]  # [U, L], from 0
    lengths: NDArray[np.int64]  # [U]
    contexts: Floats  # [U, L + 1, d]
    tastes: Floats  # [U, L + 1, K]
    taken: NDArray[np.int16]  # [U, N]: step at which a device takes an item, L if never
    timestamps: NDArray[np.int64]  # [U, L]

    def block(self, rows: slice) -> "_Histories":
        """Return some devices (views)."""
        return _Histories(
            self.items[rows],
            self.lengths[rows],
            self.contexts[rows],
            self.tastes[rows],
            self.taken[rows],
            self.timestamps[rows],
        )


class SyntheticWorld:
    """Owns a catalogue, the histories of its devices and their true tastes; immutable once made.

    Ground truth is asked for ``device`` (0 to U - 1) and ``step``: the scores are for the item at position ``step`` of
    the device's sequence, given those before it; ``step`` may equal the length of the sequence (the item to come).
    Both may be arrays that broadcast; the scores then have their shape before ``[N]``. Scores are log-probabilities
    over catalogue order, minus infinity for items that the device has had.
    """

    def __init__(self, config: SyntheticConfig, *, _new_devices: int | None = None) -> None:
        self.config = config
        self._catalogue = _make_catalogue(config)
        self._new_devices = _new_devices
        purpose = [_DEVICES] if _new_devices is None else [_NEW_DEVICES, _new_devices]
        rng = np.random.default_rng([config.seed, *purpose])
        self._histories = _simulate(config, self._catalogue, rng)

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles in catalogue order, such as ``Space opera #12``."""
        seen = dict.fromkeys(range(self.config.genres), 0)
        titles = []
        for genre in self._catalogue.genres.tolist():
            seen[genre] += 1
            titles.append(f"{GENRES[genre]} #{seen[genre]}")
        return tuple(titles)

    @property
    def item_ids(self) -> tuple[int, ...]:
        """Raw ids in catalogue order."""
        return tuple(range(FIRST_ITEM_ID, FIRST_ITEM_ID + self.config.items))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of interactions of every device, int64 ``[U]``."""
        return self._histories.lengths.copy()

    @property
    def tastes(self) -> Floats:
        """True tastes before every step, float64 ``[U, L + 1, K]``, L the longest length."""
        return self._histories.tastes.copy()

    def interactions(self, name: str = "synthetic") -> Interactions:
        """Return what the devices did, as a loader would."""
        histories = self._histories
        kept = np.arange(histories.items.shape[1]) < histories.lengths[:, None]
        prefix = "device" if self._new_devices is None else f"new-{self._new_devices}"
        return Interactions(
            name=name,
            items=(histories.items[kept] + 1).astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(histories.lengths)]).astype(np.int64),
            users=tuple(f"{prefix}-{device:04d}" for device in range(len(histories.lengths))),
            item_ids=self.item_ids,
            titles=self.titles,
            timestamps=histories.timestamps[kept],
        )

    def taken_items(self, device: ArrayLike, step: ArrayLike) -> NDArray[np.int64]:
        """Return the place in catalogue order (from 0) of the item taken at ``step``, int64 ``[...]``."""
        device, step = self._positions(device, step)
        if np.any(step >= self._histories.lengths[device]):
            raise ValueError("Expected steps before the end of the sequence: the item to come is not known.")
        return self._histories.items[device, step]

    def with_new_devices(self, count: int, *, seed: int) -> "SyntheticWorld":
        """Return the same catalogue and habits with ``count`` other devices of the same distribution.

        Args:
            count: Number of devices.
            seed: Which devices; the same seed gives the same ones.

        Returns:
            A world whose devices never appear in this one.
        """
        return SyntheticWorld(replace(self.config, devices=count), _new_devices=seed)

    def new_devices(self, count: int, *, seed: int) -> list[list[int]]:
        """Return raw item ids, oldest first, of ``count`` devices that never appear in this world; for load tests."""
        histories = self.with_new_devices(count, seed=seed)._histories
        rows = (histories.items + FIRST_ITEM_ID).tolist()
        return [row[:length] for row, length in zip(rows, histories.lengths.tolist(), strict=True)]

    def oracle_scores(self, device: ArrayLike, step: ArrayLike) -> Floats:
        """Return the true log-probabilities, with the device's own tastes, ``[..., N]``."""
        return self.stale_scores(device, step, 0)

    def stale_scores(self, device: ArrayLike, step: ArrayLike, lag: int) -> Floats:
        """Return log-probabilities with the tastes of ``lag`` steps ago and the context of now, ``[..., N]``."""
        device, step = self._positions(device, step, earliest=lag)
        return self._log_probabilities(device, step, self._histories.tastes[device, step - lag])

    def shared_scores(self, device: ArrayLike, step: ArrayLike, *, draws: int = 256) -> Floats:
        """Return log-probabilities averaged over the tastes a device may have, ``[..., N]``.

        Args:
            device: Device or devices.
            step: Step or steps.
            draws: Number of tastes drawn from their stationary distribution, the same ones in every call.
        """
        device, step = self._positions(device, step)
        rng = np.random.default_rng([self.config.seed, _DRAWS])
        total = np.zeros((*device.shape, self.config.items))
        for tastes in rng.standard_normal((draws, self.config.habits)):
            total += np.exp(self._log_probabilities(device, step, tastes))
        with np.errstate(divide="ignore"):
            return np.log(total / draws)

    def estimated_scores(self, device: ArrayLike, step: ArrayLike, *, window: int = 20) -> Floats:
        """Return log-probabilities with tastes estimated from the last ``window`` transitions, ``[..., N]``.

        What a generator could know: the world's laws and the device's recent items, not its tastes.
        """
        device, step = self._positions(device, step, earliest=window)
        return self._log_probabilities(device, step, self.estimate_tastes(device, step, window=window))

    def estimate_tastes(self, device: ArrayLike, step: ArrayLike, *, window: int = 20) -> Floats:
        """Return the posterior mean of the tastes given the ``window`` transitions before ``step``, ``[..., K]``.

        The filter starts from N(0, I); a transition multiplies in its softmax likelihood (Laplace approximation), the
        drift then pulls mean and covariance back by rho.
        """
        device, step = self._positions(device, step, earliest=window)
        habits, rho = self._catalogue.habit_logits, _rho(self.config)
        prior = np.eye(self.config.habits)
        mean = np.zeros((*device.shape, self.config.habits))
        covariance = np.broadcast_to(prior, (*mean.shape, self.config.habits))
        for age in range(window, 0, -1):
            at = step - age
            after = self._histories.contexts[device, at] @ self._catalogue.after.T  # [..., K]
            taken = habits.T[self._histories.items[device, at]]  # [..., K]
            precision = np.linalg.inv(covariance)
            predicted = mean
            for _ in range(2):
                probabilities = np.exp(self._log_probabilities(device, at, mean))
                expected = probabilities @ habits.T
                spread = (probabilities[..., None, :] * habits) @ habits.T - _outer(expected)
                curvature = precision + spread * _outer(after)
                slope = after * (taken - expected) - (precision @ (mean - predicted)[..., None])[..., 0]
                mean = mean + np.linalg.solve(curvature, slope[..., None])[..., 0]
            mean = rho * mean
            covariance = rho**2 * np.linalg.inv(curvature) + (1 - rho**2) * prior
        return mean

    def _log_probabilities(self, device: NDArray[np.int64], step: NDArray[np.int64], tastes: Floats) -> Floats:
        logits = _logits(self._catalogue, self._histories.contexts[device, step], tastes)
        logits[self._histories.taken[device] < step[..., None]] = -np.inf
        highest = logits.max(axis=-1, keepdims=True)
        total = np.exp(logits - highest).sum(axis=-1, keepdims=True)
        scores: Floats = logits - highest - np.log(total)
        return scores

    def _positions(
        self, device: ArrayLike, step: ArrayLike, *, earliest: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        device, step = np.broadcast_arrays(np.asarray(device, dtype=np.int64), np.asarray(step, dtype=np.int64))
        if device.size and not (device.min() >= 0 and device.max() < len(self._histories.lengths)):
            raise ValueError(f"Expected devices in 0..{len(self._histories.lengths) - 1}.")
        if np.any(step < earliest) or np.any(step > self._histories.lengths[device]):
            raise ValueError(f"Expected steps in {earliest}..length of the device.")
        return device, step


def _make_catalogue(config: SyntheticConfig) -> _Catalogue:
    rng = np.random.default_rng([config.seed, _CATALOGUE])
    count, d, habits = config.items, config.genres, config.habits
    genres = rng.permutation(np.arange(count) % d)
    vectors = np.eye(d)[genres] + config.spread * rng.standard_normal((count, d)) / np.sqrt(d)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    following = np.roll(np.eye(d), 1, axis=0)
    shared = config.stay * np.eye(d) + (1 - config.stay) * following
    signs = np.where(rng.random((habits, d)).argsort(axis=1) < d // 2, 1.0, -1.0)
    toward = rng.standard_normal((habits, d))
    toward /= (vectors @ toward.T).std(axis=0)[:, None]
    return _Catalogue(
        vectors=vectors,
        popularity=config.popularity * rng.standard_normal(count),
        genres=genres,
        shared_logits=config.context_strength * shared.T @ vectors.T,
        after=config.bias + np.sqrt(1 - config.bias**2) * signs,
        habit_logits=config.habit_strength * toward @ vectors.T,
    )


def _logits(catalogue: _Catalogue, contexts: Floats, tastes: Floats) -> Floats:
    """Logits ``[..., N]`` for contexts ``[..., d]`` and tastes ``[..., K]``."""
    habits = (tastes * (contexts @ catalogue.after.T)) @ catalogue.habit_logits
    logits: Floats = contexts @ catalogue.shared_logits + habits + catalogue.popularity
    return logits


def _outer(rows: Floats) -> Floats:
    return rows[..., :, None] * rows[..., None, :]


def _rho(config: SyntheticConfig) -> float:
    return float(0.5 ** (1 / config.half_life))


def _simulate(config: SyntheticConfig, catalogue: _Catalogue, rng: np.random.Generator) -> _Histories:
    """Let all devices take one item a step, the longest length for each; lengths say how much of it counts."""
    count, steps = config.devices, config.max_interactions
    lengths = rng.integers(config.min_interactions, config.max_interactions, size=count, endpoint=True)
    tastes = rng.standard_normal((count, steps + 1, config.habits))
    rho = _rho(config)
    for step in range(steps):
        tastes[:, step + 1] = rho * tastes[:, step] + np.sqrt(1 - rho**2) * tastes[:, step + 1]
    uniforms = rng.random((count, steps))
    histories = _Histories(
        items=np.empty((count, steps), dtype=np.int64),
        lengths=lengths,
        contexts=np.zeros((count, steps + 1, config.genres)),
        tastes=tastes,
        taken=np.full((count, config.items), steps, dtype=np.int16),
        timestamps=_clock(config, rng),
    )
    together = max(1, _BLOCK_LOGITS // config.items)
    for start in range(0, count, together):
        rows = slice(start, start + together)
        _take_items(config, catalogue, histories.block(rows), uniforms[rows])
    return histories


def _take_items(config: SyntheticConfig, catalogue: _Catalogue, histories: _Histories, uniforms: Floats) -> None:
    """Fill in items, contexts and taken of a block of devices; ``uniforms [U, L]`` decide."""
    items, contexts, tastes, taken = histories.items, histories.contexts, histories.tastes, histories.taken
    devices, recent = np.arange(len(items)), np.zeros((len(items), config.genres))
    for step in range(items.shape[1]):
        logits = _logits(catalogue, contexts[:, step], tastes[:, step])
        logits[taken < step] = -np.inf
        logits -= logits.max(axis=1, keepdims=True)
        cumulative = np.exp(logits, out=logits).cumsum(axis=1)
        threshold = uniforms[:, step, None] * cumulative[:, -1:]
        chosen = np.minimum((cumulative <= threshold).sum(axis=1), config.items - 1)
        items[:, step], taken[devices, chosen] = chosen, step
        recent = config.decay * recent + catalogue.vectors[chosen]
        contexts[:, step + 1] = recent / np.linalg.norm(recent, axis=1, keepdims=True)


def _clock(config: SyntheticConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    """Times of all steps on one clock, in seconds, strictly increasing within a device, ``[U, L]``."""
    joined = rng.random((config.devices, 1)) * config.join_days * _DAY_S
    gaps = 60 + rng.exponential(config.gap_days * _DAY_S, size=(config.devices, config.max_interactions))
    times: NDArray[np.int64] = (_START_S + joined + gaps.cumsum(axis=1)).astype(np.int64)
    return times
