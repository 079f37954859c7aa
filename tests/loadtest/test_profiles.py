"""Who the simulated devices are."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from duet.protocol.budget import PROFILES
from loadtest.profiles import NetworkMix, SimulatedDevice, budget_for, device_histories, load_mixes

HISTORIES = [list(range(100, 150)), list(range(200, 203))]


def device(seed=1, **options):
    return SimulatedDevice(HISTORIES, length=5, profile="lte", random=Random(seed), **options)


def test_every_mix_of_the_file_names_known_profiles_and_adds_up():
    mixes = load_mixes()

    assert {"mobile", "home", "rural"} <= set(mixes)
    for mix in mixes.values():
        assert sum(mix.shares.values()) == pytest.approx(1)


def test_devices_spread_as_the_mix_says():
    mix, random = NetworkMix({"lte": 3, "wifi": 1, "5g": 0}), Random(1)

    drawn = Counter(mix.draw(random) for _ in range(4000))

    assert drawn.keys() == {"lte", "wifi"}
    assert drawn["lte"] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    "shares",
    [{"pigeon": 1.0}, {}, {"lte": 0}, {"lte": -1, "wifi": 2}, {"lte": float("nan")}],
    ids=["unknown", "empty", "nobody", "negative", "nan"],
)
def test_a_mix_that_makes_no_sense_is_refused(shares):
    with pytest.raises(ValueError, match="Expected"):
        NetworkMix(shares)


def test_a_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "mixes.json").write_text(json.dumps({"mobile": 1}))

    with pytest.raises(ValueError, match=r"mixes\.json"):
        load_mixes(tmp_path / "mixes.json")


def test_a_budget_is_the_network_and_the_share_of_the_server():
    link = PROFILES["slow-3g"]

    budget_ms = budget_for(link, request_bytes=300, package_bytes=2000, server_share_ms=50)

    assert budget_ms == link.exchange_ms(request_bytes=300, response_bytes=2000) + 50


def test_a_budget_is_never_larger_than_the_api_takes():
    assert budget_for(PROFILES["slow-3g"], request_bytes=300, package_bytes=10**8) == 10_000


def test_a_sample_is_the_last_items_of_a_history():
    simulated = device()

    sample = simulated.sample

    history = HISTORIES[0] if sample[0] < 200 else HISTORIES[1]
    assert 1 <= len(sample) <= 5
    assert sample == history[history.index(sample[0]) :][: len(sample)]


def test_samples_drift_forward_and_now_and_then_stay():
    simulated, samples = device(), []
    for _ in range(30):
        samples.append(simulated.sample)
        simulated.act()

    pairs = list(pairwise(samples))
    assert any(old == new for old, new in pairs)
    assert any(old[-1] < new[-1] for old, new in pairs)


def test_a_device_that_acts_more_drifts_faster():
    def items(rate):
        simulated = SimulatedDevice(
            [list(range(10**5))], length=5, profile="lte", random=Random(1), items_per_step=rate
        )
        start = simulated.sample[-1]
        for _ in range(500):
            simulated.act()
        return (simulated.sample[-1] - start) / 500

    assert items(0.5) == pytest.approx(0.5, abs=0.15)
    assert items(3.0) == pytest.approx(3.0, abs=0.6)


def test_at_the_end_of_a_history_another_device_begins_with_nothing_in_hand():
    simulated = device()
    simulated.hold(version="v", tag="t", now_s=0.0)

    places = set()
    for _ in range(200):
        places.add(simulated.sample[0] // 100)
        simulated.act()
    assert places == {1, 2}
    assert simulated.held_tag is None


def test_what_is_held_is_told_with_its_age():
    simulated = device()
    before = simulated.request("phone-1", now_s=10.0)
    simulated.hold(version="ab", tag="cd", now_s=10.0)

    after = simulated.request("phone-1", now_s=12.5)

    assert before == {"device": "phone-1", "sample": simulated.sample, "link": "lte"}
    assert after["current"] == {"version": "ab", "tag": "cd", "age_s": 2.5}
    assert simulated.held_tag == "cd"


def test_the_same_seed_gives_the_same_devices():
    assert device_histories("tiny", 5, seed=3) == device_histories("tiny", 5, seed=3)
    assert device_histories("tiny", 5, seed=3) != device_histories("tiny", 5, seed=4)


def test_a_world_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="tiny"):
        device_histories("flat", 5, seed=0)


def test_the_parts_without_locust_load_no_locust_torch_or_ray():
    program = "import json, sys, loadtest.profiles, loadtest.replies; print(json.dumps(sorted(sys.modules)))"

    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not {name.partition(".")[0] for name in json.loads(process.stdout)} & {"locust", "gevent", "torch", "ray"}
