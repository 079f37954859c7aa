"""A further file of a version that a device keeps beside its model: downloaded once, held to the manifest, cached."""

import hashlib
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

from duet.device.model_cache import InstalledModel, ModelCache
from duet.protocol.errors import DuetError

OnDisk: TypeAlias = Callable[[Callable[[], None]], None]
"""Runs what writes, and survives a disk that refuses."""


class _Loaded(Protocol):
    installed: InstalledModel


Loaded = TypeVar("Loaded", bound=_Loaded)


class VersionFile(Generic[Loaded]):
    """Finds a file of a version: in memory, else on disk, else in the cloud. Keeps the last one in memory."""

    def __init__(
        self,
        name: str,
        load: Callable[[bytes, InstalledModel], Loaded],
        download: Callable[[InstalledModel], bytes],
        cache: ModelCache,
        *,
        damaged: type[DuetError],
        on_disk: OnDisk,
    ) -> None:
        """Hold none yet.

        Args:
            name: Of the file.
            load: Verifies and opens it.
            download: Gets it from the cloud, not verified yet.
            cache: Where to keep it.
            damaged: What ``load`` raises for a file that is not the right one.
            on_disk: Runs what writes, and survives a disk that refuses.
        """
        self._name, self._load, self._download, self._cache = name, load, download, cache
        self._damaged, self._on_disk = damaged, on_disk
        self._last: Loaded | None = None

    def of(self, installed: InstalledModel) -> Loaded:
        """Find the file of a version.

        Raises:
            DuetError: If the version has none, what the cloud gave is not it, or the cloud gave nothing.
        """
        if self._last is None or self._last.installed.digest != installed.digest:
            self._last = self._cached(installed) or self._downloaded(installed)
        return self._last

    def _cached(self, installed: InstalledModel) -> Loaded | None:
        try:
            content = self._cache.read_file(installed.digest, self._name)
            return None if content is None else self._load(content, installed)
        except self._damaged:
            return None  # it is downloaded again

    def _downloaded(self, installed: InstalledModel) -> Loaded:
        content = self._download(installed)
        loaded = self._load(content, installed)
        self._on_disk(lambda: self._cache.write_file(installed.digest, self._name, content))
        return loaded


def is_hashed(content: bytes, installed: InstalledModel, name: str) -> bool:
    """Whether these are the bytes that the manifest of a version hashes."""
    record = installed.manifest.files.get(name)
    return record is not None and hashlib.sha256(content).hexdigest() == record.sha256
