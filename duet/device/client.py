"""DuetDevice: predicts on the device, asks the cloud for fresher parameters, never loses by having asked."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import httpx

from duet.device.cloud import Answer, Cloud
from duet.device.decoders import DeviceDecoders, decoders_of
from duet.device.encoders import encoders_of
from duet.device.link_estimate import LinkEstimate, learn_from
from duet.device.model_cache import DEVICE_FILE, InstalledModel, ModelCache, install, read_manifest
from duet.device.question import Question
from duet.device.received import check_question, put_in_place, read_package
from duet.device.runtime import DeviceModel, Ranking
from duet.device.samples import plain_sample
from duet.device.update import Update, report
from duet.protocol.budget import PROFILES, Link
from duet.protocol.canonical_json import encode_json
from duet.protocol.embedding_errors import WrongEncoder
from duet.protocol.errors import DuetError, InvalidSample, NoDeviceModel, WrongVersion
from duet.protocol.manifest import Manifest, digest_of
from duet.protocol.representation import Dtype, Form, Representation
from duet.protocol.signing import SigningKey

MAX_BUDGET_MS = 10_000.0
"""The largest budget that a cloud accepts."""

MAX_TIMEOUT_S = 3600.0
"""The longest that a device can be told to wait on the network."""

_LOGGER = logging.getLogger(__name__)
_FULL = Representation(Form.FULL, Dtype.FLOAT32)
_PRIORITIES = {"low": "u=5", "normal": "u=3", "high": "u=1"}  # with their urgency, as RFC 9218 has it
_SENDS = ("sample", "embedding")
_MIN_ANSWER_BYTES = 2**20  # another version may have larger layers than the one in place


@dataclass(frozen=True)
class _Held:
    """What the device predicts with; replaced as a whole."""

    installed: InstalledModel
    representation: Representation | None = None
    tag: bytes | None = None
    since_s: float = 0.0


class DuetDevice:
    """One device: its model, its parameters and its line to the cloud.

    Downloads the device model of the served version once, when it is first needed, and keeps it in ``cache``; from then
    on it predicts without a network. Threads may predict while one updates. A context manager, to close connections.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        device_id: str,
        cache: Path | str,
        link: str | Link = "lte",
        measures_link: bool = False,
        budget_ms: float = 200.0,
        accepts: Mapping[str, Sequence[str]] | None = None,
        sends: Literal["sample", "embedding"] = "sample",
        holds_decoders: bool = False,
        priority: str = "normal",
        timeout_s: float | None = None,
        api_key: str | None = None,
        signing_key: SigningKey | Sequence[SigningKey] | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a device; nothing is sent or read yet.

        Args:
            url: Address of the cloud, ``http://`` or ``https://``.
            model: Name of the model.
            device_id: Opaque id; the cloud uses it for canaries and limits and does not store it.
            cache: Folder for device models; devices and processes may share it.
            link: Name of a network profile, or the measured link.
            measures_link: Learn the link from every exchange and tell the cloud what was learnt; ``link`` is what is
                assumed before the first one.
            budget_ms: From sending to the last byte received; above 0, at most 10,000.
            accepts: ``{"forms": [...], "dtypes": [...]}`` that the device can read; everything when None.
            sends: ``"sample"``, or ``"embedding"``: the device runs the version's encoder itself, and its samples stay
                here. There is no falling back from one to the other.
            holds_decoders: Download the version's decoders once, and take the form ``embedding``, from which the device
                generates for itself: the fewest bytes an update. Versions without decoders are asked for the others.
            priority: ``"low"``, ``"normal"`` or ``"high"``.
            timeout_s: When to give up waiting for parameters; when None, twice the budget and at least 1 s, because
                parameters that come late are still fresher than those in place. At most 3,600.
            api_key: What the cloud's operator gave this device; sent with every request.
            signing_key: A package or a manifest that is not signed with this key, or with one of these, is refused like
                a damaged one, and so is a package of another sample. None believes what the connection brings.
            headers: Sent with every request.
            transport: What carries the requests instead of the network.
            clock: Seconds that never go back.

        Raises:
            ValueError: If the address, the device id, the link, the budget, what it sends, the priority, the time-out
                or the key is not usable.
            InvalidName: If ``model`` is no model name.
        """
        if not (link in PROFILES if isinstance(link, str) else isinstance(link, Link)):
            raise ValueError(f"Expected a Link or a profile of {sorted(PROFILES)}, got {link!r:.80}.")
        if not 1 <= len(device_id) <= 128:
            raise ValueError(f"Expected a device id of 1 to 128 characters, got {len(device_id)}.")
        if not 0 < budget_ms <= MAX_BUDGET_MS:
            raise ValueError(f"Expected a budget above 0 and at most {MAX_BUDGET_MS:g} ms, got {budget_ms:g}.")
        if timeout_s is not None and not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(f"Expected timeout_s above 0 and at most {MAX_TIMEOUT_S:g} s, got {timeout_s:g}.")
        if priority not in _PRIORITIES:
            raise ValueError(f"Expected a priority of {list(_PRIORITIES)}, got {priority!r:.80}.")
        if sends not in _SENDS:
            raise ValueError(f"Expected sends to be one of {list(_SENDS)}, got {sends!r:.80}.")
        self._link = PROFILES[link] if isinstance(link, str) else link
        self._estimate = LinkEstimate(self._link) if measures_link else None
        self._model, self._device_id = model, device_id
        self._budget_ms = float(budget_ms)
        self._timeout_s = float(timeout_s) if timeout_s is not None else max(1.0, 2 * self._budget_ms / 1000)
        self._request: dict[str, object] = {
            "device": device_id,
            "link": link if isinstance(link, str) else {name: float(value) for name, value in vars(link).items()},
            "priority": priority,
        }
        self._accepts = None if accepts is None else {what: list(names) for what, names in accepts.items()}
        if self._accepts is not None:
            self._request["accepts"] = self._accepts
        encode_json(self._request)  # what JSON cannot carry must fail here, not in every update
        self._clock = clock
        self._cache = ModelCache(Path(cache), model)
        self._signing_keys = (signing_key,) if isinstance(signing_key, SigningKey) else tuple(signing_key or ())
        self._cloud = Cloud(
            url,
            model,
            api_key=api_key,
            signing_keys=self._signing_keys,
            headers={"Priority": _PRIORITIES[priority], **(headers or {})},
            transport=transport,
            clock=clock,
        )
        files = (self._cloud, self._cache, self._on_disk)
        self._encoders = encoders_of(*files) if sends == "embedding" else None
        self._decoders = decoders_of(*files) if holds_decoders else None
        self._lock = threading.RLock()
        self._held: _Held | None = None
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def link(self) -> Link:
        """The network to the cloud: as it was given, or as far as it is learnt."""
        return self._link if self._estimate is None else self._estimate.link

    def close(self) -> None:
        """Close the connections; predicting with what is in place goes on, and ``update`` reports that it failed."""
        self._cloud.close()

    @property
    def model(self) -> DeviceModel:
        """The device model in place; downloaded if there is none."""
        return self._hold().installed.model

    @property
    def manifest(self) -> Manifest:
        """The manifest of the version in place."""
        return self._hold().installed.manifest

    @property
    def representation(self) -> Representation | None:
        """What the parameters in place came as, or None while they are the shared ones."""
        held = self._held
        return None if held is None else held.representation

    def prepare(self) -> None:
        """Have a device model in place, and encoder and decoders if it is to have them: from the cache, else the cloud.

        Raises:
            NoDeviceModel: If the cache has none and the cloud gives none.
            DuetError: If the device has a model, but gets no sound encoder; it predicts all the same.
        """
        held = self._hold()
        with self._lock:
            if self._encoders is not None:
                self._encoders.of(held.installed)
            self._decoders_of(held.installed)

    def refresh_model(self) -> bool:
        """Move to the version that the cloud serves now, with its shared parameters; nothing happens if it is in place.

        ``update`` does this by itself, and better: it keeps the old model until parameters for the new one are here.

        Returns:
            Whether the version changed.

        Raises:
            DuetError: If the cloud does not give a sound device model; the old one stays.
        """
        with self._lock:
            installed = self._download(None)
            if self._held is not None and self._held.installed.digest == installed.digest:
                return False
            self._hold_now(_Held(installed))
            return True

    def predict(
        self, sample: object, candidates: Sequence[object] | None = None, k: int = 10, *, exclude_seen: bool = True
    ) -> Ranking:
        """Rank the catalogue, or the given candidates, with the parameters in place; see ``DeviceModel.predict``.

        Raises:
            InvalidSample: If the sample, or a candidate, is not known to the vocabulary.
            NoDeviceModel: If there is no model yet and none can be had.
        """
        return self.model.predict(sample, candidates, k, exclude_seen=exclude_seen)

    def update(self, sample: object, *, raise_on_error: bool = False) -> Update:
        """Ask for the parameters that suit ``sample`` and put them in place; on any failure keep what is there.

        If the cloud serves another version than the one in place, its device model is downloaded and asked for again;
        the old model works until both are here.

        Args:
            sample: What the signature asks for.
            raise_on_error: Raise the error instead of reporting it.

        Returns:
            What happened.

        Raises:
            DuetError: If it failed and ``raise_on_error`` is set.
        """
        with self._lock:
            started = self._clock()
            answers: list[Answer] = []
            try:
                update = self._update(sample, answers)
                self._failures = 0
            except DuetError as error:
                if not raise_on_error:
                    if self._failures == 0:
                        told = " ".join([str(error), *getattr(error, "__notes__", ())])
                        _LOGGER.warning("Keeping the parameters in place: %s", told)
                    self._failures += 1
                update = replace(report(answers), representation=self.representation, error=error)
            update = replace(update, measured_ms=(self._clock() - started) * 1000)
        if raise_on_error and update.error is not None:
            raise update.error
        return update

    def _update(self, sample: object, answers: list[Answer]) -> Update:
        held = self._hold()
        sample = plain_sample(sample)
        # without the vocabulary: items that this version does not know may be known to the one the cloud serves now
        held.installed.signature.validate(sample)
        is_other_version = False
        try:
            question = self._question(sample, held.installed)
            decoders = self._decoders_of(held.installed)
            answers.append(self._ask(question, held, decoders))
            if answers[-1].status == 204:
                return replace(report(answers), status="kept", representation=held.representation)
            package = read_package(answers[-1], held.installed, decoders)
        except (WrongVersion, WrongEncoder, InvalidSample) as error:
            held = _Held(self._served_instead(error, answers))
            is_other_version = True
            question = self._question(sample, held.installed)
            decoders = self._decoders_of(held.installed)
            answers.append(self._ask(question, held, decoders))
            package = read_package(answers[-1], held.installed, decoders)
        if self._signing_keys:
            check_question(package, held.installed, question)
        put_in_place(package, held.installed.model, decoders, sample=sample)
        self._hold_now(_Held(held.installed, package.representation, package.tag, self._clock()))
        return replace(
            report(answers),
            status="updated",
            representation=package.representation,
            model_replaced=is_other_version,
        )

    def _question(self, sample: object, installed: InstalledModel) -> Question:
        if self._encoders is None:
            return Question.of_sample(sample, installed.signature)
        return Question.of_embedding(self._encoders.of(installed).embed(sample), installed.digest)

    def _decoders_of(self, installed: InstalledModel) -> DeviceDecoders | None:
        """Find the decoders of the version in place, if the device is to have some; without them it gets factors."""
        if self._decoders is None:
            return None
        try:
            return self._decoders.of(installed)
        except DuetError as error:
            _LOGGER.warning("Asking for parameters that need no decoders: %s", error)
            return None

    def _served_instead(self, error: DuetError, answers: Sequence[Answer]) -> InstalledModel:
        """Get the version that the cloud serves now, if an error means that it has moved on; else raise the error."""
        if isinstance(error, WrongEncoder):
            return self._download(error.version)
        if isinstance(error, WrongVersion):
            # the checksum was right, so this is no damage
            return self._download(answers[-1].headers.get("duet-model-version"))
        if self._encoders is None or answers:
            raise error
        # nothing in the sample is known to this version, so its encoder cannot ask; another version may know more
        return self._download(None)

    def _ask(self, question: Question, held: _Held, decoders: DeviceDecoders | None) -> Answer:
        model = held.installed.model
        request = {**self._request, **question.fields}
        if decoders is not None:
            request["accepts"] = {**(self._accepts or {}), "decoders": decoders.name}
        if held.tag is not None:
            request["current"] = {
                "version": held.installed.digest.hex(),
                "tag": held.tag.hex(),
                "age_s": self._clock() - held.since_s,
            }
        if self._estimate is not None:
            # no longer than it is known: every digit costs uplink
            request["link"] = {name: float(f"{value:.4g}") for name, value in vars(self._estimate.link).items()}
        started_s = self._clock()
        answer = self._cloud.parameters(
            request,
            budget_ms=self._budget_ms,
            timeout_s=self._timeout_s,
            limit_bytes=max(_MIN_ANSWER_BYTES, 2 * model.table.package_bytes(_FULL)),
        )
        if self._estimate is not None:
            learn_from(self._estimate, answer, (self._clock() - started_s) * 1000)
        return answer

    def _hold(self) -> _Held:
        held = self._held  # predictions take no lock once there is a model
        if held is not None:
            return held
        with self._lock:
            if self._held is None:
                cached = self._cache.current()
                try:
                    self._hold_now(_Held(cached or self._download(None)))
                except NoDeviceModel:
                    raise
                except DuetError as error:
                    why = getattr(error, "reason", error.code)  # its whole sentence is the cause
                    reason = f"the cache is empty and the cloud gave none ({why})"
                    raise NoDeviceModel(model=self._model, reason=reason) from error
            assert self._held is not None
            return self._held

    def _hold_now(self, held: _Held) -> None:
        is_new = self._held is None or self._held.installed.digest != held.installed.digest
        self._held = held  # one reference: nobody predicts with half of it
        if is_new:
            self._on_disk(lambda: self._cache.set_current(held.installed.digest))

    def _download(self, version: str | None) -> InstalledModel:
        manifest_bytes = self._cloud.manifest(version, device=self._device_id)
        cached = self._cache.read(digest_of(manifest_bytes))
        if cached is not None:
            return cached
        manifest = read_manifest(self._model, manifest_bytes)
        onnx = self._cloud.file("device-model", manifest.version, manifest.files[DEVICE_FILE].bytes)
        installed = install(self._model, manifest_bytes, onnx)
        self._on_disk(lambda: self._cache.write(manifest_bytes, onnx))
        return installed

    def _on_disk(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            _LOGGER.warning("Going on without a cache, %s will be downloaded again: %s", self._model, error)
