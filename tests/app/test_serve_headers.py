"""What a client would tell Ray Serve about the limits of its request never gets there."""

from ray.serve._private import constants
from ray.serve._private.http_util import (
    call_function_from_import_path,
    parse_disconnect_disabled_header,
    parse_request_timeout_header,
    validate_http_proxy_callback_return,
)
from starlette.types import Message, Receive, Scope, Send

from app.serve_headers import TAKEN
from app.settings import serving_environment

BACKSTOP_S = 15.0


async def test_ray_finds_nothing_about_limits_and_all_the_rest() -> None:
    seen: dict[bytes, bytes] = {}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope["headers"])

    async def receive() -> Message:
        raise AssertionError("nothing is to be read")

    async def send(message: Message) -> None:
        raise AssertionError("nothing is to be said")

    callback = serving_environment("haproxy", "linux")["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    (middleware,) = validate_http_proxy_callback_return(call_function_from_import_path(callback))
    headers = [(name, b"0" if b"timeout" in name else b"?1") for name in sorted(TAKEN)]
    told = dict(headers)
    await middleware.cls(serve)({"type": "http", "headers": [*headers, (b"host", b"a")]}, receive, send)

    # these are what Ray obeys
    assert parse_request_timeout_header(told, BACKSTOP_S) is None
    assert parse_disconnect_disabled_header(told)
    assert seen == {b"host": b"a"}
    assert parse_request_timeout_header(seen, BACKSTOP_S) == BACKSTOP_S


def test_ray_has_no_third_header_about_limits() -> None:
    said = {value.encode() for name, value in vars(constants).items() if name.startswith("SERVE_HTTP_REQUEST_")}

    assert said == {*TAKEN, b"x-request-id"}
