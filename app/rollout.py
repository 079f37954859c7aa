"""Collects from every gateway of a server which versions it sends devices to, for those who roll a version out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from app.catalog import Catalog
from app.schemas import GatewayState, Rollout
from duet.protocol.errors import VersionNotReady

Peers: TypeAlias = Callable[[str], Awaitable[Sequence[object]]]
"""Asks every gateway, this one included, for its ``GatewayState`` of a model; in place of a lost one is its error."""

_PATIENCE_S = 5.0


class Rollouts:
    """What every gateway sends devices to."""

    def __init__(self, catalog: Catalog, peers: Peers | None) -> None:
        """Ask nobody yet.

        Args:
            catalog: Of this gateway.
            peers: How to reach all of them; this one is alone by default.
        """
        self._catalog, self._peers = catalog, peers

    async def of(self, model: str) -> Rollout:
        """Collect the states of a model.

        Raises:
            UnknownModel: If there is no such model.
            VersionNotReady: If the gateways do not answer.
        """
        own = self._catalog.state(model)
        if self._peers is None:
            return Rollout(model=model, gateways=(own,), silent=0)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                told = await self._peers(model)
        except TimeoutError as error:
            raise VersionNotReady(model=model, version=own.version) from error
        states = sorted((state for state in told if isinstance(state, GatewayState)), key=lambda each: each.gateway)
        return Rollout(model=model, gateways=tuple(states), silent=len(told) - len(states))
