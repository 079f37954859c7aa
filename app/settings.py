"""What an operator can set: the arguments of the application, and the environment that Ray Serve reads."""

import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from deployments.logs import LogFormat

Ingress = Literal["direct", "haproxy", "python"]
"""Who listens on the port: the gateway's replica itself; HAProxy, which comes with Ray on Linux; Ray's Python proxy."""

BACKSTOP_S = 15
"""When a request is cut off whatever its budget says; longer than the largest budget that a request may name."""

_MESSAGE_LIMIT_BYTES = 64 * 2**20
_LATENCY_BUCKETS_MS = "1,2,3,4,5,6,8,10,12,15,20,25,30,40,50,60,75,100,150,200,300,500,1000,2000,5000"


class Listen(BaseModel):
    """Where every replica of the gateway listens by itself, past Ray Serve's ingress."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address of the node.")
    port: int = Field(ge=1, le=65535, description="Replicas of one node share it, new connections are spread.")
    certificate: str | None = Field(default=None, description="PEM file of a certificate, for TLS.")
    private_key: str | None = Field(default=None, description="PEM file of its private key.")


class AppSettings(BaseModel):
    """The arguments of ``app.builder:build_app``: ``args`` in ``serve_config.yaml``, options of ``duet serve``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: str = Field(
        default="models", description="Folder of published models; relative to where the server starts."
    )
    model: str | None = Field(default=None, description="The only model to serve; all published ones by default.")
    placement: Literal["colocated", "split"] = Field(
        default="colocated", description="All stages in the gateway's process, or a deployment for each stage."
    )
    accelerator: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:[0-9]+)?)$",
        description="Where parameters are generated: cpu, cuda, cuda:1.",
    )
    max_batch: PositiveInt = Field(default=64, description="Most requests in one batch.")
    max_queued: PositiveInt = Field(default=256, description="Most requests that wait for a batch; one more gets 429.")
    batches_in_flight: PositiveInt = Field(
        default=2,
        description="Batches between gateway and stages at once, in split placement; more where stages have replicas.",
    )
    intra_op_threads: PositiveInt = Field(default=1, description="Threads of one operation in a stage.")
    body_limit_bytes: PositiveInt = Field(default=2**20, description="Largest request body; a larger one gets 413.")
    body_timeout_s: PositiveFloat = Field(
        default=10.0, lt=BACKSTOP_S, description="How long a request body may take to arrive; a slower one gets 408."
    )
    api_keys: str | None = Field(
        default=None, description="File of API keys, written by `duet keys`; nobody is asked for one by default."
    )
    signing_keys: str | None = Field(
        default=None, description="File of signing keys, written by `duet keys signing`; nothing is signed by default."
    )
    listen: Listen | None = Field(
        default=None, description="Where gateways listen by themselves; behind Ray Serve's ingress alone by default."
    )
    refresh_s: PositiveFloat = Field(default=2.0, description="How often to look which versions are active.")
    log_format: LogFormat = Field(default="text", description="Log lines as text, or as one JSON object each.")
    trace_ratio: float = Field(
        default=0.01, ge=0, le=1, description="Share of requests to trace, besides those whose budget ran out."
    )
    trace_file: str | None = Field(
        default=None, description="File for traces as JSON lines, where OpenTelemetry's variables name no collector."
    )
    canary_min_requests: PositiveInt = Field(
        default=200, description="Requests of a canary, at one gateway, before it may be ended by itself."
    )
    canary_margin: float = Field(
        default=0.02, ge=0, lt=1, description="How much more of a canary's requests may fail than of the others."
    )


def serving_environment(ingress: Ingress, platform: str = sys.platform) -> dict[str, str]:
    """List the variables to export before Ray starts, in every process and on every node.

    Args:
        ingress: Who listens.
        platform: As ``sys.platform``.

    Raises:
        ValueError: If HAProxy is asked for where Ray brings none.
    """
    if ingress == "haproxy" and not platform.startswith("linux"):
        raise ValueError(f"Expected ingress 'direct' or 'python' on {platform}: Ray brings HAProxy for Linux only.")
    common = {
        "RAY_SERVE_RUN_SYNC_IN_THREADPOOL": "1",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_LIMIT_BYTES),
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": _LATENCY_BUCKETS_MS,
        "RAY_metrics_report_interval_ms": "2000",
        # Ray's own 15 puts replicas behind everything else on the machine, and 0.1 s makes its controller 3 % of a core
        "RAY_worker_niceness": "0",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # Ray tells of a healthy replica every 10 s, and its agent forgets a gauge after twice the report interval above
        "RAY_SERVE_STATUS_GAUGE_REPORT_INTERVAL_S": "1",
    }
    if ingress == "direct":
        # Ray's own way into the replicas would bring a proxy with it
        return common | {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    # or a client's header would set the time after which Ray cuts its request off
    common["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "app.serve_headers:middlewares"
    if ingress == "python":
        # one node only: without HAProxy, throughput-optimised Serve has a proxy on the head node alone
        return common | {"RAY_SERVE_PROXY_USE_GRPC": "1"}
    return common | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(BACKSTOP_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(BACKSTOP_S),
    }
