"""A Ray Serve application to compare with: an endpoint that does nothing."""

from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve import Application

from app.listener import Listener
from app.settings import AppSettings
from duet.protocol.package import MEDIA_TYPE

_ANSWER_BYTES = 1_700


def build_noop(args: AppSettings) -> Application:
    """Make an endpoint that reads the body and answers with as many bytes as a package has."""
    app, content = FastAPI(), bytes(_ANSWER_BYTES)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/models/{model}/parameters")
    async def answer(request: Request) -> Response:
        await request.body()
        return Response(content, media_type=MEDIA_TYPE)

    class Noop:
        async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
            if args.listen is not None:
                self.listener = Listener(app, args.listen)
                await self.listener.start()

    ingress = serve.ingress(app)(Noop)
    return serve.deployment(ingress, name="Gateway", max_ongoing_requests=512, ray_actor_options={"num_cpus": 1}).bind()
