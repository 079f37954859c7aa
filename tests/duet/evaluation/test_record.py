"""What a run leaves comes back exactly, is small, and is refused when it is not what it says."""

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet.evaluation.record import (
    METRICS,
    RunRecord,
    pack,
    pack_mask,
    read_record,
    unpack,
    unpack_mask,
    write_record,
)
from duet.protocol.errors import UnusableRun
from duet.training.config import TrainingConfig, difference
from tests.duet.evaluation.records import ITEMS, made_up, made_up_duet, random_ranks

halves = st.integers(0, 2**32 - 1).map(lambda doubled: doubled / 2)


@given(st.lists(halves, min_size=1, max_size=50))
def test_ranks_in_halves_come_back_exactly(ranks):
    ranks = np.array(ranks)

    np.testing.assert_array_equal(unpack(pack(ranks), len(ranks)), ranks)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_masks_come_back(mask):
    assert unpack_mask(pack_mask(np.array(mask)), len(mask)).tolist() == mask


@pytest.mark.parametrize("ranks", [[1.25], [-0.5], [np.nan], [2.0**31]], ids=str)
def test_what_is_no_rank_is_not_packed(ranks):
    with pytest.raises(ValueError, match="halves"):
        pack(np.array(ranks))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        base64.b64encode(b"no zlib").decode(),
        base64.b64encode(zlib.compress(bytes(7))).decode(),
        base64.b64encode(zlib.compress(bytes(30))).decode(),
        base64.b64encode(zlib.compress(bytes(10**6))).decode(),
        base64.b64encode(zlib.compress(bytes(10)) + b"more").decode(),
        base64.b64encode(zlib.compress(bytes(10))[:-1]).decode(),
    ],
    ids=["empty", "no base64", "no zlib", "too short", "three bytes a rank", "a bomb", "more after it", "cut"],
)
def test_packed_values_that_are_damaged_or_too_long_are_refused(text):
    with pytest.raises(ValueError, match=r"packed|expected"):
        unpack(text, 10)
    with pytest.raises(ValueError, match=r"packed|expected"):
        unpack_mask(text, 80)


def test_a_record_comes_back_as_it_was(tmp_path):
    record = made_up_duet(seed=3)

    path = write_record(tmp_path / "paper", record)

    found = read_record(path)
    assert path == tmp_path / "paper" / "duet-r4-s3.json"
    assert found.model_dump(exclude={"origin"}) == record.model_dump(exclude={"origin"})
    assert found.origin == str(path)
    assert found.to_json() == path.read_text(encoding="utf-8")
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_ranks_and_metrics_of_every_user_are_in_it(tmp_path):
    ranks = random_ranks(0, skill=3.0)

    record = read_record(write_record(tmp_path / "paper", made_up_duet()))

    for name in ("full", "sampled", "negatives"):
        np.testing.assert_array_equal(getattr(record.ranks("factors-r4"), name), getattr(ranks, name))
    for name, metric in METRICS.items():
        np.testing.assert_array_equal(record.values("factors-r4", name), metric(ranks))
        assert record.answers["factors-r4"].metrics[name] == metric(ranks).mean()
    assert record.group("cold").sum() == 20


def test_the_place_of_the_log_is_not_recorded_and_its_absence_makes_no_difference(tmp_path):
    config = TrainingConfig(model="static", data={"source": "/home/somebody/secret.txt"})

    path = write_record(tmp_path / "paper", made_up(config=config))

    assert "somebody" not in path.read_text(encoding="utf-8")
    assert difference(read_record(path).config, config) is None


def test_a_thousand_users_take_a_few_kilobytes_a_condition():
    one = made_up(users=1000, skills={"shared": 10.0})
    two = made_up(users=1000, skills={"shared": 10.0, "full": 12.0})

    assert len(two.to_json()) - len(one.to_json()) < 2500


def change(document, path, value):
    *outer, last = path
    level = document
    for key in outer:
        level = level[key]
    level[last] = value


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["schema"], 2, "schema"),
        (["answers"], {}, "answers"),
        (["answers", "shared", "metrics", "uauc"], 0.5, "mean uauc of shared"),
        (["answers", "shared", "full"], pack(np.full(80, ITEMS + 2.0)), "ranks that its items do not allow"),
        (["answers", "shared", "full"], pack(np.zeros(80)), "ranks that its items do not allow"),
        (["answers", "shared", "sampled"], pack(np.full(80, 101.0)), "ranks that its items do not allow"),
        (["answers", "shared", "sampled"], pack(np.ones(79)), "80 ranks"),
        (["groups", "cold"], pack_mask(np.ones(90, bool)), "at most"),
        (["dataset", "evaluated"], 81, "81 users"),
        (["dataset", "evaluated"], 0, "evaluated"),
        (["config", "model"], "oracle", "config.model"),
        (["config", "colour"], "red", "config.colour"),
        (["note"], "hello", "note"),
        (["name"], "dynamic", "record of paper/dynamic-s0"),
        (["grid"], "other", "record of other/static-s0"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, list) else None,
)
def test_a_record_that_is_not_what_it_says_is_refused(tmp_path, path, value, reason):
    file = write_record(tmp_path / "paper", made_up())
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document, path, value)
    file.write_text(json.dumps(document), encoding="utf-8")

    with pytest.raises(UnusableRun, match=reason) as caught:
        read_record(file)

    assert caught.value.path == str(file)
    assert "delete it" in caught.value.remedy


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"\xff" + data], ids=["cut", "empty", "not-text"]
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = write_record(tmp_path / "paper", made_up())
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(UnusableRun, match="no record of a run"):
        read_record(path)


def test_a_file_beyond_all_measure_is_not_even_read(tmp_path):
    path = tmp_path / "static-s0.json"
    with path.open("wb") as file:
        file.truncate(2**27)

    with pytest.raises(UnusableRun, match="more than"):
        read_record(path)


def test_a_record_without_a_setting_that_came_later_means_its_default(tmp_path):
    record = made_up_duet()
    document = json.loads(record.to_json())
    del document["config"]["optimisation"]["stale_share"]

    assert RunRecord.model_validate_json(json.dumps(document)).config == record.config
