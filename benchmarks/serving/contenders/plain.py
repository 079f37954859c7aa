"""Plain FastAPI and uvicorn processes that run the stages for each request by themselves: no batches.

python -m benchmarks.serving.contenders.plain --models models --model demo --port 8001
"""

import argparse
import os

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.serving.contenders.job import Job
from benchmarks.serving.contenders.stages import Stages
from duet.protocol.package import MEDIA_TYPE

_FACTORY = "benchmarks.serving.contenders.plain:build"
_MODELS, _MODEL = "PLAIN_MODELS", "PLAIN_MODEL"
_BORN_S = 60
"""A worker that says nothing for so long is replaced: importing the libraries of the stages takes several seconds."""


def build() -> FastAPI:
    """Make the application. Its endpoint computes where it stands: handing over to a thread costs it more."""
    models, model = os.environ[_MODELS], os.environ[_MODEL]
    job = Job.of(models, model)
    stages = Stages(models, job)
    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/models/{model}/parameters")
    async def generate(request: Request) -> Response:
        asked, tag = job.read(await request.body())
        (content,) = stages.compute([asked.sample], [tag])
        return Response(content, media_type=MEDIA_TYPE)

    return app


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.contenders.plain", description=__doc__)
    parser.add_argument("--models", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--processes", type=int, default=1, help="that share the port; default: 1")
    options = parser.parse_args()
    os.environ[_MODELS], os.environ[_MODEL] = options.models, options.model
    uvicorn.run(
        _FACTORY,
        factory=True,
        host="127.0.0.1",
        port=options.port,
        workers=options.processes,
        timeout_worker_healthcheck=_BORN_S,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
