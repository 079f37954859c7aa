"""Makes the Ray Serve application of either placement. The only file that knows every deployment.

Annotations stay objects here: Ray checks the arguments by the one of ``build_app``; a string would switch that off.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from app.access import Access
from app.api import build_api
from app.door import Door
from app.gateway import Gateway
from app.listener import Listener
from app.metadata import MetadataReader, ray_endpoints
from app.schemas import GatewayState
from app.settings import AppSettings
from app.telemetry import Telemetry
from deployments.fan_out import FanOut
from deployments.garbage_collector import serve_from_here
from deployments.handles import ask_every_replica, count_replicas
from deployments.logs import configure_logs
from deployments.metrics_export import RayGauges
from deployments.pipeline import ColocatedPipeline, Pipeline, SplitPipeline
from deployments.priority import let_watchers_wait
from deployments.replicas import ComposerReplica, EncoderReplica, ParameterGeneratorReplica

# requests queue in our own batcher: a full replica of Serve's is polled by its callers, not woken
_GATEWAY_REQUESTS = 512
# a batch crosses a hop, so these are batches
_STAGE_BATCHES = 16
# three failures in a row restart a replica; Serve's own ten and thirty seconds would be many budgets
_HEALTH_CHECK_S = 2.0


class GatewayReplica:
    """Serves a ``Gateway`` over HTTP."""

    async def __init__(self, settings: AppSettings, *stages: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        """Prepare what is published; a replica takes requests after that.

        Args:
            settings: What the operator has set.
            stages: Handles of encoder, parameter generator and composer in split placement, none in colocated.
        """
        configure_logs(settings.log_format)
        pipeline: Pipeline = SplitPipeline(*stages) if stages else _colocated(settings)
        self._telemetry = Telemetry.of(settings)
        self._check = None if stages else pipeline.check
        self._gateway = Gateway(settings, pipeline, peers=_ask_every_gateway, telemetry=self._telemetry)
        await self._gateway.start()
        self._telemetry.start(self._gateway, RayGauges())
        counts = [partial(count_replicas, stage) for stage in stages]
        self._fan_out = FanOut(counts, _count_gateways, least=settings.batches_in_flight) if stages else None
        if self._fan_out is not None:
            self._fan_out.follow(self._gateway.widen, every_s=settings.refresh_s)
        self._api = build_api(
            self._gateway,
            body_limit_bytes=settings.body_limit_bytes,
            metadata=MetadataReader(settings, endpoints=ray_endpoints),
            body_timeout_s=settings.body_timeout_s,
            access=Access.from_settings(settings),
        )
        serve_from_here()
        let_watchers_wait()
        self._listener: Listener | None = None
        if settings.listen is not None:
            door = Door(self._gateway.room, on_refusal=self._telemetry.refused)
            self._listener = Listener(self._api, settings.listen, on_refusal=self._telemetry.refused, door=door)
            await self._listener.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._api

    async def state(self, model: str) -> GatewayState:
        """Tell the other gateways which versions this one sends devices to."""
        return self._gateway.catalog.state(model)

    async def check_health(self) -> None:
        """Show that the event loop turns, that the replica listens where it should, and that colocated stages work."""
        if self._listener is not None:
            self._listener.check()
        if self._check is not None:
            await self._check()

    async def __del__(self) -> None:  # Serve awaits it before it ends the process
        if self._listener is not None:
            await self._listener.stop()
        if self._fan_out is not None:
            await self._fan_out.stop()
        await self._gateway.stop()
        await self._telemetry.stop()


def build_app(args: AppSettings) -> Application:
    """Wire the deployments of one placement. Split placement asks for less than two cores.

    Args:
        args: ``args`` of ``serve_config.yaml``, or the options of ``duet serve``.
    """
    return wire(args, ParameterGeneratorReplica)


def wire(
    settings: AppSettings, generator_replica: type, *, replicas: int = 1, **generator_options: object
) -> Application:
    """Wire an application whose parameter generator may be another one in split placement: benchmarks have one.

    Args:
        settings: What the operator has set.
        generator_replica: What is deployed in the place of ``ParameterGeneratorReplica``.
        replicas: Of every deployment.
        generator_options: What it takes besides.
    """
    # replicas may start elsewhere than this process
    files = {"models": settings.models, "api_keys": settings.api_keys, "signing_keys": settings.signing_keys}
    settings = settings.model_copy(
        update={name: str(Path(file).resolve()) for name, file in files.items() if file is not None}
    )
    gateway = serve.ingress()(GatewayReplica)
    # Ray hides the accelerators from a replica that asks for none
    accelerator = {"num_gpus": 0 if settings.accelerator == "cpu" else 1}
    if settings.placement == "colocated":
        alone = _deployment(gateway, "Gateway", _GATEWAY_REQUESTS, replicas=replicas, num_cpus=1, **accelerator)
        return alone.bind(settings)
    models, model, threads = settings.models, settings.model, settings.intra_op_threads
    every = {"model": model, "refresh_s": settings.refresh_s, "log_format": settings.log_format}
    deployed = partial(_deployment, replicas=replicas)
    encoder = deployed(EncoderReplica, "Encoder", _STAGE_BATCHES, num_cpus=0.5)
    generator = deployed(generator_replica, "ParameterGenerator", _STAGE_BATCHES, num_cpus=0.5, **accelerator)
    generator_options |= {"accelerator": settings.accelerator, "intra_op_threads": threads}
    composer = deployed(ComposerReplica, "Composer", _STAGE_BATCHES, num_cpus=0.25)
    return deployed(gateway, "Gateway", _GATEWAY_REQUESTS, num_cpus=0.5).bind(
        settings,
        encoder.bind(models, **every, intra_op_threads=threads),
        generator.bind(models, **every, **generator_options),
        composer.bind(models, **every),
    )


async def _ask_every_gateway(model: str) -> Sequence[object]:
    return await ask_every_replica(_gateways(), "state", model)


async def _count_gateways() -> int:
    return await count_replicas(_gateways())


def _gateways() -> Any:
    context = serve.get_replica_context()
    return serve.get_deployment_handle(context.deployment, context.app_name)


def _deployment(replica: type, name: str, requests: int, *, replicas: int = 1, **resources: float) -> serve.Deployment:
    return serve.deployment(
        replica,
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=requests,
        ray_actor_options=resources,
        health_check_period_s=_HEALTH_CHECK_S,
        health_check_timeout_s=_HEALTH_CHECK_S,
    )


def _colocated(settings: AppSettings) -> ColocatedPipeline:
    # here, because the gateway of split placement loads neither torch nor ONNX
    from deployments.composer import Composer
    from deployments.encoder import Encoder
    from deployments.parameter_generator import ParameterGenerator

    models, threads = settings.models, settings.intra_op_threads
    generator = ParameterGenerator(models, accelerator=settings.accelerator, intra_op_threads=threads)
    encoder = Encoder(models, intra_op_threads=threads)
    pipeline = ColocatedPipeline(encoder, generator, Composer(models), intra_op_threads=threads)
    pipeline.follow(models, only=settings.model, every_s=settings.refresh_s)
    return pipeline
