"""kubectl builds what ``kubectl apply -k cluster`` would apply; collected where it is installed."""

import subprocess

import yaml

from tests.cluster.manifests import CLUSTER, documents


def test_kustomize_builds_it() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(CLUSTER)], capture_output=True, text=True, check=True)

    made = list(yaml.safe_load_all(built.stdout))
    assert sorted(document["kind"] for document in made) == sorted(
        [document["kind"] for document in documents()] + ["ConfigMap"]
    )
    assert {document["metadata"]["namespace"] for document in made} == {"duet"}
