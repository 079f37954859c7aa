"""``duet device`` against a cloud that answers over HTTP with parameters for a tiny version."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands import app
from duet.device.runtime import DeviceModel
from duet.protocol.package import ParameterPackage
from duet.registry import Registry
from tests.app.commands.conftest import FakeCloud

SAMPLE = [101, 103, 107]


def duet_device(cloud: FakeCloud, cache: Path, *arguments: str) -> Result:
    options = ["--url", cloud.url, "--model", "tiny", "--sample", ",".join(map(str, SAMPLE)), "--cache", str(cache)]
    return CliRunner().invoke(app, ["device", *options, *arguments], env={"COLUMNS": "120"})


def test_both_lists_are_what_the_device_model_says_before_and_after_the_swap(cloud: FakeCloud, tmp_path: Path) -> None:
    model = DeviceModel.load(cloud.version.path("device.onnx"))
    before = model.predict(SAMPLE, k=5)
    model.swap(ParameterPackage.decode(cloud.package, model.table).compose(model.shared))
    after = model.predict(SAMPLE, k=5)

    result = duet_device(cloud, tmp_path, "--k", "5")

    assert result.exit_code == 0
    rows = [line.split("Item #") for line in result.stdout.splitlines() if "Item #" in line]
    assert [f"Item #{row[1].strip()}" for row in rows] == list(before.titles)
    assert [f"Item #{row[2].split()[0]}" for row in rows] == list(after.titles)
    assert before.titles != after.titles


def test_an_embedding_goes_up_in_the_place_of_the_sample(cloud: FakeCloud, tmp_path: Path) -> None:
    result = duet_device(cloud, tmp_path, "--sends", "embedding")

    (request,) = cloud.requests
    assert result.exit_code == 0
    assert set(request["embedding"]) == {"version", "values"}
    assert "sample" not in request


def test_who_is_to_hold_decoders_of_a_version_without_any_goes_on_without(
    cloud: FakeCloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = duet_device(cloud, tmp_path, "--holds-decoders")

    assert result.exit_code == 0
    assert "need no decoders" in caplog.text
    assert "accepts" not in cloud.requests[0]


def test_what_moved_says_from_where_and_what_was_not_there_is_new(cloud: FakeCloud, tmp_path: Path) -> None:
    result = duet_device(cloud, tmp_path, "--k", "5")

    rows = [line.split() for line in result.stdout.splitlines() if "Item #" in line]
    old = {row[2]: row[0] for row in rows}
    for row in rows:
        place, new, move = row[0], row[4], " ".join(row[5:])
        assert move == ("new" if new not in old else "" if old[new] == place else f"from {old[new]}")


def test_plan_bytes_and_times_are_those_of_the_answer(cloud: FakeCloud, tmp_path: Path) -> None:
    result = duet_device(cloud, tmp_path)

    assert "tiny v1, 12 items" in result.stdout
    assert "factors-r2-int8: updated" in result.stdout
    assert f"{len(cloud.package):,} bytes" in result.stdout
    assert "81.5 ms, of which network 71.5 ms" in result.stdout
    assert "3.2 ms (queue 0.1, encode 0.4, generate 2.5, compose 0.2)" in result.stdout


def test_a_refusal_is_one_line_and_an_exit_code(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.status = 422
    cloud.problem = {"code": "budget_too_small", "detail": "Raise it.", "budget_ms": 200, "smallest_ms": 480.2}

    result = duet_device(cloud, tmp_path)

    assert result.exit_code == 2
    assert result.stderr.startswith("duet: The budget is 200 ms")
    assert result.stdout == ""


def test_the_device_model_is_downloaded_once(cloud: FakeCloud, tmp_path: Path) -> None:
    duet_device(cloud, tmp_path)
    first = cloud.downloads
    duet_device(cloud, tmp_path)

    assert (first, cloud.downloads) == (1, 1)


def test_an_item_that_nobody_knows_is_the_callers_mistake(cloud: FakeCloud, tmp_path: Path) -> None:
    options = ["--url", cloud.url, "--model", "tiny", "--sample", "no-such-item", "--cache", str(tmp_path)]

    result = CliRunner().invoke(app, ["device", *options])

    assert result.exit_code == 2
    assert "sample" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--url", "http://[::1"], ["--url", "http://a:b"], ["--budget-ms", "1e99"], ["--model", "../tiny"]],
    ids=" ".join,
)
def test_an_unusable_option_is_named(cloud: FakeCloud, tmp_path: Path, arguments: list[str]) -> None:
    result = duet_device(cloud, tmp_path, *arguments)

    assert result.exit_code == 2
    assert arguments[0 if "budget" in arguments[0] else 1] in result.stderr
    assert not cloud.paths


def test_an_unknown_model_is_the_callers_mistake_said_once(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.missing = {"code": "unknown_model", "detail": "Use films.", "model": "tiny", "known": ["films"]}

    result = duet_device(cloud, tmp_path)

    assert result.exit_code == 2
    assert result.stderr == "duet: Expected the name of a published model, got 'tiny'. Use one of films.\n"


def test_after_a_rollover_both_lists_are_those_of_the_new_version(
    cloud: FakeCloud, models: Path, tmp_path: Path
) -> None:
    old = cloud.version
    duet_device(cloud, tmp_path / "cache")
    cloud.serve(Registry(models).open("tiny", "v2"))
    shared = DeviceModel.load(cloud.version.path("device.onnx")).predict(SAMPLE, k=5)
    assert shared.titles != DeviceModel.load(old.path("device.onnx")).predict(SAMPLE, k=5).titles

    result = duet_device(cloud, tmp_path / "cache", "--k", "5")

    rows = [line.split("Item #") for line in result.stdout.splitlines() if "Item #" in line]
    assert [f"Item #{row[1].strip()}" for row in rows] == list(shared.titles)
    assert "replaced     the device model of v1" in result.stdout
