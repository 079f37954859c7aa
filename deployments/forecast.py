"""What makes a prediction too early: those who arrive meanwhile and join the batch, and whatever else nobody knows of.

    joining = arrivals a second, lately, * seconds until the batch forms
    around(n) <- around(n) + 0.05 * (error - around(n), between -2 and 2 ms)     n: inside, to a power of 2
    guard <- guard + step * (1 - q) if a request took longer than predicted by more than the guard, else - step * q

The last is a running estimate of the distance that only a share ``q`` of the requests exceeds (stochastic
approximation of a quantile); its step follows the size of the errors, so that it needs no unit.
"""

import math

_WINDOW_S = 0.1
_EXCEEDED = 0.001
_STEP, _FADING = 0.2, 0.98
_MOST_OF_PREDICTED = 0.5
_NEW_ERROR, _MOST_ERROR_MS = 0.05, 2.0


class ArrivalRate:
    """How many requests arrive a second, over about the last tenth of one."""

    def __init__(self) -> None:
        self._rate_s, self._seen_s = 0.0, -math.inf

    def note(self, now_s: float) -> None:
        """Count a request."""
        self._rate_s = self.at(now_s) + 1 / _WINDOW_S
        self._seen_s = now_s

    def at(self, now_s: float) -> float:
        """Tell the rate, requests a second."""
        return self._rate_s * math.exp((self._seen_s - now_s) / _WINDOW_S)


class PredictionGuard:
    """How much longer than predicted requests may take; only very few take longer still."""

    def __init__(self) -> None:
        self._guard_ms = self._scale_ms = 0.0

    def learn(self, error_ms: float) -> None:
        """Note by how much a request took longer than predicted; below zero if it took less."""
        self._scale_ms = _FADING * self._scale_ms + (1 - _FADING) * abs(error_ms)
        is_exceeded = error_ms > self._guard_ms
        self._guard_ms = max(0.0, self._guard_ms + _STEP * self._scale_ms * (is_exceeded - _EXCEEDED))

    def beyond(self, predicted_ms: float) -> float:
        """Tell what to allow for; a part of the prediction at most, or a stall would shut everybody out for good."""
        return min(self._guard_ms, _MOST_OF_PREDICTED * predicted_ms)


class WorkAround:
    """What a request takes beside queue and compute, reading and writing it and its neighbours, on the average."""

    def __init__(self) -> None:
        self._mean_ms: dict[int, float] = {}

    def learn(self, inside: int, error_ms: float) -> None:
        """Note by how much a request took longer than queue and compute were predicted, with so many inside."""
        place = inside.bit_length()
        known_ms = self._mean_ms.get(place, 0.0)
        # a pause of a second says nothing of the next request
        further_ms = max(-_MOST_ERROR_MS, min(_MOST_ERROR_MS, error_ms - known_ms))
        self._mean_ms[place] = known_ms + _NEW_ERROR * further_ms

    def predict_ms(self, inside: int) -> float:
        """Tell what to add with so many inside."""
        return max(0.0, self._mean_ms.get(inside.bit_length(), 0.0))
