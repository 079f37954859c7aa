"""Locust with simulated devices, in processes of its own: it may not share one with Ray."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from duet.protocol.manifest import digest_of
from tests.loadtest.serving_fake import ServingFake, answer, manifest_bytes
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
JSON_ARRAY = re.compile(r"^\[$.*?^\]$", re.MULTILINE | re.DOTALL)


def run_locust(url, enough=None, *, server_share_ms=5000):
    """Run four devices until there is enough, then end the run as Ctrl-C does; return exit code, figures, output.

    Without ``enough`` the run has to end by itself.
    """
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", url, "--headless", "--json"]
    command += ["-u", "4", "-r", "4", "--world", "tiny", "--think-time-s", "0.02", "--mix", "home"]
    command += ["--server-share-ms", str(server_share_ms)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: (enough and enough()) or process.poll() is not None, "there is enough, or the end")
    finally:
        has_ended = process.poll() is not None
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert has_ended or enough, output
    figures = JSON_ARRAY.search(output)
    found = json.loads(figures.group()) if figures else []
    return process.returncode, {f"{figure['method']} {figure['name']}": figure for figure in found}, output


def test_the_file_loads_in_a_fresh_process_without_torch_and_ray():
    program = "import json, sys, loadtest.locustfile; print(json.dumps(sorted(sys.modules)))"

    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert process.returncode == 0, process.stderr
    loaded = {name.partition(".")[0] for name in json.loads(process.stdout.splitlines()[-1])}
    assert "locust" in loaded
    assert not loaded & {"torch", "ray", "fastapi"}


def test_devices_ask_and_reuse_and_every_reply_is_verified():
    with ServingFake() as cloud:
        code, figures, output = run_locust(cloud.url, lambda: len(cloud.asked) > 60)

    assert code == 0, output
    requests = figures["POST parameters"]
    delivered = [figure for name, figure in figures.items() if name.startswith("DEVICE delivered ")]
    assert len(cloud.asked) >= requests["num_requests"] > 20
    assert requests["num_failures"] == 0
    assert sum(figure["num_requests"] for figure in delivered) == requests["num_requests"]
    assert any("current" in asked for asked in cloud.asked)
    assert len({json.dumps(asked["sample"]) for asked in cloud.asked}) > 10
    assert {asked["link"] for asked in cloud.asked} <= {"wifi", "lte", "5g"}


def test_the_key_of_the_environment_goes_with_every_request_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("DUET_API_KEY", "duet_1_sesame")

    with ServingFake() as cloud:
        code, _, output = run_locust(cloud.url, lambda: len(cloud.asked) > 4)

    assert code == 0, output
    assert cloud.authorizations == {"Bearer duet_1_sesame"}
    assert "sesame" not in output


def test_a_bad_package_fails_the_run():
    with ServingFake() as cloud:

        def damaged(asked):
            status, headers, body = answer(asked["sample"])
            return status, headers, body[:-1] + bytes([body[-1] ^ 1])

        cloud.respond = damaged
        code, figures, output = run_locust(cloud.url, lambda: len(cloud.asked) > 20)

    requests = figures["POST parameters"]
    assert code == 1, output
    assert requests["num_requests"] == requests["num_failures"] > 0
    assert not [name for name in figures if name.startswith("DEVICE")]


def test_right_parameters_that_come_late_count_as_late():
    with ServingFake() as cloud:
        code, figures, output = run_locust(cloud.url, lambda: len(cloud.asked) > 20, server_share_ms=0)

    delivered = [figure for name, figure in figures.items() if name.startswith("DEVICE delivered ")]
    assert code == 1, output
    assert figures["POST parameters"]["num_failures"] == 0
    assert all(figure["num_failures"] == figure["num_requests"] for figure in delivered)


def test_a_rollover_is_followed():
    second = manifest_bytes("v2")
    with ServingFake() as cloud:

        def roll_over(asked):
            if len(cloud.asked) > 10:
                cloud.manifest = second
            return answer(asked["sample"], manifest=cloud.manifest)

        cloud.respond = roll_over
        code, figures, output = run_locust(cloud.url, lambda: len(cloud.asked) > 60)

    assert code == 0, output
    assert figures["GET manifest"]["num_requests"] > 4
    # under a canary each device has a manifest of its own
    assert {path.partition("?device=")[2] for path in cloud.paths} == {asked["device"] for asked in cloud.asked}
    assert digest_of(second).hex() in {asked.get("current", {}).get("version") for asked in cloud.asked}


def test_a_cloud_without_the_model_ends_the_run_with_the_models_that_it_has():
    with ServingFake() as cloud:
        cloud.models = ("films", "songs")
        code, figures, output = run_locust(cloud.url)

    assert code == 1, output
    assert "no manifest: 404" in output
    assert output.count(f"Expected a model that {cloud.url} serves, got --model demo. Use one of: films, songs.") == 1
    assert figures.keys() == {"GET manifest", "GET models"}
