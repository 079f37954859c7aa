"""When requests are due: a Poisson process whose rate changes with time and which knows nothing of replies.

    the n-th arrival is at the time t at which  integral from 0 to t of rate(s) ds  =  sum of n draws of Exp(1)

This is what every open loop here draws from: the Locust one beside it, and the asyncio one of ``benchmarks/``, which
shares a process with Ray and may not load Locust.
"""

from collections.abc import Callable, Iterator
from random import Random

_SLICES_A_SECOND = 50


def arrivals(rate: Callable[[float], float], random: Random, until_s: float, *, from_s: float = 0.0) -> Iterator[float]:
    """Draw arrivals, in seconds from the start.

    Args:
        rate: Arrivals a second at a time; taken as constant for 20 ms.
        random: Source of chance.
        until_s: The first time that is not drawn any more; infinity for a stream without end, whose rate must not
            become zero for good.
        from_s: Where to begin.

    Raises:
        ValueError: If a rate is negative.
    """
    number, now_s, left = int(from_s * _SLICES_A_SECOND), from_s, random.expovariate(1)
    while now_s < until_s:
        number += 1
        edge_s, per_s = number / _SLICES_A_SECOND, rate(now_s)
        if per_s < 0:
            raise ValueError(f"Expected a rate of at least 0, got {per_s:g} a second at {now_s:g} s.")
        while per_s * (edge_s - now_s) >= left:
            now_s += left / per_s
            if now_s >= until_s:
                return
            yield now_s
            left = random.expovariate(1)
        left -= per_s * (edge_s - now_s)
        now_s = edge_s
