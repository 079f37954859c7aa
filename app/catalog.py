"""Which version a device gets: follows the pins of the model repository, prepares first and flips then."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from app.canary import CanaryLimit, CanaryTrial
from app.schemas import CanaryState, CanarySummary, GatewayState, ModelSummary, Requests
from app.served_version import ServedVersion
from deployments.loading import VersionLoader
from duet.protocol.errors import CorruptVersion, DuetError, RegistryError, UnknownModel, VersionNotReady
from duet.registry import Canary, Pin, Registry

_OPENED_VERSIONS = 8
_MOST_LOOKS_BETWEEN = 32
_CANARY_LIMIT = CanaryLimit()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """Why a model could not follow its pin, and how often in a row."""

    stamp: int | None
    kind: type[Exception]
    attempts: int


@dataclass(frozen=True, eq=False)
class ServedCanary:
    """The version that a share of the devices gets, and how it does."""

    canary: Canary
    served: ServedVersion
    trial: CanaryTrial


class Catalog:
    """The active version of every model that is served, and the canary beside it.

    Belongs to one event loop. A version becomes active here only after every stage has prepared it, so a request never
    waits for a flip; when a new version cannot be prepared the old one goes on.
    """

    def __init__(
        self,
        models: Path | str,
        prepare: Callable[[str, str], Awaitable[None]],
        *,
        only: str | None,
        refresh_s: float,
        canary_limit: CanaryLimit = _CANARY_LIMIT,
    ) -> None:
        """Know nothing yet; ``start`` reads the repository.

        Args:
            models: Root of the model repository.
            prepare: Makes a version servable in every stage.
            only: The only model to serve; all by default.
            refresh_s: How often to look for changes.
            canary_limit: When a canary ends by itself.
        """
        self._registry, self._prepare, self._loader = Registry(models), prepare, VersionLoader()
        self._only, self._refresh_s, self._canary_limit = only, refresh_s, canary_limit
        self._active: dict[str, ServedVersion] = {}
        self._canaries: dict[str, ServedCanary] = {}
        self._name = secrets.token_hex(4)
        self._given_up: set[tuple[str, Canary]] = set()
        self._writing: set[asyncio.Task[None]] = set()
        self._opened: dict[tuple[str, str], ServedVersion] = {}
        self._stamps: dict[str, int] = {}
        self._failed: dict[str, _Failure] = {}
        self._looks = 0
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
            stamp = self._registry.stamp(model)
            pin = await asyncio.to_thread(self._registry.pin, model)
            await self._activate(model, pin.version)
            try:
                await self._follow(model, pin)
                self._stamps[model] = stamp
            except Exception as error:
                # a canary is no reason not to start; it is tried again at every look
                self._tell_once(model, stamp, error)
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

    def served_to(self, model: str, device: str) -> ServedVersion:
        """Find the version that a request of this device gets: the canary if the device is of its share.

        Raises:
            UnknownModel: If there is no such model.
        """
        on_trial = self._canaries.get(model)
        if on_trial is not None and on_trial.canary.takes(model, device):
            return on_trial.served
        return self.active(model)

    def canary(self, model: str) -> ServedCanary | None:
        """Find the canary of a model, if it has one."""
        return self._canaries.get(model)

    def judge(self, model: str, served: ServedVersion, *, is_failure: bool) -> None:
        """Hold a request for or against the version that it got; ends a canary that fails too often, here at once.

        Args:
            model: Its model.
            served: What ``served_to`` gave.
            is_failure: Whether it was late, or failed for a reason that is not its sender's.
        """
        on_trial = self._canaries.get(model)
        if on_trial is None or served not in (on_trial.served, self._active[model]):
            return
        reason = on_trial.trial.count(is_canary=served is on_trial.served, is_failure=is_failure)
        if reason is not None:
            self._give_up(model, on_trial.canary, reason)

    async def version(self, model: str, version: str | None, *, device: str | None = None) -> ServedVersion:
        """Find any published version; others than those served are opened and verified, a few are kept.

        Args:
            model: Its model.
            version: Its name; that of the device by default.
            device: Whose version, where none is named; the active one by default.

        Raises:
            UnknownModel: If there is no such model.
            UnknownVersion: If it has no such version.
            CorruptVersion: If the version is not what was published; names no folder of this machine.
        """
        if version is None:
            return self.active(model) if device is None else self.served_to(model, device)
        for served in self._in_place(model):
            if served.published.version == version:
                return served
        key = (model, version)
        if key not in self._opened:
            try:
                served = await self._loader.run(self._open, model, version)
            except RegistryError as error:
                logger.warning("Version %s of model %s cannot be opened: %s", version, model, error)
                reason = "this server cannot open it, and its log says why"
                raise CorruptVersion(path=f"{model}/{version}", reason=reason) from error
            self._keep(served)
        return self._opened[key]

    async def summaries(self) -> tuple[ModelSummary, ...]:
        """List every model that is served, with its versions."""
        return tuple(
            [
                ModelSummary(
                    name=model,
                    active=served.published.version,
                    canary=_summary(self._canaries.get(model)),
                    versions=await asyncio.to_thread(self._versions, model, served.published.version),
                )
                for model, served in sorted(self._active.items())
            ]
        )

    def state(self, model: str) -> GatewayState:
        """Say which versions this gateway sends devices to.

        Raises:
            UnknownModel: If there is no such model.
        """
        on_trial, canary = self._canaries.get(model), None
        if on_trial is not None:
            counted, beside = (
                Requests(requests=tally.requests, failures=tally.failures)
                for tally in (on_trial.trial.canary, on_trial.trial.others)
            )
            canary = CanaryState(**vars(on_trial.canary), counted=counted, beside=beside)
        return GatewayState(gateway=self._name, version=self.active(model).published.version, canary=canary)

    @property
    def active_versions(self) -> dict[str, str]:
        """The active version of every model."""
        return {model: served.published.version for model, served in sorted(self._active.items())}

    async def refresh(self) -> None:
        """Look for pins and versions that have changed; prepare and flip to what they name."""
        self._looks += 1
        for model in await asyncio.to_thread(self._names):
            stamp: int | None = None
            try:
                stamp = self._registry.stamp(model)
                if stamp == self._stamps.get(model) or self._may_wait(model, stamp):
                    continue
                await self._follow(model, await asyncio.to_thread(self._registry.pin, model))
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
        """Log why a model stays as it is, once until its folder or the kind of failure changes."""
        last = self._failed.get(model)
        is_known = last is not None and (last.stamp, last.kind) == (stamp, type(error))
        self._failed[model] = _Failure(stamp, type(error), last.attempts + 1 if last and is_known else 1)
        if is_known:
            return
        foreseen = isinstance(error, DuetError | OSError)
        told = str(error) if foreseen else f"its files made a stage fail with {error!r}"
        stays = self._active_version(model)
        logger.warning("Model %s stays at version %s: %s", model, stays, told, exc_info=None if foreseen else error)

    def _may_wait(self, model: str, stamp: int) -> bool:
        """Whether to leave a model alone at this look: what stages have refused is tried ever more rarely."""
        last = self._failed.get(model)
        if last is None or last.stamp != stamp or last.kind is VersionNotReady:
            return False
        return bool(self._looks % min(2**last.attempts, _MOST_LOOKS_BETWEEN))

    async def _follow(self, model: str, pin: Pin) -> None:
        """Prepare what a pin names, and flip to it; a canary that passes or ends moves no device twice."""
        if pin.version != self._active_version(model):
            await self._activate(model, pin.version)  # flips last, so a canary that has passed is gone in the same turn
        wanted, present = pin.canary, self._canaries.get(model)
        if wanted is None or (model, wanted) in self._given_up:
            self._canaries.pop(model, None)
        elif present is None or present.canary != wanted:
            try:
                served = await self._ready(model, wanted.version)
            except BaseException:
                self._canaries.pop(model, None)
                raise
            self._canaries[model] = ServedCanary(wanted, served, CanaryTrial(self._canary_limit))
            logger.info(
                "Model %s is served at version %s to %g %% of the devices", model, wanted.version, wanted.percent
            )

    async def _activate(self, model: str, version: str) -> None:
        served = await self._ready(model, version)
        for retired in self._in_place(model):
            self._keep(retired)
        self._active[model] = served
        logger.info("Model %s is served at version %s", model, version)

    async def _ready(self, model: str, version: str) -> ServedVersion:
        """Make a version servable in every stage."""
        known = {served.published.version: served for served in self._in_place(model)}
        served = known.get(version) or self._opened.get((model, version))
        if served is None:
            served = await self._loader.run(self._open, model, version)
        await self._prepare(model, version)
        return served

    def _open(self, model: str, version: str) -> ServedVersion:
        return ServedVersion.of(self._registry.open(model, version))

    def _keep(self, served: ServedVersion) -> None:
        """Keep a version that is not served open, for those who read it and for a rollback."""
        while len(self._opened) >= _OPENED_VERSIONS:
            self._opened.pop(next(iter(self._opened)))
        self._opened[served.published.model, served.published.version] = served

    def _in_place(self, model: str) -> list[ServedVersion]:
        on_trial, active = self._canaries.get(model), self._active.get(model)
        return [served for served in (active, on_trial.served if on_trial else None) if served is not None]

    def _give_up(self, model: str, canary: Canary, reason: str) -> None:
        """Send the devices of a canary back, and write that down; who follows the same pins does it as well then."""
        del self._canaries[model]
        self._given_up.add((model, canary))
        active = self._active_version(model)
        logger.error("Canary %s of model %s is ended, %s goes on: %s", canary.version, model, active, reason)
        task = asyncio.get_running_loop().create_task(self._write_down(model, canary, reason))
        # the loop itself holds its tasks by weak references only
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_down(self, model: str, canary: Canary, reason: str) -> None:
        try:
            await asyncio.to_thread(self._registry.end_canary, model, canary, reason)
        except (DuetError, OSError) as error:
            logger.error(
                "The end of canary %s of model %s is known to this gateway alone, until `duet models rollback %s`: %s",
                canary.version,
                model,
                model,
                error,
            )

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


def _summary(on_trial: ServedCanary | None) -> CanarySummary | None:
    if on_trial is None:
        return None
    return CanarySummary(version=on_trial.canary.version, percent=on_trial.canary.percent)
