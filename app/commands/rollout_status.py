"""What ``duet models status`` says: of a pin in the model repository, and of the gateways of a running server."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.schemas import CanaryState, Rollout
    from duet.registry import Pin

_PATIENCE_S = 10.0


def told_pin(model: str, pin: "Pin") -> Iterator[str]:
    """Say what a pin says, a line at a time."""
    since = f"pinned {pin.since}" if pin.since else "the newest, or pinned by an older library"
    yield f"{model} {pin.version} ({since})"
    yield _row("previous", pin.previous or "none")
    if pin.canary is not None:
        yield _row(
            "canary", f"{pin.canary.version} to {pin.canary.percent:g} % of the devices since {pin.canary.since}"
        )
    if pin.ended is not None:
        ended = f"{pin.ended.version} with {pin.ended.percent:g} %, from {pin.ended.since} to {pin.ended.ended}"
        yield _row("given up", f"{ended}: {pin.ended.reason}")


def told_rollout(rollout: "Rollout") -> Iterator[str]:
    """Say what each gateway does, a line each."""
    for state in rollout.gateways:
        canary = "" if state.canary is None else f", {_counted(state.canary)}"
        yield f"gateway {state.gateway} serves {state.version}{canary}"
    if rollout.silent:
        yield f"{rollout.silent} more did not answer"


def served_by(url: str, model: str, api_key: str | None = None) -> "Rollout":
    """Ask a running server.

    Args:
        url: Its address.
        model: Of which model.
        api_key: Where it asks for one.

    Raises:
        DuetError: If it refuses, or cannot be reached.
    """
    import httpx
    from pydantic import ValidationError

    from app.schemas import Rollout
    from duet.device.cloud import check_url
    from duet.protocol.errors import CloudUnreachable, InvalidRequest

    try:
        check_url(url)
    except ValueError as error:
        raise InvalidRequest(detail=str(error)) from error
    address = f"{url.rstrip('/')}/v1/models/{model}/rollout"
    try:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        answer = httpx.get(address, timeout=_PATIENCE_S, headers=headers)
    except httpx.HTTPError as error:
        raise CloudUnreachable(url=address, reason=f"{type(error).__name__}: {error}") from error
    try:
        return Rollout.model_validate_json(answer.content)
    except ValidationError as error:
        reason = f"it answered {answer.status_code}, {answer.text[:200]}"
        raise CloudUnreachable(url=address, reason=reason) from error


def _counted(canary: "CanaryState") -> str:
    return (
        f"{canary.version} to {canary.percent:g} %: {canary.counted.failures:.0f} of {canary.counted.requests:.0f} "
        f"requests failed or were late, {canary.beside.failures:.0f} of {canary.beside.requests:.0f} beside it"
    )


def _row(name: str, value: str) -> str:
    return f"  {name:<12} {value}"
