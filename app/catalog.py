"""Which versions the gateway serves: follows the pins of the model repository, prepares first and flips then."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from app.schemas import ModelSummary
from duet.protocol.budget import Offer
from duet.protocol.errors import CorruptVersion, DuetError, RegistryError, UnknownModel
from duet.protocol.signature import Signature, Vocabulary
from duet.registry import PublishedVersion, Registry

_OPENED_VERSIONS = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """What the gateway needs of one published version; one object a version, so it is compared by identity."""

    published: PublishedVersion
    signature: Signature
    vocabulary: Vocabulary
    offers: tuple[Offer, ...]
    """What it can answer with."""
    offers_by_wish: dict[Hashable, tuple[Offer, ...]] = field(default_factory=dict)
    """What the gateway has made of them for each kind of request."""

    @classmethod
    def of(cls, published: PublishedVersion) -> "ServedVersion":
        """Read it once.

        Raises:
            CorruptVersion: If the vocabulary cannot be read.
        """
        offers = tuple(
            Offer(record.representation, record.package_bytes, record.quality.value, record.quality.higher_is_better)
            for record in published.manifest.representations
        )
        return cls(published, published.signature(), published.vocabulary(), offers)

    @cached_property
    def digest(self) -> bytes:
        """First 16 bytes of the manifest's SHA-256."""
        return self.published.digest

    @cached_property
    def manifest_sha256(self) -> str:
        """The whole hash of the manifest, hexadecimal."""
        return hashlib.sha256(self.published.manifest_bytes).hexdigest()

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers that name the version."""
        return {"Duet-Version": self.digest.hex(), "Duet-Model-Version": self.published.version}

    @cached_property
    def device_model(self) -> bytes:
        """The device model file; read for the first device that downloads it."""
        return self.published.path("device.onnx").read_bytes()


class Catalog:
    """The active version of every model that is served.

    Belongs to one event loop. A version becomes active here only after every stage has prepared it, so a request never
    waits for a flip; when a new version cannot be prepared the old one goes on.
    """

    def __init__(
        self, models: Path | str, prepare: Callable[[str, str], Awaitable[None]], *, only: str | None, refresh_s: float
    ) -> None:
        """Know nothing yet; ``start`` reads the repository.

        Args:
            models: Root of the model repository.
            prepare: Makes a version servable in every stage.
            only: The only model to serve; all by default.
            refresh_s: How often to look for changes.
        """
        self._registry, self._prepare = Registry(models), prepare
        self._only, self._refresh_s = only, refresh_s
        self._active: dict[str, ServedVersion] = {}
        self._opened: dict[tuple[str, str], ServedVersion] = {}
        self._stamps: dict[str, int] = {}
        self._failed: dict[str, tuple[int | None, type[Exception]]] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Prepare every active version, then follow the pins until ``stop``.

        Raises:
            UnknownModel: If there is nothing to serve.
            DuetError: If an active version cannot be served: a start fails loudly.
        """
        names = await asyncio.to_thread(self._names)
        if not names:
            raise UnknownModel(model=self._only or "any", known=await asyncio.to_thread(self._registry.models))
        for model in names:
            self._stamps[model] = self._stamp(model)
            await self._activate(model, await asyncio.to_thread(self._registry.active, model))
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop following the pins."""
        if self._watcher is not None:
            self._watcher.cancel()

    def active(self, model: str) -> ServedVersion:
        """Find the version that a request gets.

        Raises:
            UnknownModel: If there is no such model.
        """
        served = self._active.get(model)
        if served is None:
            raise UnknownModel(model=model, known=sorted(self._active))
        return served

    async def version(self, model: str, version: str | None) -> ServedVersion:
        """Find any published version, the active one by default; others are opened and verified, a few are kept.

        Raises:
            UnknownModel: If there is no such model.
            UnknownVersion: If it has no such version.
            CorruptVersion: If the version is not what was published; names no folder of this machine.
        """
        active = self.active(model)
        if version is None or version == active.published.version:
            return active
        key = (model, version)
        if key not in self._opened:
            try:
                served = ServedVersion.of(await asyncio.to_thread(self._registry.open, model, version))
            except RegistryError as error:
                logger.warning("Version %s of model %s cannot be opened: %s", version, model, error)
                reason = "this server cannot open it, and its log says why"
                raise CorruptVersion(path=f"{model}/{version}", reason=reason) from error
            while len(self._opened) >= _OPENED_VERSIONS:
                self._opened.pop(next(iter(self._opened)))
            self._opened[key] = served
        return self._opened[key]

    async def summaries(self) -> tuple[ModelSummary, ...]:
        """List every model that is served, with its versions."""
        return tuple(
            [
                ModelSummary(
                    name=model,
                    active=served.published.version,
                    versions=await asyncio.to_thread(self._versions, model, served.published.version),
                )
                for model, served in sorted(self._active.items())
            ]
        )

    @property
    def active_versions(self) -> dict[str, str]:
        """The active version of every model."""
        return {model: served.published.version for model, served in sorted(self._active.items())}

    async def refresh(self) -> None:
        """Look for pins and versions that have changed; prepare and flip to what they name."""
        for model in await asyncio.to_thread(self._names):
            stamp: int | None = None
            try:
                stamp = self._stamp(model)
                if stamp == self._stamps.get(model):
                    continue
                version = await asyncio.to_thread(self._registry.active, model)
                if version != self._active_version(model):
                    await self._activate(model, version)
                self._stamps[model] = stamp
                self._failed.pop(model, None)
            except Exception as error:
                # whatever one version does to the stages, the models after it are looked at
                self._tell_once(model, stamp, error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except Exception:
                logger.exception("Looking for new versions met an error; the active ones stay.")

    def _tell_once(self, model: str, stamp: int | None, error: Exception) -> None:
        """Log why a model stays as it is: tried again at every look, told when the folder or the kind has changed."""
        failure = (stamp, type(error))
        if self._failed.get(model) == failure:
            return
        self._failed[model] = failure
        foreseen = isinstance(error, DuetError | OSError)
        told = str(error) if foreseen else f"its files made a stage fail with {error!r}"
        stays = self._active_version(model)
        logger.warning("Model %s stays at version %s: %s", model, stays, told, exc_info=None if foreseen else error)

    async def _activate(self, model: str, version: str) -> None:
        served = ServedVersion.of(await asyncio.to_thread(self._registry.open, model, version))
        await self._prepare(model, version)
        self._active[model] = served
        logger.info("Model %s is served at version %s", model, version)

    def _versions(self, model: str, active: str) -> tuple[str, ...]:
        try:
            return tuple(self._registry.versions(model))
        except UnknownModel:
            return (active,)  # its folder is gone; what is loaded is served on

    def _active_version(self, model: str) -> str | None:
        served = self._active.get(model)
        return None if served is None else served.published.version

    def _names(self) -> list[str]:
        names = self._registry.models()
        return names if self._only is None else [name for name in names if name == self._only]

    def _stamp(self, model: str) -> int:
        """Read when an entry of the model's folder changed last: a version was published, or the pin replaced."""
        return (self._registry.root / model).stat().st_mtime_ns
