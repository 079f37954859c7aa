"""One plain FastAPI and uvicorn process that runs the stages for each request by itself: no batches.

python -m benchmarks.serving.contenders.plain --models models --model demo --port 8001
"""

import argparse

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.serving.contenders.job import ANSWER, Job
from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.parameter_generator import ParameterGenerator
from duet.protocol.package import MEDIA_TYPE


def build(models: str, model: str) -> FastAPI:
    """Make the application. Its endpoint computes where it stands: handing over to a thread costs it more."""
    job = Job.of(models, model)
    encoder, generator, composer = Encoder(models), ParameterGenerator(models), Composer(models)
    which = {"model": job.model, "version": job.version}
    for stage in (encoder, generator, composer):
        stage.prepare(**which)
    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/models/{model}/parameters")
    async def generate(request: Request) -> Response:
        asked, tag = job.read(await request.body())
        plan = [job.representation]
        bodies = generator.generate(encoder.encode([asked.sample], **which), plan, **which)
        (content,) = composer.compose(bodies, plan, tags=[tag], answers=[ANSWER], **which)
        if not isinstance(content, bytes):
            raise content
        return Response(content, media_type=MEDIA_TYPE)

    return app


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.contenders.plain", description=__doc__)
    parser.add_argument("--models", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = build(options.models, options.model)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
