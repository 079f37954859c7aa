"""The folder of published versions: list, verify, publish, and choose which version devices get."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from duet.protocol.errors import (
    CorruptVersion,
    InvalidName,
    InvalidRequest,
    UnknownModel,
    UnknownVersion,
    UnsupportedManifest,
    VersionExists,
)
from duet.protocol.manifest import FILE_NAME, MODEL_NAME, RESERVED_NAMES, VERSION_NAME, Manifest
from duet.registry.files import read
from duet.registry.pin import PIN_NAME, Canary, Pin, now, only_writer, read_pin, write_pin
from duet.registry.versions import PendingVersion, PublishedVersion, verify


class Registry:
    """A folder of published versions; safe to read from any number of processes while one publishes or pins.

    It keeps nothing in memory: every call looks at the files.

    Args:
        root: The folder that holds one folder a model; it need not exist before something is published.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """List the models that have at least one version, by name."""
        return sorted(name for name in _folder_names(self.root) if self._version_names(name))

    def versions(self, model: str) -> list[str]:
        """List the versions of a model, oldest first by the time in their manifests; unreadable ones come first.

        Raises:
            UnknownModel: If there is no such model.
        """
        names = self._version_names(model)
        if not names:
            raise UnknownModel(model=model, known=self.models())
        return sorted(names, key=lambda name: (self._created(model, name), name))

    def stamp(self, model: str) -> int:
        """Read when an entry of the model's folder changed last: a version was published, or the pin replaced.

        Raises:
            OSError: If there is no such folder.
        """
        return (self.root / model).stat().st_mtime_ns

    def pin(self, model: str) -> Pin:
        """Read what the requests of a model are answered with: the pin, or the newest version if there is none.

        Raises:
            UnknownModel: If there is no such model.
            UnknownVersion: If the pinned version is gone.
            CorruptVersion: If the pin cannot be read.
        """
        versions = self.versions(model)
        pin = self._pin(model) or Pin(versions[-1])
        if pin.version not in versions:
            raise UnknownVersion(model=model, version=pin.version, known=versions)
        return pin

    def active(self, model: str) -> str:
        """Name the version that is served: the pinned one, or the newest if none is pinned.

        Raises:
            DuetError: What ``pin`` raises.
        """
        return self.pin(model).version

    def activate(self, model: str, version: str) -> None:
        """Pin a version, after verifying it; the one that was active before is remembered for ``rollback``.

        A canary of this version has passed with that, one of another version is given up. Pinning the version that is
        active keeps it so while newer ones are published. A damaged pin is replaced.

        Raises:
            DuetError: What ``open`` raises.
        """
        self.open(model, version)
        with only_writer(self.root / model):
            try:
                pin = self._pin(model) or Pin(self.versions(model)[-1])
            except CorruptVersion:
                pin = Pin(version)  # what was active before is lost
            is_new = pin.version != version
            ended = pin.without_canary(f"version {version} was activated for every device").ended
            has_passed = pin.canary is not None and pin.canary.version == version
            previous, since = (pin.version, now()) if is_new else (pin.previous, pin.since or now())
            self._write(model, Pin(version, previous, since, None, None if has_passed else ended))

    def start_canary(self, model: str, version: str, percent: float) -> None:
        """Give a share of the devices another version, after verifying it; the active one is pinned with that.

        A second call widens or narrows the share, or changes the version; the trial begins anew.

        Args:
            model: Its name.
            version: What the share gets.
            percent: Of the devices, above 0 and below 100.

        Raises:
            InvalidRequest: If the version is the active one, or there is no such share.
            DuetError: What ``open`` and ``pin`` raise.
        """
        if not 0 < percent < 100:
            wanted = "Expected a canary for more than 0 and less than 100 percent of the devices"
            raise InvalidRequest(detail=f"{wanted}, got {percent:g}. Without a canary a version is for all of them.")
        self.open(model, version)
        with only_writer(self.root / model):
            pin = self.pin(model)
            if pin.version == version:
                raise InvalidRequest(
                    detail=f"Expected a version of model {model} beside the active one, got {version}, which every "
                    "device gets already. Activate the one that they are to keep first, then start the canary."
                )
            canary = Canary(version, float(percent), now())
            self._write(model, Pin(pin.version, pin.previous, pin.since or now(), canary, pin.ended))

    def end_canary(self, model: str, canary: Canary, reason: str) -> bool:
        """Give a canary up: its devices get the active version again.

        Args:
            model: Its name.
            canary: The trial that failed.
            reason: Why, for those who ask later.

        Returns:
            Whether it was still running; another one that began meanwhile goes on.

        Raises:
            OSError: If the repository cannot be written.
            DuetError: What ``pin`` raises.
        """
        with only_writer(self.root / model):
            pin = self.pin(model)
            if pin.canary != canary:
                return False
            self._write(model, pin.without_canary(reason))
            return True

    def rollback(self, model: str) -> str:
        """Give the canary up; without one, pin the version that was active before, or the next older one.

        Returns:
            The version that every device gets now.

        Raises:
            InvalidRequest: If there is nothing to go back to.
            DuetError: What ``pin`` and ``open`` raise.
        """
        versions = self.versions(model)
        with only_writer(self.root / model):
            pin = self.pin(model)
            if pin.canary is not None:
                self._write(model, pin.without_canary("it was rolled back by hand"))
                return pin.version
            previous = pin.previous
            if previous is None:
                if pin.version == versions[0]:
                    wanted = f"Expected a version of model {model} from before {pin.version}"
                    raise InvalidRequest(detail=f"{wanted}, but there is no earlier one. Activate another by its name.")
                previous = versions[versions.index(pin.version) - 1]
            self.open(model, previous)
            self._write(model, Pin(previous, pin.version, now(), None, pin.ended))
        return previous

    @contextmanager
    def publish(self, model: str, version: str | None = None) -> Iterator[PendingVersion]:
        """Write a new version: fill ``folder`` of what is yielded, then ``commit`` it.

        Whatever way the block is left without a commit, nothing stays behind.

        Args:
            model: Lower-case letters, digits, ``.``, ``_`` and ``-``.
            version: As a model's name, upper case allowed; by default the UTC time, ``20260131T120000Z``.

        Raises:
            InvalidName: If a name is not usable.
            VersionExists: If the version is there already.
        """
        if not MODEL_NAME.fullmatch(model):
            raise InvalidName(name=model)
        if version is not None and (not VERSION_NAME.fullmatch(version) or version.lower() in RESERVED_NAMES):
            raise InvalidName(name=version)
        home = self.root / model
        version = version or _unused_version(home)
        target = home / version
        if target.exists():
            raise VersionExists(path=target)
        is_new_home = not home.exists()
        folder = home / f".{version}.tmp-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700, parents=True)
        try:
            yield PendingVersion(model, version, folder=folder, target=target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if is_new_home:
                with suppress(OSError):  # not empty: something was published
                    home.rmdir()

    def open(self, model: str, version: str | None = None) -> PublishedVersion:
        """Verify a version and give access to it: every file is there, as hashed, and nothing else.

        Args:
            model: Its name.
            version: Its name; the active one by default.

        Raises:
            UnknownModel, UnknownVersion: If there is none of this name.
            CorruptVersion: If a file is missing, added or changed, or the manifest cannot be used.
            UnsupportedManifest: If the manifest is of another format.
        """
        version = version if version is not None else self.active(model)
        known = self._version_names(model)
        if not known:
            raise UnknownModel(model=model, known=self.models())
        if version not in known:
            raise UnknownVersion(model=model, version=version, known=self.versions(model))
        folder = self.root / model / version
        data = read(folder / FILE_NAME)
        manifest = Manifest.from_bytes(data, folder / FILE_NAME)
        if (manifest.model, manifest.version) != (model, version):
            raise CorruptVersion(
                path=folder, reason=f"its manifest is that of version {manifest.version} of model {manifest.model}"
            )
        verify(folder, manifest.files)
        return PublishedVersion(model, version, folder, manifest, data)

    def _version_names(self, model: str) -> list[str]:
        if not MODEL_NAME.fullmatch(model):
            return []
        names = _folder_names(self.root / model)
        return [name for name in names if VERSION_NAME.fullmatch(name) and name.lower() not in RESERVED_NAMES]

    def _created(self, model: str, version: str) -> float:
        path = self.root / model / version / FILE_NAME
        try:
            return datetime.fromisoformat(Manifest.from_bytes(read(path), path).created).timestamp()
        except (CorruptVersion, UnsupportedManifest):
            # listed, so that it can be seen and removed; oldest, so that it is never served by default
            return float("-inf")

    def _pin(self, model: str) -> Pin | None:
        remedy = f"Pin one anew: `duet models activate {model} VERSION --models {self.root}`."
        return read_pin(self.root / model / PIN_NAME, remedy)

    def _write(self, model: str, pin: Pin) -> None:
        write_pin(self.root / model / PIN_NAME, pin)


def _unused_version(home: Path) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name, count = stamp, 1
    while (home / name).exists():
        count += 1
        name = f"{stamp}-{count}"
    return name


def _folder_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
