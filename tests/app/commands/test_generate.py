"""``duet generate`` against a cloud that answers over HTTP."""

import base64
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands import app
from deployments.encoder import Encoder
from tests.app.commands.conftest import FakeCloud, with_text_ids


def duet_generate(cloud: FakeCloud, *arguments: str, sample: str = "101,103") -> Result:
    return CliRunner().invoke(app, ["generate", "--url", cloud.url, "--model", "tiny", "--sample", sample, *arguments])


def test_the_answer_is_shown_with_plan_times_and_verified_package(cloud: FakeCloud) -> None:
    result = duet_generate(cloud)

    assert result.exit_code == 0
    for expected in ("factors-r2-int8", "v1", "81.5 ms", "3.2 ms: queue;dur=0.1", f"{len(cloud.package):,} bytes"):
        assert expected in result.stdout
    assert "hidden [7, 8], output [12, 7]" in result.stdout
    assert "verified" in result.stdout


def test_the_request_says_what_the_options_say(cloud: FakeCloud) -> None:
    duet_generate(cloud, "--budget-ms", "80", "--link", "9000/1500/60", "--dtype", "int8")

    (request,) = cloud.requests
    assert request["sample"] == [101, 103]
    assert request["budget_ms"] == 80
    assert request["link"] == {"down_kbps": 9000, "up_kbps": 1500, "rtt_ms": 60}
    assert request["accepts"] == {"forms": ["factors", "full", "composed", "shared"], "dtypes": ["int8"]}


def test_an_embedding_goes_up_in_the_place_of_the_sample(cloud: FakeCloud) -> None:
    result = duet_generate(cloud, "--sends", "embedding")

    (request,) = cloud.requests
    encoder = Encoder(cloud.version.folder.parents[1])
    (row,) = encoder.encode([[101, 103]], model="tiny", version="v1")
    values = base64.b64encode(row.astype("<f2").tobytes()).decode()
    assert result.exit_code == 0
    assert request["embedding"] == {"version": cloud.version.digest.hex(), "values": values}
    assert "sample" not in request


def test_an_encoder_is_not_run_on_what_the_version_does_not_know(cloud: FakeCloud) -> None:
    result = duet_generate(cloud, "--sends", "embedding", sample="no-such-item")

    assert result.exit_code == 2
    assert "known item id" in result.stderr
    assert not cloud.requests


def test_a_profile_goes_by_its_name_and_everything_is_accepted_by_default(cloud: FakeCloud) -> None:
    duet_generate(cloud, "--link", "slow-3g")

    (request,) = cloud.requests
    assert request["link"] == "slow-3g"
    assert "accepts" not in request


def test_out_writes_the_package_as_it_came(cloud: FakeCloud, tmp_path: Path) -> None:
    duet_generate(cloud, "--out", str(tmp_path / "device.duet"))

    assert (tmp_path / "device.duet").read_bytes() == cloud.package


def test_a_damaged_package_is_refused_and_not_written(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.package = cloud.package[:-1] + bytes([cloud.package[-1] ^ 1])

    result = duet_generate(cloud, "--out", str(tmp_path / "device.duet"))

    assert result.exit_code == 1
    assert "CRC-32" in result.stderr
    assert not (tmp_path / "device.duet").exists()


def test_a_sample_file_that_is_no_text_is_named(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "sample.bin").write_bytes(b"\xff\xfe")

    result = duet_generate(cloud, sample=f"@{tmp_path / 'sample.bin'}")

    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_204_means_that_the_device_keeps_what_it_holds(cloud: FakeCloud) -> None:
    cloud.status = 204

    result = duet_generate(cloud)

    assert result.exit_code == 0
    assert "keeps what it holds" in result.stdout


@pytest.mark.parametrize(
    ("status", "problem", "code"),
    [
        (422, {"code": "budget_too_small", "detail": "Raise it.", "budget_ms": 10, "smallest_ms": 80.5}, 2),
        (404, {"code": "unknown_model", "detail": "Use films.", "model": "tiny", "known": ["films"]}, 2),
        (429, {"code": "overloaded", "detail": "Retry."}, 1),
        (503, {"code": "version_not_ready", "detail": "Retry.", "model": "tiny", "version": "v1"}, 1),
    ],
    ids=["budget", "model", "overload", "loading"],
)
def test_a_refusal_is_one_line_and_says_whose_turn_it_is(
    cloud: FakeCloud, status: int, problem: dict[str, object], code: int
) -> None:
    cloud.status, cloud.problem = status, problem

    result = duet_generate(cloud)

    assert result.exit_code == code
    assert result.stderr.startswith("duet: ")
    assert result.stderr.count("\n") == 1


def test_a_failure_of_the_server_is_shown_whole_with_the_id_of_the_request(cloud: FakeCloud) -> None:
    detail = "The server met an error of its own. " + "Keep the current parameters and retry later. " * 3 + "The end."
    cloud.status = 500
    cloud.problem = {"code": "internal_error", "detail": detail, "request_id": "7f-31"}

    result = duet_generate(cloud)

    assert result.exit_code == 1
    assert result.stderr.endswith(f"The cloud said: {detail} Request id: 7f-31\n")
    assert result.stderr.count("\n") == 1


def test_no_server_at_the_address_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        url = f"http://127.0.0.1:{closed_soon.getsockname()[1]}"

    result = CliRunner().invoke(app, ["generate", "--url", url, "--model", "tiny", "--sample", "1"])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"duet: Expected an answer from {url}")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--link", "carrier-pigeon"], "carrier-pigeon"),
        (["--link", "1/2"], "1/2"),
        (["--link", "9000/1500/-1"], "a round trip of at least 0"),
        (["--link", "0/1500/1"], "rates of 0.1 to 1e+09"),
        (["--budget-ms", "0"], "--budget-ms"),
        (["--budget-ms", "1e99"], "--budget-ms"),
        (["--budget-ms", "nan"], "--budget-ms"),
        (["--sends", "both"], "--sends"),
        (["--url", "ftp://cloud"], "ftp://cloud"),
        (["--url", "http://[::1"], "http://[::1"),
        (["--url", "http://a:b"], "http://a:b"),
        (["--model", "../tiny"], "'../tiny'"),
        (["--sample", "[1,"], "[1,"),
        (["--sample", " , "], "item id"),
        (["--sample", "[NaN]"], "NaN"),
        (["--sample", "@no-such-file"], "no-such-file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_unusable_option_is_named(cloud: FakeCloud, arguments: list[str], named: str) -> None:
    result = duet_generate(cloud, *arguments)

    assert result.exit_code == 2
    assert named in result.stderr
    assert "Close it" not in result.stderr
    assert "Errno" not in result.stderr
    assert not cloud.requests
    assert not cloud.paths


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ("1, 2,3", [1, 2, 3]),
        ("b00, 7", ["b00", 7]),
        ("b00\nb01\n", ["b00", "b01"]),
        ('["1", 2]', ["1", 2]),
        ("0115,+5,-3", ["0115", "+5", -3]),
        ("5", [5]),
    ],
    ids=["integers", "mixed", "lines", "json", "unusual", "one"],
)
def test_a_sample_is_ids_or_json_inline_or_in_a_file(
    cloud: FakeCloud, tmp_path: Path, text: str, sample: list[object]
) -> None:
    (tmp_path / "sample.txt").write_text(text)

    duet_generate(cloud, sample=text)
    duet_generate(cloud, sample=f"@{tmp_path / 'sample.txt'}")

    assert [request["sample"] for request in cloud.requests] == [sample, sample]


def test_ids_between_commas_are_text_where_the_model_wants_text(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.version = with_text_ids(cloud.version, tmp_path / "text")

    duet_generate(cloud, sample="115, 0115")
    duet_generate(cloud, sample="[115]")

    assert [request["sample"] for request in cloud.requests] == [["115", "0115"], [115]]
