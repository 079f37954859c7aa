"""The script in front of HAProxy closes what Ray leaves open, in the configuration that this Ray really writes."""

import os
import subprocess
from pathlib import Path

import pytest

from app.haproxy import INNER_PORTS, write_haproxy
from app.tls import Certificate
from duet.protocol.errors import InvalidRequest
from tests.self_signed import write_certificate

PORT, STATS, METRICS = 21_001, 21_002, 21_003
ENVIRONMENT = dict(zip(INNER_PORTS, (str(STATS), str(METRICS)), strict=True))


def configuration(folder: Path) -> Path:
    """What Ray's own template makes of the options that `duet serve` starts it with."""
    from jinja2 import Environment
    from ray.serve._private.haproxy import HAProxyConfig
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
    from ray.serve.config import HTTPOptions, gRPCOptions

    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=PORT),
        grpc_options=gRPCOptions(),
        stats_port=STATS,
        metrics_port=METRICS,
        socket_path=str(folder / "admin.sock"),
    )
    environment = Environment()
    environment.filters["haproxy_fmt"] = str
    told = {"message": "none", "healthy": True, "status": 200, "health_message": "", "routes_message": "{}"}
    text = environment.from_string(HAPROXY_CONFIG_TEMPLATE).render(
        config=config,
        backends=[],
        health_info=told,
        route_info=told | {"routes_content_type": "application/json"},
        metrics_socket_path=str(folder / "metrics.sock"),
    )
    path = folder / "haproxy.cfg"
    path.write_text(f"{text}\n")
    return path


def started(folder: Path, config: Path, **options: object) -> "subprocess.CompletedProcess[str]":
    """Start the script as Ray does, but only to check the configuration."""
    given = {"host": "0.0.0.0", "port": PORT} | options
    variables = write_haproxy(folder, ENVIRONMENT, **given)  # type: ignore[arg-type]
    (program,) = variables.values()
    return subprocess.run([program, "-db", "-f", str(config), "-c"], capture_output=True, text=True, check=False)


def binds(config: Path) -> list[str]:
    return [line.strip() for line in config.read_text().splitlines() if line.strip().startswith("bind ")]


def test_only_the_front_listens_further_than_this_machine(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert binds(config) == [f"bind :{METRICS}", f"bind 127.0.0.1:{PORT}", f"bind *:{STATS}"]

    process = started(tmp_path, config)

    assert process.returncode == 0, process.stderr
    assert binds(config) == [f"bind 127.0.0.1:{METRICS}", f"bind 0.0.0.0:{PORT}", f"bind 127.0.0.1:{STATS}"]
    assert "mode 600 level admin" in config.read_text()
    assert "timeout http-request 10s" in config.read_text()


def test_a_reload_of_the_same_file_is_no_mistake(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    first = started(tmp_path, config, host="127.0.0.1")

    assert (first.returncode, started(tmp_path, config, host="127.0.0.1").returncode) == (0, 0)


def test_tls_is_added_to_the_front_alone_and_its_key_is_private(tmp_path: Path) -> None:
    config = configuration(tmp_path)

    process = started(tmp_path, config, certificate=Certificate(*write_certificate(tmp_path)))

    assert process.returncode == 0, process.stderr
    assert [line for line in binds(config) if "ssl" in line] == [
        f"bind 0.0.0.0:{PORT} ssl crt {tmp_path}/tls.pem ssl-min-ver TLSv1.2"
    ]
    assert os.stat(tmp_path / "tls.pem").st_mode & 0o077 == 0


@pytest.mark.parametrize("line", [f"bind :{METRICS}", f"bind *:{STATS}", f"bind 127.0.0.1:{PORT}", "defaults"])
def test_a_configuration_that_is_not_what_it_was_starts_nothing(tmp_path: Path, line: str) -> None:
    config = configuration(tmp_path)
    config.write_text(config.read_text().replace(line, "# gone"))

    process = started(tmp_path, config)

    assert process.returncode == 1
    assert "expected the line" in process.stderr


def test_a_program_that_the_operator_has_named_is_not_passed_over(tmp_path: Path) -> None:
    named = ENVIRONMENT | {"RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/sbin/haproxy"}

    with pytest.raises(InvalidRequest, match="--ingress python"):
        write_haproxy(tmp_path, named, host="127.0.0.1", port=PORT)
