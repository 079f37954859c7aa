"""Bootstrap intervals over users: of a mean, and of a paired difference."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
COVERAGE = 0.95


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float, float]:
    """Return mean, and the ends of its 95 % percentile bootstrap interval over users.

    Args:
        values: One value a user, ``[U]``, or one difference a user for a paired comparison.
        seed: Seed of the resampling.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("Expected at least one user, got none.")
    rng = np.random.default_rng([seed, len(values)])
    means = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        means[index] = values[rng.integers(0, len(values), len(values))].mean()
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(values.mean()), float(low), float(high)
