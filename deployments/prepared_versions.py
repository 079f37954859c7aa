"""The versions that a stage has loaded, verified, and ready beside each other."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from duet.protocol.errors import CorruptVersion, DuetError
from duet.registry import PublishedVersion, Registry

Prepared = TypeVar("Prepared")

_VERSIONS_A_MODEL = 3


class PreparedVersions(Generic[Prepared]):
    """What one stage made of each version it serves; loads a version that it does not hold.

    A replica born after a rollover finds the new version through the first request for it. The three versions of a
    model that were loaded last are kept: the one served, the one before it, the one being prepared. Threads may
    ask at once.
    """

    def __init__(self, models: Path | str, load: Callable[[PublishedVersion], Prepared]) -> None:
        """Start empty.

        Args:
            models: Root of the model repository.
            load: Makes the stage's own objects from a verified version, and tests them.
        """
        self._registry, self._load = Registry(Path(models)), load
        self._prepared: dict[tuple[str, str], Prepared] = {}
        self._lock = threading.Lock()

    def get(self, model: str, version: str) -> Prepared:
        """Return the prepared version, loading it first if need be.

        Raises:
            UnknownModel: If the model is not published.
            UnknownVersion: If it has no such version.
            RegistryError: If the version is not what was published.
        """
        key = (model, version)
        prepared = self._prepared.get(key)
        if prepared is None:
            with self._lock:
                prepared = self._prepared.get(key)
                if prepared is None:
                    prepared = self._loaded(self._registry.open(model, version))
                    self._keep(key, prepared)
        return prepared

    def _loaded(self, published: PublishedVersion) -> Prepared:
        try:
            return self._load(published)
        except DuetError:
            raise
        except Exception as error:
            # whatever a library says of files that are not what they are called
            reason = f"it cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise CorruptVersion(path=published.folder, reason=reason) from error

    def _keep(self, key: tuple[str, str], prepared: Prepared) -> None:
        held = [other for other in self._prepared if other[0] == key[0]]
        # a new mapping, because another thread may be reading the present one
        retired = set(held[: len(held) - _VERSIONS_A_MODEL + 1])
        kept = {other: value for other, value in self._prepared.items() if other not in retired}
        self._prepared = kept | {key: prepared}
