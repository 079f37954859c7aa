"""What a batch costs, learnt from the batches that ran.

    cost(n) = a * n + b

``n`` devices in the batch, ``a`` milliseconds a device, ``b`` milliseconds a batch. Both come from least squares whose
observations fade, with every further batch and with every second of silence: the estimate follows a machine that warms
up or gets busy, and one slow batch is not held against a model for long. How far batches were from the line, as a part
of it, fades likewise and says how long one takes that takes long.

A core of a shared machine changes its speed within a batch or two, where the line takes twenty to follow: what is
predicted is the line times a level, how many times as long as the line says the last few batches took.
"""

import math

_FADING_A_BATCH = 0.95
_FADING_A_SECOND = 0.5
_PRIOR_MS = 5.0
_SPREAD_NEEDED = 0.25
_PRIOR_DEVIATION, _DEVIATIONS = 0.1, 2.0
# a batch beyond twice its prediction was interrupted: how long it was says nothing of the next
_MOST_OFF, _LEAST_MS = 1.0, 0.01
# believed whole, a pause of a second would shut everybody out for many batches
_MOST_TIMES = 8.0
_NEW_LEVEL, _MOST_NEW = 0.2, 0.5


class ComputeEstimate:
    """The running estimate of one kind of batch. Keeps five sums and the line through them, no history."""

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0
        self._variance = _PRIOR_DEVIATION**2
        self._mean_size = self._mean_ms = 0.0
        self._slope: float | None = None
        self._level = 1.0

    def observe(self, size: int, elapsed_ms: float, *, silence_s: float = 0.0) -> None:
        """Learn from a batch of ``size`` devices that took ``elapsed_ms``, begun ``silence_s`` after the one before."""
        if self._weight:
            off = min(elapsed_ms / max(self.predict_ms(size), _LEAST_MS) - 1.0, _MOST_OFF)
            self._variance += (1.0 - _FADING_A_BATCH) * (off * off - self._variance)
            elapsed_ms = min(elapsed_ms, _MOST_TIMES * max(self.predict_ms(size), _LEAST_MS))
        fading = _FADING_A_BATCH * _FADING_A_SECOND**silence_s
        self._weight = self._weight * fading + 1.0
        self._n = self._n * fading + size
        self._t = self._t * fading + elapsed_ms
        self._nn = self._nn * fading + size * size
        self._nt = self._nt * fading + size * elapsed_ms
        self._fit()
        further = elapsed_ms / max(self._line_ms(size), _LEAST_MS) - self._level
        self._level += _NEW_LEVEL * max(-_MOST_NEW, min(_MOST_NEW, further))

    def upper_ms(self, size: int) -> float:
        """Estimate by when nearly every batch of ``size`` devices is done."""
        return self.predict_ms(size) * (1.0 + _DEVIATIONS * math.sqrt(self._variance))

    def predict_ms(self, size: float) -> float:
        """Estimate a batch of ``size`` devices; a fixed guess before the first observation."""
        return self._level * self._line_ms(size) if self._weight else _PRIOR_MS

    def _line_ms(self, size: float) -> float:
        if self._slope is None:
            # one size only says nothing of the slope: a larger batch costs in proportion, a smaller one no less
            return self._mean_ms * max(1.0, size / self._mean_size)
        return self._mean_ms + self._slope * (size - self._mean_size)

    def _fit(self) -> None:
        """Draw the line: it is asked several times a request, and learns once a batch."""
        self._mean_size, self._mean_ms = self._n / self._weight, self._t / self._weight
        variance = self._nn / self._weight - self._mean_size**2
        self._slope = None
        if variance >= _SPREAD_NEEDED:
            slope = max((self._nt / self._weight - self._mean_size * self._mean_ms) / variance, 0.0)
            # a batch costs something however small it is, so the line never starts below zero
            self._slope = min(slope, self._mean_ms / self._mean_size)
