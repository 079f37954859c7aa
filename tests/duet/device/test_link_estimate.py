"""What a device believes of its link: the next exchange is predicted, one stall is not believed, a change soon is."""

import itertools
import math
import random

import pytest

from duet.device.link_estimate import LinkEstimate
from duet.protocol.budget import PROFILES, Link

SIZES = [(500, 640), (530, 1100), (530, 2000), (520, 2900), (510, 720)]
SAMPLE = [101, 109, 117]
PAIRS = list(itertools.permutations(PROFILES, 2))


def exchange_ms(link: Link, size: tuple[int, int]) -> float:
    return link.network_ms(*size)


def learnt(assumed: Link, real: Link, count: int, *, noise: float = 0.0) -> LinkEstimate:
    estimate, draws = LinkEstimate(assumed), random.Random(0)
    for up, down in itertools.islice(itertools.cycle(SIZES), count):
        took_ms = exchange_ms(real, (up, down)) * math.exp(draws.gauss(0, noise))
        estimate.observe(up_bytes=up, down_bytes=down, network_ms=took_ms)
    return estimate


def test_before_the_first_exchange_the_assumed_link_is_believed() -> None:
    assert LinkEstimate(PROFILES["lte"]).link == PROFILES["lte"]


@pytest.mark.parametrize(("assumed", "real"), PAIRS, ids=map("-".join, PAIRS))
def test_exchanges_of_sizes_that_were_seen_are_predicted_whatever_was_assumed(assumed: str, real: str) -> None:
    estimate = learnt(PROFILES[assumed], PROFILES[real], 40)

    for size in SIZES:
        assert exchange_ms(estimate.link, size) == pytest.approx(exchange_ms(PROFILES[real], size), rel=0.15, abs=2)


def test_noise_is_averaged() -> None:
    estimate = learnt(PROFILES["lte"], PROFILES["fast-4g"], 60, noise=0.3)

    assert exchange_ms(estimate.link, SIZES[1]) == pytest.approx(exchange_ms(PROFILES["fast-4g"], SIZES[1]), rel=0.35)


def test_one_stalled_exchange_is_no_slow_link() -> None:
    estimate = learnt(PROFILES["lte"], PROFILES["lte"], 20)
    estimate.observe(up_bytes=150, down_bytes=500, network_ms=20_000)

    assert exchange_ms(estimate.link, SIZES[1]) < 2 * exchange_ms(PROFILES["lte"], SIZES[1])


@pytest.mark.parametrize(("before", "after"), [("wifi", "slow-3g"), ("slow-3g", "wifi"), ("lte", "slow-4g")])
def test_a_link_that_has_changed_is_believed_after_some_exchanges(before: str, after: str) -> None:
    estimate = learnt(PROFILES[before], PROFILES[before], 20)
    for up, down in itertools.islice(itertools.cycle(SIZES), 15):
        took_ms = exchange_ms(PROFILES[after], (up, down))
        estimate.observe(up_bytes=up, down_bytes=down, network_ms=took_ms)

    assert exchange_ms(estimate.link, SIZES[1]) == pytest.approx(exchange_ms(PROFILES[after], SIZES[1]), rel=0.3, abs=5)


@pytest.mark.parametrize("nonsense", [-1.0, math.nan, math.inf])
def test_times_that_no_exchange_can_take_are_left_out(nonsense: float) -> None:
    estimate = LinkEstimate(PROFILES["lte"])

    estimate.observe(up_bytes=150, down_bytes=500, network_ms=nonsense)

    assert estimate.link == PROFILES["lte"]


def test_whatever_is_observed_makes_a_usable_link() -> None:
    estimate = LinkEstimate(Link(0.1, 0.1, 0))
    for network_ms in (0.0, 1e12, 0.0, 1e-9):
        estimate.observe(up_bytes=0, down_bytes=10**9, network_ms=network_ms)

    assert isinstance(estimate.link, Link)


def slow(cloud, clock, link: Link, server_ms: float = 2.5):
    """Let an exchange take as long as it would over a link."""

    def answer(request):
        answered = cloud.answer(request)
        up_bytes = len(request.content) + 300
        clock.now += (link.network_ms(up_bytes, len(answered.content) + 500) + server_ms) / 1000
        return answered

    return answer


def test_a_device_tells_the_cloud_the_link_that_it_has_learnt(make_device, cloud, clock) -> None:
    device = make_device(link="wifi", measures_link=True)
    device.prepare()

    for item in range(20):
        cloud.fail(slow(cloud, clock, PROFILES["slow-3g"]))
        device.update([101 + item % 3, 109, 117])

    first, *_, last = (asked["link"] for asked in cloud.asked)
    assert first == {"down_kbps": 30000, "up_kbps": 15000, "rtt_ms": 2}
    learnt_ms, real_ms = (exchange_ms(link, (700, 900)) for link in (Link(**last), PROFILES["slow-3g"]))
    assert learnt_ms == pytest.approx(real_ms, rel=0.2)
    assert exchange_ms(device.link, (700, 900)) == pytest.approx(real_ms, rel=0.2)


def test_a_device_that_is_told_its_link_keeps_to_it(make_device, cloud, clock) -> None:
    device = make_device(link="wifi")
    device.prepare()

    for _ in range(5):
        cloud.fail(slow(cloud, clock, PROFILES["slow-3g"]))
        device.update(SAMPLE)

    assert {asked["link"] for asked in cloud.asked} == {"wifi"}
    assert device.link == PROFILES["wifi"]


@pytest.mark.parametrize("said", [None, "soon"])
def test_an_answer_that_does_not_tell_the_server_time_says_nothing_of_the_link(make_device, cloud, clock, said) -> None:
    def answer(request):
        answered = slow(cloud, clock, PROFILES["slow-3g"])(request)
        del answered.headers["Duet-Server-Ms"]
        if said:
            answered.headers["Duet-Server-Ms"] = said
        return answered

    device = make_device(link="wifi", measures_link=True)
    device.prepare()
    cloud.fail(answer)

    assert device.update(SAMPLE).status == "updated"
    assert device.link == PROFILES["wifi"]
