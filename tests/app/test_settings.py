"""Settings are checked where they enter, and every published configuration is valid."""

from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from app.builder import build_app
from app.schemas import MAX_BUDGET_MS
from app.settings import BACKSTOP_S, AppSettings, Ingress, serving_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"placment": "split"},
        {"placement": "spilt"},
        {"max_batch": 0},
        {"refresh_s": 0},
        {"accelerator": "wat"},
        {"accelerator": "cuda:"},
        {"accelerator": "cuda:1\n"},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AppSettings.model_validate(wrong)


@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "cuda:1"])
def test_an_accelerator_may_be_numbered(accelerator: str) -> None:
    assert AppSettings(accelerator=accelerator).accelerator == accelerator


def test_serve_config_names_real_deployments_and_valid_arguments(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    (application,) = config["applications"]

    settings = AppSettings.model_validate(application["args"])
    names = {"Gateway", "Encoder", "ParameterGenerator", "Composer"}
    root = build_app(settings.model_copy(update={"models": str(tmp_path)}))

    assert application["import_path"] == "app.builder:build_app"
    assert settings.placement == "split"
    assert {deployment["name"] for deployment in application["deployments"]} == names
    assert sum(deployment["ray_actor_options"]["num_cpus"] for deployment in application["deployments"]) <= 2
    assert root._bound_deployment.name == "Gateway"


def test_linux_gets_haproxy_and_the_flags_that_must_go_with_it() -> None:
    environment = serving_environment("haproxy", "linux")

    assert environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    # without it, throughput-optimised Serve has a proxy on the head node only
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    # the bundle switches to gRPC, whose limit is 4 MiB
    assert int(environment["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"]) > 4 * 2**20


@pytest.mark.parametrize("platform", ["darwin", "linux"])
@pytest.mark.parametrize("ingress", ["direct", "python"])
def test_the_others_run_everywhere_without_haproxy(ingress: Ingress, platform: str) -> None:
    environment = serving_environment(ingress, platform)

    assert not [name for name in environment if "HAPROXY" in name or "HA_PROXY" in name]
    assert ("RAY_SERVE_PROXY_USE_GRPC" in environment) == (ingress == "python")


def test_haproxy_is_refused_where_ray_brings_none() -> None:
    with pytest.raises(ValueError, match="python"):
        serving_environment("haproxy", "darwin")


@pytest.mark.parametrize("ingress", get_args(Ingress))
def test_every_flag_is_one_that_ray_serve_reads(ingress: Ingress) -> None:
    import ray.serve._private

    read = "".join(path.read_text() for path in Path(ray.serve._private.__path__[0]).glob("constants*.py"))
    raylet = (Path(ray.__path__[0]) / "core/src/ray/raylet/raylet").read_bytes()

    names = serving_environment(ingress, "linux")
    of_the_core = [name for name in names if name not in read]
    assert of_the_core == ["RAY_metrics_report_interval_ms", "RAY_worker_niceness"]
    assert all(name.encode() in raylet for name in of_the_core)


def test_the_backstop_is_longer_than_any_budget() -> None:
    assert BACKSTOP_S * 1000 > MAX_BUDGET_MS
