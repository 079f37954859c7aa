"""What the server says of itself at ``/metadata``: versions, placement, effective settings, where its metrics are."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field

import duet
from app.settings import AppSettings, Ingress, serving_environment

NAME = "duet-serve"

SHOWN_SETTINGS = frozenset(
    {
        *("model", "accelerator", "max_batch", "max_queued", "batches_in_flight", "intra_op_threads"),
        *("body_limit_bytes", "body_timeout_s", "refresh_s", "log_format", "trace_ratio"),
        *("canary_min_requests", "canary_margin"),
    }
)
"""The settings that anybody may read. A new one is hidden until it stands here."""

HIDDEN_SETTINGS = frozenset({"models", "placement", "trace_file", "api_keys", "signing_keys", "listen"})
"""Paths of this machine, and what stands elsewhere in the document."""

_FLAGS = sorted({flag for ingress in get_args(Ingress) for flag in serving_environment(ingress, "linux")})


class ServerMetadata(BaseModel):
    """The server, as in the metadata of the Open Inference Protocol: ``name``, ``version``, ``extensions`` and more."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Of the server.")
    version: str = Field(description="Of duet-serve.")
    extensions: tuple[str, ...] = Field(description="Of the Open Inference Protocol; there are none.")
    libraries: dict[str, str] = Field(description="Versions of Python and of what serves.")
    placement: str = Field(description="`colocated` or `split`.")
    models: dict[str, str] = Field(description="The active version of every model.")
    settings: dict[str, str | int | float | None] = Field(description="What the operator has set, or the defaults.")
    flags: dict[str, str | None] = Field(description="The variables of docs/api.md, as the gateway's process has them.")
    metrics: tuple[str, ...] = Field(description="Where the nodes export their metrics, for Prometheus.")


class MetadataReader:
    """Makes the document anew each time: versions change, and nodes come and go."""

    def __init__(
        self,
        settings: AppSettings,
        *,
        endpoints: Callable[[], Sequence[str]],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Remember where to look.

        Args:
            settings: What the operator has set.
            endpoints: Asks where metrics are; may wait for another process.
            environment: Of this process.
        """
        self._settings, self._endpoints, self._environment = settings, endpoints, environment

    def read(self, active_versions: Mapping[str, str]) -> ServerMetadata:
        """Make the document; blocks, so call it on a thread.

        Args:
            active_versions: The active version of every model.
        """
        return ServerMetadata(
            name=NAME,
            version=duet.__version__,
            extensions=(),
            libraries={"python": platform.python_version()}
            | {library: version(library) for library in ("ray", "fastapi", "pydantic", "numpy")},
            placement=self._settings.placement,
            models=dict(active_versions),
            settings=self._settings.model_dump(include=set(SHOWN_SETTINGS)),
            flags={name: self._environment.get(name) for name in _FLAGS},
            metrics=tuple(self._endpoints()),
        )


def ray_endpoints() -> list[str]:
    """Ask Ray where the agents of its living nodes export metrics."""
    import ray

    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"] and node["MetricsExportPort"]
    ]
