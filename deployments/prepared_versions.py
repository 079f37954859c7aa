"""The versions that a stage has loaded, verified, and ready beside each other."""

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Generic, TypeVar

from deployments.garbage_collector import settle
from duet.protocol.errors import CorruptVersion, DuetError
from duet.registry import PublishedVersion, Registry

Prepared = TypeVar("Prepared")

# the pinned one, the one before it, the canary, and one that is being prepared
_VERSIONS_A_MODEL = 4


class PreparedVersions(Generic[Prepared]):
    """What one stage made of each version it serves; loads a version that it does not hold.

    The four versions of a model that were asked for last are kept, so what the pins name stays as long as somebody
    looks at them (``pin_follower``). Threads may ask at once.
    """

    def __init__(self, models: Path | str, load: Callable[[PublishedVersion], Prepared]) -> None:
        """Start empty.

        Args:
            models: Root of the model repository.
            load: Makes the stage's own objects from a verified version, and tests them.
        """
        self._registry, self._load = Registry(Path(models)), load
        self._prepared: dict[tuple[str, str], Prepared] = {}
        self._asked: dict[tuple[str, str], int] = {}
        self._turns = count()
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
                    settle()
        self._asked[key] = next(self._turns)
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
        held = sorted(
            (other for other in self._prepared if other[0] == key[0]), key=lambda other: self._asked.get(other, 0)
        )
        retired = held[: max(0, len(held) - _VERSIONS_A_MODEL + 1)]
        # a new mapping, because another thread may be reading the present one
        kept = {other: value for other, value in self._prepared.items() if other not in retired}
        self._prepared = kept | {key: prepared}
        for other in retired:
            self._asked.pop(other, None)
