"""A canary is a share of the devices, the same everywhere and always; it is given up, or passes, in one step."""

import json
import threading
from pathlib import Path

import pytest

from duet.protocol.errors import CorruptVersion, InvalidRequest, UnknownVersion
from duet.registry import Canary, Registry
from duet.registry.pin import only_writer
from tests.duet.small_version import publish

TAKEN_BY_FILMS = [f"device-{number}" for number in (0, 5, 32, 37, 48, 57)]
DEVICES = [f"device-{number}" for number in range(20_000)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Versions v1, which is pinned, v2 and v3 of model films."""
    registry = Registry(tmp_path / "models")
    publish(registry, "v1")
    registry.activate("films", "v1")
    for version in ("v2", "v3"):
        publish(registry, version)
    return registry


def canary(percent: float) -> Canary:
    return Canary("v2", percent, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("percent", [1, 10, 50, 99.5])
def test_a_canary_takes_its_share_of_the_devices(percent: float) -> None:
    taken = sum(canary(percent).takes("films", device) for device in DEVICES)

    # four standard deviations of the share of 20,000 fair draws
    assert taken / len(DEVICES) == pytest.approx(percent / 100, abs=4 * (0.25 / len(DEVICES)) ** 0.5)


def test_a_wider_canary_keeps_the_devices_of_a_narrower_one() -> None:
    narrow, wide = ({device for device in DEVICES if canary(percent).takes("films", device)} for percent in (10, 50))

    assert narrow < wide


def test_which_devices_a_canary_takes_never_changes() -> None:
    # written down, because another process, or a later library, has to decide alike
    taken = [device for device in DEVICES[:60] if canary(10).takes("films", device)]

    assert taken == TAKEN_BY_FILMS


def test_another_model_has_its_canary_on_other_devices() -> None:
    films, songs = ([canary(10).takes(model, device) for device in DEVICES] for model in ("films", "songs"))

    both = sum(left and right for left, right in zip(films, songs, strict=True))
    assert both / len(DEVICES) == pytest.approx(0.01, abs=0.005)


def test_any_text_is_a_device() -> None:
    assert {canary(50).takes("films", device) for device in ("", "ü", "\ud800", "a" * 128)} <= {True, False}


def test_a_canary_stands_beside_the_pin_until_it_passes(registry: Registry) -> None:
    registry.start_canary("films", "v2", 10)
    started = registry.pin("films")
    registry.start_canary("films", "v2", 50)
    widened = registry.pin("films")
    registry.activate("films", "v2")
    finished = registry.pin("films")

    assert (started.version, started.canary.version, started.canary.percent) == ("v1", "v2", 10.0)
    assert started.versions == ("v1", "v2")
    assert finished.versions == ("v2", "v1")
    assert widened.canary.percent == 50.0
    assert widened.canary.since > started.canary.since
    assert (finished.version, finished.previous, finished.canary, finished.ended) == ("v2", "v1", None, None)
    assert registry.rollback("films") == "v1"


def test_rolling_back_ends_the_canary_first_and_the_pin_after_that(registry: Registry) -> None:
    registry.activate("films", "v2")
    registry.start_canary("films", "v3", 10)

    assert registry.rollback("films") == "v2"
    assert registry.pin("films").ended.version == "v3"
    assert registry.rollback("films") == "v1"


def test_a_canary_that_failed_is_given_up_with_its_reason(registry: Registry) -> None:
    registry.start_canary("films", "v2", 10)
    trial = registry.pin("films").canary

    assert registry.end_canary("films", trial, "31 of 200 requests were late")

    pin = registry.pin("films")
    assert (pin.version, pin.canary) == ("v1", None)
    assert (pin.ended.version, pin.ended.percent, pin.ended.since) == ("v2", 10.0, trial.since)
    assert pin.ended.reason == "31 of 200 requests were late"
    assert pin.ended.ended > trial.since


def test_the_verdict_on_one_trial_does_not_end_the_next_one(registry: Registry) -> None:
    registry.start_canary("films", "v2", 10)
    first = registry.pin("films").canary
    registry.start_canary("films", "v2", 10)

    assert not registry.end_canary("films", first, "too many were late")
    assert registry.pin("films").canary.version == "v2"


def test_activating_another_version_gives_the_canary_up(registry: Registry) -> None:
    registry.start_canary("films", "v2", 10)

    registry.activate("films", "v3")

    assert registry.pin("films").canary is None
    assert "version v3 was activated" in registry.pin("films").ended.reason


@pytest.mark.parametrize("percent", [0, -1, 100, 101, float("nan")])
def test_a_share_is_more_than_none_and_less_than_all(registry: Registry, percent: float) -> None:
    with pytest.raises(InvalidRequest, match="more than 0 and less than 100"):
        registry.start_canary("films", "v2", percent)


def test_a_canary_of_the_active_or_of_no_version_changes_nothing(registry: Registry) -> None:
    before = (registry.root / "films" / "active").read_bytes()

    with pytest.raises(InvalidRequest, match="beside the active one"):
        registry.start_canary("films", "v1", 10)
    with pytest.raises(UnknownVersion):
        registry.start_canary("films", "v9", 10)

    assert (registry.root / "films" / "active").read_bytes() == before


def test_the_first_canary_pins_what_was_active_by_being_the_newest(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for version in ("v1", "v2"):
        publish(registry, version)

    registry.start_canary("films", "v1", 10)
    publish(registry, "v3")

    assert registry.pin("films").version == "v2"


@pytest.mark.parametrize(
    "change",
    [
        {"canary": {"version": "v2", "percent": 10}},
        {"canary": {"version": "v2", "percent": 0, "since": ""}},
        {"canary": {"version": "v2", "percent": True, "since": ""}},
        {"canary": {"version": 2, "percent": 10, "since": ""}},
        {"canary": "v2"},
        {"ended": {"version": "v2"}},
        {"since": 3},
        {"another": 1},
    ],
    ids=str,
)
def test_a_pin_that_says_something_else_is_an_error(registry: Registry, change: dict[str, object]) -> None:
    pin = {"version": "v1", "previous": None, "since": None, "canary": None, "ended": None}
    (registry.root / "films" / "active").write_text(json.dumps(pin | change))

    with pytest.raises(CorruptVersion, match="the pin is not of the form"):
        registry.pin("films")


def test_a_pin_of_two_fields_is_read(registry: Registry) -> None:
    (registry.root / "films" / "active").write_text('{"version": "v2", "previous": "v1"}')

    assert registry.pin("films").versions == ("v2", "v1")


def test_two_who_change_a_pin_take_turns(registry: Registry) -> None:
    changed = threading.Event()

    def activate() -> None:
        registry.activate("films", "v2")
        changed.set()

    with only_writer(registry.root / "films"):
        other = threading.Thread(target=activate)
        other.start()
        is_changed_meanwhile = changed.wait(0.2)
    other.join(10)

    assert not is_changed_meanwhile
    assert registry.active("films") == "v2"
