"""A Ray cluster of several nodes on this machine, with an application on it: every node has a raylet of its own.

Ray reads its variables when it is imported, so this is to be entered before anything imports it, in a process that does
nothing else with it.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.ports import free_port
from app.settings import serving_environment

APPLICATION = "duet"
_OBJECT_STORE_BYTES = 80 * 2**20
_POLL_S = 0.2
_PRIVATE_PORTS = ("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT")


@dataclass
class LocalCluster:
    """A head without cores, nodes that come and go, and the server on them."""

    url: str
    _cluster: Any
    _nodes: list[Any] = field(default_factory=list)

    def add_node(self, cpus: float) -> None:
        """Start a node and wait until it is there."""
        self._nodes.append(self._cluster.add_node(num_cpus=cpus, object_store_memory=_OBJECT_STORE_BYTES))

    def kill_node(self) -> None:
        """Kill the oldest node and everything that runs on it, as a machine that loses its power."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def running(self) -> dict[str, int]:
        """Count the running replicas of every deployment."""
        from ray import serve

        application = serve.status().applications.get(APPLICATION)
        deployments = application.deployments if application is not None else {}
        return {name: deployment.replica_states.get("RUNNING", 0) for name, deployment in deployments.items()}

    def wait_for(self, replicas: Mapping[str, int], *, seconds: float) -> float:
        """Wait until that many run and the server is ready; return the seconds it took.

        Raises:
            TimeoutError: If they do not.
        """
        started_s = time.monotonic()
        while time.monotonic() - started_s < seconds:
            if self.running() == replicas and self.is_ready():
                return time.monotonic() - started_s
            time.sleep(_POLL_S)
        raise TimeoutError(f"Expected {dict(replicas)} and a ready server within {seconds:g} s, got {self.running()}.")

    def is_ready(self) -> bool:
        """Whether a gateway says that every stage answers."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def local_cluster(config: dict[str, Any], *, nodes: int, cpus: float) -> Iterator[LocalCluster]:
    """Start nodes and deploy a configuration of Ray Serve; stop everything at the end.

    Args:
        config: As ``serve_config.yaml``; host and port are chosen here, and one proxy, on the head, serves all nodes.
        nodes: How many there are besides the head.
        cpus: Cores of each, which Ray plans with whether they exist or not.
    """
    with tempfile.TemporaryDirectory(prefix="duet-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # one address of a machine has one port 8000: HAProxy on every node needs machines of their own
        environment = serving_environment("python") | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token"}
        environment |= {"RAY_AUTH_TOKEN": os.urandom(32).hex()}
        environment |= {name: str(free_port("0.0.0.0", 0)) for name in _PRIVATE_PORTS}
        os.environ.update(environment)

        import ray
        from ray.cluster_utils import Cluster
        from ray.serve._private.api import serve_start
        from ray.serve.schema import ServeDeploySchema

        port = free_port("127.0.0.1", 0)
        http_options = config["http_options"] | {"host": "127.0.0.1", "port": port}
        schema = ServeDeploySchema.model_validate(config | {"proxy_location": "HeadOnly", "http_options": http_options})
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES},
        )
        try:
            ray.init(address=cluster.address, namespace="serve", log_to_driver=False, logging_level="ERROR")
            local = LocalCluster(f"http://127.0.0.1:{port}", cluster)
            for _ in range(nodes):
                local.add_node(cpus)
            # as `serve run FILE` does
            client = serve_start(http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location)
            client.deploy_apps(schema, _blocking=False)
            yield local
        finally:
            ray.shutdown()
            cluster.shutdown()
