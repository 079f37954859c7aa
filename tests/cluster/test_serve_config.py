"""The configuration in the RayService is serve_config.yaml with the differences that are stated here, and is valid."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from tests.cluster.manifests import ROOT, serve_config

# Ray calls the one interval that it obeys deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")

STAGES = ("Encoder", "ParameterGenerator", "Composer")

# everything in which the cluster differs from serve_config.yaml
OVERRIDES: dict[str, object] = {
    "http_options.host": "0.0.0.0",
    "args.models": "/models",
    "args.accelerator": "cuda",
    "Gateway.max_replicas_per_node": 1,
    **{f"{name}.ray_actor_options.num_cpus": 1 for name in ("Gateway", *STAGES)},
    **{f"{name}.ray_actor_options.label_selector.pool": "cpu" for name in ("Gateway", "Encoder", "Composer")},
    "ParameterGenerator.ray_actor_options.label_selector.pool": "accelerator",
    "ParameterGenerator.ray_actor_options.num_gpus": 1,
    **{f"{name}.autoscaling_config.min_replicas": 2 for name in ("Gateway", *STAGES)},
    **{f"{name}.autoscaling_config.max_replicas": 8 for name in ("Gateway", *STAGES)},
}


def flat(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, each in value.items() for key, leaf in flat(each, f"{path}.{name}".lstrip(".")).items()}


def settings_of(config: dict[str, Any]) -> dict[str, object]:
    """Every setting of a configuration by its path."""
    (application,) = config["applications"]
    common = {name: value for name, value in config.items() if name != "applications"}
    own = {name: value for name, value in application.items() if name != "deployments"}
    return flat(common | own | by_name(application))


def by_name(application: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of every deployment of an application."""
    return {
        deployment["name"]: {name: value for name, value in deployment.items() if name != "name"}
        for deployment in application["deployments"]
    }


def test_it_is_serve_config_with_the_stated_differences() -> None:
    local = settings_of(yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8")))
    cluster = settings_of(serve_config())

    assert cluster == local | OVERRIDES
    # a difference that is none any more is to be taken off the list
    assert not [path for path, value in OVERRIDES.items() if path in local and local[path] == value]


@pytest.fixture(params=["serve_config.yaml", "cluster"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "cluster":
        return serve_config()
    return yaml.safe_load((ROOT / request.param).read_text(encoding="utf-8"))


def test_ray_reads_it_and_ignores_nothing(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)

    read = schema.model_dump(exclude_unset=True, mode="json")
    # the schema drops what it does not know: everything written is to be there afterwards
    assert {**settings_of(read), **settings_of(config)} == settings_of(read)


def test_every_autoscaling_setting_is_one_of_rays(config: dict[str, Any]) -> None:
    for deployment in config["applications"][0]["deployments"]:
        scaling = deployment["autoscaling_config"]

        assert set(scaling) <= set(AutoscalingConfig.model_fields)
        AutoscalingConfig.model_validate(scaling)
        # Ray 2.60 warns of the opposite and is going to refuse it
        assert scaling["look_back_period_s"] > scaling["metrics_interval_s"]


def test_every_policy_can_be_made_and_its_budgets_add_up(config: dict[str, Any]) -> None:
    budgets_ms = []
    for deployment in config["applications"][0]["deployments"]:
        policy = deployment["autoscaling_config"].get("policy")
        assert (policy is not None) == (deployment["name"] in STAGES)
        if policy is not None:
            module, name = policy["policy_function"].split(":")
            getattr(importlib.import_module(module), name)(**policy["policy_kwargs"])
            budgets_ms.append(policy["policy_kwargs"]["stage_budget_ms"])

    assert sum(budgets_ms) < 50  # the server's share of a budget, with ten for the hops and the gateway


SERVED = """
from app.builder import build_app
from app.settings import AppSettings

application = build_app(AppSettings.model_validate_json({args!r}))
"""


@pytest.mark.slow
def test_serve_build_makes_the_deployments_that_are_listed_with_their_options(
    config: dict[str, Any], tmp_path: Path
) -> None:
    (application,) = config["applications"]
    assert application["import_path"] == "app.builder:build_app"
    # the command takes an application, and no builder with its arguments
    (tmp_path / "served.py").write_text(SERVED.format(args=json.dumps(application["args"])), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("serve")), "build", "served:application"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    done = subprocess.run(
        [*command, "--app-dir", str(tmp_path), "--output-path", str(tmp_path / "built.yaml")],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = yaml.safe_load((tmp_path / "built.yaml").read_text(encoding="utf-8"))["applications"]
    made, listed = (flat(by_name(each)) for each in (built, application))
    assert by_name(built).keys() == by_name(application).keys()
    changed = {path for path, value in listed.items() if path in made and made[path] != value}
    assert changed <= (OVERRIDES.keys() if config == serve_config() else set())
    assert made.get("ParameterGenerator.ray_actor_options.num_gpus", 0) == listed.get(
        "ParameterGenerator.ray_actor_options.num_gpus", 0
    )
    # what else the code decides stays; nobody writes it a second time
    kept = {path.partition(".")[2] for path in made.keys() - listed.keys() if made[path]}
    assert kept == {"num_replicas", "health_check_period_s", "health_check_timeout_s"}
