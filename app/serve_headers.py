"""Takes what clients would tell Ray Serve about limits from requests; ``app.settings`` has it call ``middlewares``.

Ray 2.60 lets every client replace the time after which a request is cut off, or switch that off, and have the work go
on when it hangs up: each by a header, which it reads before anything of ours.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

TAKEN = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""The headers."""


def middlewares() -> list[Middleware]:
    """List what stands in front of Ray's Python proxy, and of replicas behind HAProxy."""
    return [Middleware(OwnLimits)]


class OwnLimits:
    """ASGI middleware in front of Ray Serve: the limits of a request are those of the server."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, without the headers."""
        if scope["type"] == "http":
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in TAKEN]
        await self._app(scope, receive, send)
