"""The composition that the tutorials of Ray Serve show: a deployment a stage, a hop a request, `@serve.batch` in each.

Annotations stay objects here: Ray checks the arguments by those of the builder.
"""

from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import NonNegativeFloat
from ray import serve
from ray.serve import Application

from app.settings import AppSettings
from benchmarks.serving.contenders.batch_times import MOST_DEVICES
from benchmarks.serving.contenders.job import ANSWER, Job
from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.parameter_generator import ParameterGenerator
from duet.protocol.package import MEDIA_TYPE


class NaiveSettings(AppSettings):
    """``args`` of the naive composition."""

    wait_s: NonNegativeFloat = 0.01


def build_naive(args: NaiveSettings) -> Application:
    """Make three deployments, a hop for each request and ``@serve.batch`` in each of them."""
    models, model = args.models, args.model
    assert model is not None
    options: dict[str, Any] = {"max_ongoing_requests": 512, "ray_actor_options": {"num_cpus": 0.25}}
    batched = serve.batch(max_batch_size=MOST_DEVICES, batch_wait_timeout_s=args.wait_s)
    job = Job.of(models, model)
    which = {"model": job.model, "version": job.version}

    class NaiveEncoder:
        def __init__(self) -> None:
            self.stage = Encoder(models)
            self.stage.prepare(**which)

        @batched  # type: ignore[untyped-decorator]
        async def encode(self, samples: list[object]) -> list[np.ndarray]:
            return list(self.stage.encode(samples, **which))

    class NaiveGenerator:
        def __init__(self) -> None:
            self.stage = ParameterGenerator(models)
            self.stage.prepare(**which)

        @batched  # type: ignore[untyped-decorator]
        async def generate(self, embeddings: list[np.ndarray]) -> list[bytes | None]:
            return self.stage.generate(np.stack(embeddings), [job.representation] * len(embeddings), **which)

    class NaiveComposer:
        def __init__(self) -> None:
            self.stage = Composer(models)
            self.stage.prepare(**which)

        @batched  # type: ignore[untyped-decorator]
        async def compose(self, bodies: list[bytes | None], tags: list[bytes]) -> list[bytes]:
            plans, answers = [job.representation] * len(bodies), [ANSWER] * len(bodies)
            contents = self.stage.compose(bodies, plans, tags=tags, answers=answers, **which)
            return [content if isinstance(content, bytes) else b"" for content in contents]

    app = FastAPI()

    class NaiveGateway:
        def __init__(self, encoder: Any, generator: Any, composer: Any) -> None:
            self.encoder, self.generator, self.composer = encoder, generator, composer

        @app.get("/readyz")
        async def ready(self) -> dict[str, str]:
            return {"status": "ready"}

        @app.post("/v1/models/{model}/parameters")
        async def answer(self, request: Request) -> Response:
            asked, tag = job.read(await request.body())
            embedding = self.encoder.encode.remote(asked.sample)
            body = self.generator.generate.remote(embedding)
            return Response(await self.composer.compose.remote(body, tag), media_type=MEDIA_TYPE)

    stages = [
        serve.deployment(stage, name=stage.__name__, **options).bind()
        for stage in (NaiveEncoder, NaiveGenerator, NaiveComposer)
    ]
    gateway = serve.ingress(app)(NaiveGateway)
    return serve.deployment(gateway, name="Gateway", **options).bind(*stages)
