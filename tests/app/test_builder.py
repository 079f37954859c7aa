"""Both placements are wired from one argument, and the process that wires them loads no computing library."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray import serve

from app.builder import build_app, wire
from app.settings import AppSettings
from deployments.replicas import ParameterGeneratorReplica


def deployments_of(application: serve.Application) -> dict[str, serve.Deployment]:
    """Every deployment of an application, by name."""
    root = application._bound_deployment
    found = {root.name: root}
    for argument in root.init_args:
        if isinstance(argument, serve.Application):
            found |= deployments_of(argument)
    return found


def test_colocated_placement_is_one_deployment() -> None:
    assert list(deployments_of(build_app(AppSettings()))) == ["Gateway"]


def test_split_placement_is_one_deployment_a_stage_on_less_than_two_cores() -> None:
    deployments = deployments_of(build_app(AppSettings(placement="split")))

    assert set(deployments) == {"Gateway", "Encoder", "ParameterGenerator", "Composer"}
    assert sum(deployment.ray_actor_options["num_cpus"] for deployment in deployments.values()) < 2


@pytest.mark.parametrize("placement", ["colocated", "split"])
def test_a_benchmark_may_ask_for_replicas_of_every_deployment(placement: str) -> None:
    settings = AppSettings.model_validate({"placement": placement})

    deployments = deployments_of(wire(settings, ParameterGeneratorReplica, replicas=3)).values()

    assert {deployment._deployment_config.num_replicas for deployment in deployments} == {3}


@pytest.mark.parametrize("placement", ["colocated", "split"])
def test_a_sick_replica_is_found_within_seconds(placement: str) -> None:
    for deployment in deployments_of(build_app(AppSettings.model_validate({"placement": placement}))).values():
        config = deployment._deployment_config

        assert (config.health_check_period_s, config.health_check_timeout_s) == (2, 2)


def test_a_benchmark_may_put_another_generator_in_place() -> None:
    class Another:
        pass

    generator = deployments_of(wire(AppSettings(placement="split"), Another, cost_ms=3.0))["ParameterGenerator"]

    assert generator.func_or_class is Another
    assert generator.init_kwargs["cost_ms"] == 3.0
    assert generator.init_kwargs["accelerator"] == "cpu"


@pytest.mark.parametrize(
    ("placement", "holder"), [("colocated", "Gateway"), ("split", "ParameterGenerator")], ids=["colocated", "split"]
)
def test_an_accelerator_goes_to_the_generator_alone(placement: str, holder: str) -> None:
    for accelerator, wanted in (("cpu", 0), ("cuda", 1)):
        settings = AppSettings.model_validate({"placement": placement, "accelerator": accelerator})

        gpus = {
            name: deployment.ray_actor_options.get("num_gpus", 0)
            for name, deployment in deployments_of(build_app(settings)).items()
        }

        assert gpus.pop(holder) == wanted
        assert not any(gpus.values())


def test_the_models_folder_does_not_depend_on_where_a_replica_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    (settings,) = deployments_of(build_app(AppSettings(models="models")))["Gateway"].init_args

    assert settings.models == str(tmp_path / "models")


def test_ray_sees_the_type_of_the_arguments() -> None:
    # a string annotation would make Ray hand over an unchecked dict
    (argument,) = inspect.signature(build_app).parameters.values()

    assert argument.annotation is AppSettings


def test_the_gateway_of_split_placement_loads_neither_torch_nor_onnx() -> None:
    program = (
        "import json, sys\n"
        "from app.builder import build_app\n"
        "from app.settings import AppSettings\n"
        "import app.api, app.gateway, deployments.batching, deployments.pipeline\n"
        "build_app(AppSettings(placement='split'))\n"
        "print(json.dumps(sorted(sys.modules)))"
    )

    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = {module.split(".")[0] for module in json.loads(process.stdout.splitlines()[-1])}
    assert not loaded & {"torch", "triton", "onnx", "onnxruntime", "safetensors"}


def test_every_process_is_told_how_to_write_its_log() -> None:
    deployments = deployments_of(build_app(AppSettings(placement="split", log_format="json")))

    (settings, *_) = deployments.pop("Gateway").init_args
    formats = [deployment.init_kwargs["log_format"] for deployment in deployments.values()]
    assert [settings.log_format, *formats] == ["json"] * 4
