"""Keeps the versions of a stage in step with the pins of the model repository, so that no request pays for loading.

A replica that is born while a version is rolled over misses the call to prepare it; and one may have been told while
it could not read the repository. Each looks for itself.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from deployments.loading import VersionLoader
from duet.protocol.errors import DuetError
from duet.registry import Registry

_MOST_LOOKS_BETWEEN = 32

logger = logging.getLogger(__name__)


class PinFollower:
    """Prepares what requests may ask for: the pinned version, the canary, and the one to roll back to."""

    def __init__(self, models: Path | str, prepare: Callable[[str, str], None], *, only: str | None) -> None:
        """Know nothing yet.

        Args:
            models: Root of the model repository.
            prepare: Makes a version servable; returns at once for one that is.
            only: The only model to serve; all by default.
        """
        self._registry, self._prepare, self._only = Registry(models), prepare, only
        self._wanted: dict[str, tuple[str, ...]] = {}
        self._stamps: dict[str, int] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._looks = 0

    def start(self, *, loader: VersionLoader, every_s: float) -> None:
        """Look again and again, until nobody holds the follower any more.

        Args:
            loader: Where versions are loaded.
            every_s: Between two looks.
        """
        gone = threading.Event()
        weakref.finalize(self, gone.set)
        threading.Thread(target=_follow, args=(weakref.ref(self), loader, gone, every_s), daemon=True).start()

    def look(self) -> None:
        """Prepare what the pins name; tell once what cannot be, and try that ever more rarely."""
        self._looks += 1
        for model in self._models():
            for version in self._versions(model):
                failures = self._failures.get((model, version), 0)
                if failures and self._looks % min(2**failures, _MOST_LOOKS_BETWEEN):
                    continue
                try:
                    # for one that is ready it says that it is still wanted
                    self._prepare(model, version)
                    self._failures.pop((model, version), None)
                except (DuetError, OSError) as error:
                    self._failures[model, version] = failures + 1
                    if not failures:
                        logger.warning("Version %s of model %s cannot be prepared: %s", version, model, error)

    def _models(self) -> list[str]:
        try:
            names = self._registry.models()
        except OSError as error:
            self._tell_unreadable(error)
            return list(self._wanted)
        return [name for name in names if self._only in (None, name)]

    def _versions(self, model: str) -> tuple[str, ...]:
        """Read the pin when its folder has changed."""
        try:
            stamp = self._registry.stamp(model)
            if stamp != self._stamps.get(model):
                self._wanted[model] = self._registry.pin(model).versions
                self._stamps[model] = stamp
                self._failures = {key: count for key, count in self._failures.items() if key[0] != model}
        except (DuetError, OSError) as error:
            self._tell_unreadable(error)
        return self._wanted.get(model, ())

    def _tell_unreadable(self, error: Exception) -> None:
        # the gateway, which follows the same pins, says it as a warning
        logger.debug("The pins cannot be read: %s", error)


def _follow(follower: "weakref.ref[PinFollower]", loader: VersionLoader, gone: threading.Event, every_s: float) -> None:
    while not gone.wait(every_s):
        if (following := follower()) is None:
            return
        try:
            looking = loader.submit(following.look)
        except RuntimeError:
            return  # the process ends: its threads take no more work
        try:
            looking.result()
        except Exception:
            logger.exception("Looking for versions to prepare met an error; those that are ready stay.")
        del following
