"""What can be known of the manifests without a cluster: schemas, and that their parts fit each other and the code."""

import re
import tomllib
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from app.settings import serving_environment
from tests.cluster.manifests import (
    CLUSTER,
    ROOT,
    container,
    documents,
    head,
    of_kind,
    ray_service,
    serve_config,
    worker_groups,
)

KUBERNETES = "1.32"
BUILT_IN = ("PersistentVolumeClaim", "PodDisruptionBudget", "NetworkPolicy")
DRAIN_S = 35  # Ray Serve stops an ingress replica after this long


def fields(required: str, optional: str = "", **types: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema of an object that has these fields and no others."""
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "properties": {name: types.get(name, {}) for name in names},
        "additionalProperties": False,
    }


# the fields of KubeRay 1.5 that are used, in the words of its types; the pods in them have Kubernetes' own schema
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
GROUP = fields(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName={"type": "string"},
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=STRINGS,
    template={"type": "object"},
)
CLUSTER_CONFIG = fields(
    "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string"},
    authOptions=fields("mode", mode={"enum": ["token"]}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=fields("idleTimeoutSeconds resources", idleTimeoutSeconds=COUNT),
    headGroupSpec=fields("rayStartParams template", rayStartParams=STRINGS),
    workerGroupSpecs={"type": "array", "minItems": 1, "items": GROUP},
)
RAY_SERVICE = fields(
    "excludeHeadPodFromServeSvc serveConfigV2 rayClusterConfig",
    excludeHeadPodFromServeSvc={"type": "boolean"},
    serveConfigV2={"type": "string"},
    rayClusterConfig=CLUSTER_CONFIG,
)


@pytest.mark.parametrize(
    "document", [each for each in documents() if each["kind"] in BUILT_IN], ids=lambda d: d["kind"]
)
def test_what_kubernetes_knows_is_valid(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("group", [head(), *worker_groups()], ids=lambda group: group.get("groupName", "head"))
def test_every_pod_is_valid(group: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": group["template"]}

    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_ray_service_has_fields_that_kuberay_knows() -> None:
    jsonschema.validate(ray_service(), RAY_SERVICE, cls=jsonschema.Draft202012Validator)


def test_the_schemas_refuse_what_is_misspelt() -> None:
    service, pod = ray_service(), head()["template"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service | {"serveConfig": ""}, RAY_SERVICE)
    misspelt = pod | {"spec": pod["spec"] | {"terminationGracePeriod": 60}}
    document = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": misspelt}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("group", [head(), *worker_groups()], ids=lambda group: group.get("groupName", "head"))
def test_every_ray_process_has_the_environment_of_the_server(group: dict[str, Any]) -> None:
    environment = {variable["name"]: variable["value"] for variable in container(group)["env"]}

    assert environment == serving_environment("haproxy", "linux")


@pytest.mark.parametrize("group", [head(), *worker_groups()], ids=lambda group: group.get("groupName", "head"))
def test_every_pod_gets_what_it_asks_for_and_may_do_little(group: dict[str, Any]) -> None:
    pod, ray = group["template"]["spec"], container(group)

    # cores that are not guaranteed are not there when a budget runs
    assert ray["resources"]["requests"] == ray["resources"]["limits"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert ray["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all(mount.get("readOnly") for mount in ray["volumeMounts"] if mount["mountPath"] == "/models")
    mounted = {mount["name"] for mount in ray["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_all_pods_run_one_image_with_the_ray_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ray,) = (line for line in project["optional-dependencies"]["serve"] if line.startswith("ray["))
    images = {container(group)["image"] for group in (head(), *worker_groups())}

    assert images == {f"duet-serve:{project['version']}"}
    assert ray == f"ray[serve]=={ray_service()['rayClusterConfig']['rayVersion'].rsplit('.', 1)[0]}.*"


def test_the_token_is_on_and_no_secret_is_written_down() -> None:
    assert ray_service()["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    assert not of_kind("Secret")


def test_no_replica_runs_on_the_head_and_none_is_reached_there() -> None:
    assert head()["rayStartParams"]["num-cpus"] == "0"
    assert ray_service()["excludeHeadPodFromServeSvc"] is True


@pytest.mark.parametrize("group", worker_groups(), ids=lambda group: group["groupName"])
def test_a_worker_is_ready_when_its_raylet_and_its_proxy_are(group: dict[str, Any]) -> None:
    ray = container(group)
    ready, alive = (" ".join(ray[probe]["exec"]["command"]) for probe in ("readinessProbe", "livenessProbe"))

    assert "localhost:52365/api/local_raylet_healthz" in ready
    assert f"localhost:{serve_config()['http_options']['port']}/-/healthz" in ready
    # a proxy that is busy is no reason to end every replica of the node
    assert "/-/healthz" not in alive
    assert "wget" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


def deployments() -> dict[str, dict[str, Any]]:
    (application,) = serve_config()["applications"]
    return {deployment["name"]: deployment for deployment in application["deployments"]}


@pytest.mark.parametrize("name", deployments())
def test_every_replica_fits_into_a_pod_of_its_pool_and_all_of_them_into_the_pool(name: str) -> None:
    groups = {group["rayStartParams"]["labels"].removeprefix("pool="): group for group in worker_groups()}
    options = deployments()[name]["ray_actor_options"]
    group = groups[options["label_selector"]["pool"]]
    limits = container(group)["resources"]["limits"]

    assert options["num_cpus"] <= float(limits["cpu"])
    assert options.get("num_gpus", 0) == int(limits.get("nvidia.com/gpu", 0))
    beside = [
        deployment
        for deployment in deployments().values()
        if deployment["ray_actor_options"]["label_selector"] == options["label_selector"]
    ]
    for bound, pods in (("min_replicas", group["minReplicas"]), ("max_replicas", group["maxReplicas"])):
        needed = sum(each["autoscaling_config"][bound] * each["ray_actor_options"]["num_cpus"] for each in beside)
        assert needed <= pods * float(limits["cpu"])


def test_every_stage_survives_the_loss_of_a_pod() -> None:
    assert all(deployment["autoscaling_config"]["min_replicas"] >= 2 for deployment in deployments().values())
    assert all(group["minReplicas"] >= 2 for group in worker_groups())


def labels_of_pods() -> list[dict[str, str]]:
    return [group["template"]["metadata"]["labels"] for group in (head(), *worker_groups())]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) == {"matchLabels"}
    return selector["matchLabels"].items() <= labels.items()


def test_a_disruption_budget_holds_for_each_pool_and_leaves_room_for_a_drain() -> None:
    for group in worker_groups():
        (budget,) = (
            each["spec"]
            for each in of_kind("PodDisruptionBudget")
            if selects(each["spec"]["selector"], group["template"]["metadata"]["labels"])
        )
        # maxUnavailable is refused for pods that no built-in controller owns
        assert "maxUnavailable" not in budget
        assert 0 < budget["minAvailable"] < group["minReplicas"]


def test_every_pod_is_closed_but_for_what_is_listed() -> None:
    policies = [policy["spec"] for policy in of_kind("NetworkPolicy")]
    for labels in labels_of_pods():
        chosen = [policy for policy in policies if selects(policy["podSelector"], labels)]
        assert {kind for policy in chosen for kind in policy["policyTypes"]} == {"Ingress", "Egress"}
    ingress = [rule for policy in policies for rule in policy.get("ingress", [])]
    assert all(rule["from"] for rule in ingress)
    # from outside only numbered ports, and none on which Ray unpickles
    outside = [rule for rule in ingress if any("namespaceSelector" in source for source in rule["from"])]
    opened = {port["port"] for rule in outside for port in rule["ports"]}
    assert opened == {8000, 8080, 9101, 8265, 52365}


def test_prometheus_asks_ports_that_pods_have() -> None:
    (monitor,) = of_kind("PodMonitor")
    names = {port["name"] for group in worker_groups() for port in container(group)["ports"]}

    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= names
    # the queries have the names under which Ray exports
    assert not any("metricRelabelings" in endpoint for endpoint in monitor["spec"]["podMetricsEndpoints"])


def test_the_image_holds_every_package_that_is_installed() -> None:
    build = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    kept = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in (pattern.removesuffix("*") for pattern in tools["packages"]["find"]["include"]):
        assert f"COPY {package} {package}" in build
        assert f"!{package}" in kept
    for copied in re.search(r"^COPY (.+) \./$", build, re.MULTILINE)[1].split():
        assert (ROOT / copied).is_file()
        assert f"!{copied}" in kept
