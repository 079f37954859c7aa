"""Every failure the cloud and the device can name. Programming mistakes stay ``ValueError`` and ``TypeError``.

    DuetError
    ├── RequestError              the caller can fix it
    │   ├── UnknownModel
    │   ├── UnknownVersion
    │   ├── InvalidRequest
    │   ├── InvalidSample
    │   ├── BudgetTooSmall
    │   ├── NotAcceptable
    │   ├── UnsupportedMediaType
    │   ├── BodyTooLarge
    │   ├── Unauthorized
    │   ├── HeadersTooLarge
    │   ├── RequestTooSlow
    │   ├── InvalidEmbedding
    │   └── WrongEncoder, WithoutDecoders
    ├── ServiceUnavailable        the caller may retry later
    │   ├── Overloaded
    │   ├── DeadlineExceeded
    │   ├── VersionNotReady
    │   └── RateLimited
    ├── GenerationError           we made something unusable
    │   └── NonFiniteParameters
    ├── PackageError              these bytes are no parameters for this device
    │   ├── CorruptPackage
    │   ├── UnsupportedPackage
    │   ├── WrongVersion
    │   └── ForgedPackage
    ├── RegistryError             the model repository refuses
    │   ├── CorruptVersion
    │   ├── UnsupportedManifest
    │   ├── VersionExists
    │   └── InvalidName
    ├── DataError                 an interaction log cannot be used
    │   └── InvalidData
    ├── TrainingError             a run cannot go on, or cannot be used
    │   ├── DivergedTraining
    │   ├── UnusableRun
    │   └── DatasetTooSmall, LostWorkers, TooManyWorkers
    ├── DeviceError               the device cannot start
    │   ├── CloudUnreachable
    │   ├── NoDeviceModel
    │   └── NoEncoder, NoDecoders
    └── CredentialError           a file of keys cannot be used
        └── InvalidKeyFile

Only leaves are raised. A leaf has a stable ``code``, takes facts by keyword and writes the sentence: what was expected,
what arrived, what to do. Facts are attributes, and survive pickling. See also ``*_errors``.
"""

# ruff: noqa: N818  # a failure is called what it is; the base classes already say that they are errors
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

_SHOWN_CHARACTERS, _SHOWN_NAMES = 120, 12
_ANEW = "Publish it under another name, and remove this one."


class DuetError(Exception):
    """Root of everything that can go wrong for a reason other than a programming mistake."""

    code: ClassVar[str]

    @property
    def facts(self) -> dict[str, object]:
        """What the error was made from, by name."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __reduce__(self) -> tuple[Callable[..., "DuetError"], tuple[object, ...]]:
        # the default calls cls(*args), which keyword-only constructors refuse
        return _restore, (type(self), self.args, dict(vars(self)))


class RequestError(DuetError):
    """The caller can fix it."""


class UnknownModel(RequestError):
    """No model of this name is published."""

    code = "unknown_model"

    def __init__(self, *, model: str, known: Sequence[str]) -> None:
        remedy = f"Use one of {_listed(known)}." if known else "No model is published yet: run `duet publish`."
        super().__init__(f"Expected the name of a published model, got {_shown(model)}. {remedy}")
        self.model, self.known = model, tuple(known)


class UnknownVersion(RequestError):
    """The model has no version of this name."""

    code = "unknown_version"

    def __init__(self, *, model: str, version: str, known: Sequence[str]) -> None:
        remedy = f"Use one of {_listed(known)}." if known else "It has no version yet: run `duet publish`."
        super().__init__(f"Expected a version of model {_shown(model)}, got {_shown(version)}. {remedy}")
        self.model, self.version, self.known = model, version, tuple(known)


class InvalidRequest(RequestError):
    """The request is not what the API documents."""

    code = "invalid_request"

    def __init__(self, *, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidSample(RequestError):
    """The sample is not what the model's signature asks for."""

    code = "invalid_sample"

    def __init__(self, *, expected: str, received: str, remedy: str) -> None:
        super().__init__(f"Expected the sample to be {expected}, got {_clipped(received)}. {remedy}")
        self.expected, self.received, self.remedy = expected, received, remedy


class BudgetTooSmall(RequestError):
    """No representation reaches the device within its budget, even with an empty queue."""

    code = "budget_too_small"

    def __init__(self, *, budget_ms: float, smallest_ms: float) -> None:
        super().__init__(
            f"The budget is {budget_ms:g} ms, but the fastest representation takes {math.ceil(smallest_ms)} ms on this "
            f"link. Raise the budget to {math.ceil(smallest_ms)} ms or keep the current parameters."
        )
        self.budget_ms, self.smallest_ms = budget_ms, smallest_ms


class NotAcceptable(RequestError):
    """The version offers nothing in a form that the device accepts."""

    code = "not_acceptable"

    def __init__(self, *, accepts: Sequence[str], offered: Sequence[str]) -> None:
        super().__init__(
            f"The device accepts {_listed(accepts)}, but this version offers {_listed(offered)}. "
            "Accept one of the offered ones."
        )
        self.accepts, self.offered = tuple(accepts), tuple(offered)


class UnsupportedMediaType(RequestError):
    """The body has a content type that this endpoint does not read."""

    code = "unsupported_media_type"

    def __init__(self, *, received: str, expected: Sequence[str]) -> None:
        super().__init__(f"Expected content type {_listed(expected)}, got {_shown(received)}. Send one of these.")
        self.received, self.expected = received, tuple(expected)


class BodyTooLarge(RequestError):
    """The request body is larger than the server reads."""

    code = "body_too_large"

    def __init__(self, *, limit_bytes: int, received_bytes: int | None) -> None:
        received = f"{received_bytes} bytes" if received_bytes is not None else "more"
        super().__init__(f"Expected at most {limit_bytes} bytes of body, got {received}. Send a shorter sample.")
        self.limit_bytes, self.received_bytes = limit_bytes, received_bytes


class ServiceUnavailable(DuetError):
    """The caller may retry later."""


class Overloaded(ServiceUnavailable):
    """Those who came before make it too late, or leave no room in the queue."""

    code = "overloaded"

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__(f"Expected to answer in time, but too many were here first. Retry after {retry_after_s:g} s.")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServiceUnavailable):
    """The answer would arrive after the budget has run out."""

    code = "deadline_exceeded"

    def __init__(self, *, budget_ms: float, elapsed_ms: float) -> None:
        super().__init__(f"Expected to answer in {budget_ms:g} ms, but {elapsed_ms:.0f} ms have passed. Retry.")
        self.budget_ms, self.elapsed_ms = budget_ms, elapsed_ms


class VersionNotReady(ServiceUnavailable):
    """The version exists, but no replica that answers has it: it is loading, or one has just died."""

    code = "version_not_ready"

    def __init__(self, *, model: str, version: str) -> None:
        super().__init__(
            f"Expected a replica with version {_shown(version)} of model {_shown(model)}, but none answers. Retry soon."
        )
        self.model, self.version = model, version


class GenerationError(DuetError):
    """The cloud made something unusable."""


class NonFiniteParameters(GenerationError):
    """The generator produced parameters that are not finite in the chosen representation."""

    code = "non_finite_parameters"

    def __init__(self, *, model: str, version: str) -> None:
        super().__init__(
            f"Expected finite parameters from version {_shown(version)} of model {_shown(model)}, got NaN, infinity or "
            "an overflow. Keep the current parameters; a float32 representation may still fit."
        )
        self.model, self.version = model, version


class PackageError(DuetError):
    """These bytes are no parameters for this device."""


class CorruptPackage(PackageError):
    """The bytes are not a whole parameter package."""

    code = "corrupt_package"

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"Expected a whole parameter package, but {reason}. Keep the current one and ask again.")
        self.reason = reason


class UnsupportedPackage(PackageError):
    """The package is of a kind that this reader does not know."""

    code = "unsupported_package"

    def __init__(self, *, what: str, received: object, known: Sequence[object]) -> None:
        super().__init__(f"Expected package {what} {_listed(known)}, got {received}. Update the device library.")
        self.what, self.received, self.known = what, received, tuple(known)


class WrongVersion(PackageError):
    """The package is whole, but was made for another model version or layer table than this device's."""

    code = "wrong_version"

    def __init__(self, *, expected: str, received: str) -> None:
        super().__init__(f"Expected a package for {expected}, got one for {received}. Download the device model again.")
        self.expected, self.received = expected, received


class RegistryError(DuetError):
    """The model repository refuses."""


class CorruptVersion(RegistryError):
    """A published version is not what was published."""

    code = "corrupt_version"

    def __init__(self, *, path: Path | str, reason: str, remedy: str = _ANEW) -> None:
        super().__init__(f"Expected a published version as it was written at {path}, but {reason}. {remedy}")
        self.path, self.reason, self.remedy = str(path), reason, remedy


class UnsupportedManifest(RegistryError):
    """The manifest has a format that this library does not read."""

    code = "unsupported_manifest"

    def __init__(self, *, path: Path | str, received: object, known: Sequence[object]) -> None:
        super().__init__(
            f"Expected manifest format {_listed(known)} at {path}, got {received!r:.40}. Update the library."
        )
        self.path, self.received, self.known = str(path), received, tuple(known)


class VersionExists(RegistryError):
    """A version is immutable, and one of this name is already there."""

    code = "version_exists"

    def __init__(self, *, path: Path | str) -> None:
        super().__init__(
            f"Expected a new version, but {path} exists. Published versions never change: choose another name."
        )
        self.path = str(path)


class InvalidName(RegistryError):
    """A model or version cannot be called that."""

    code = "invalid_name"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            f"Expected a name of 1 to 64 characters: lower-case letters and digits, then also '.', '_', '-' (version: "
            f"upper case too, not 'active'), got {_shown(name)}. Rename it."
        )
        self.name = name


class DataError(DuetError):
    """An interaction log cannot be used."""


class InvalidData(DataError):
    """A row, a column or a file is not what its format says."""

    code = "invalid_data"

    def __init__(self, *, path: Path | str, line: int | None, expected: str, received: str, remedy: str) -> None:
        place = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{place}: expected {expected}, got {_clipped(received)}. {remedy}")
        self.path, self.line = str(path), line
        self.expected, self.received, self.remedy = expected, received, remedy


class TrainingError(DuetError):
    """A run cannot go on, or cannot be used."""


class DivergedTraining(TrainingError):
    """The loss is not finite any more."""

    code = "diverged_training"

    def __init__(self, *, step: int, loss: float) -> None:
        super().__init__(f"Expected a finite loss, got {loss} at step {step}. Train anew with a lower learning rate.")
        self.step, self.loss = step, loss


class UnusableRun(TrainingError):
    """A run folder cannot be resumed, evaluated or published."""

    code = "unusable_run"

    def __init__(self, *, path: Path | str, reason: str, remedy: str) -> None:
        super().__init__(f"Expected a usable run at {path}, but {reason}. {remedy}")
        self.path, self.reason, self.remedy = str(path), reason, remedy


class DatasetTooSmall(TrainingError):
    """There is not enough data to train or to measure on."""

    code = "dataset_too_small"

    def __init__(self, *, what: str, count: int, needed: int) -> None:
        super().__init__(f"Expected at least {needed} {what}, got {count}. Use more data or filter less of it.")
        self.what, self.count, self.needed = what, count, needed


class DeviceError(DuetError):
    """The device cannot start."""


class CloudUnreachable(DeviceError):
    """The cloud did not answer."""

    code = "cloud_unreachable"

    def __init__(self, *, url: str, reason: str) -> None:
        super().__init__(f"Expected an answer from {url}, but {_clipped(reason)}. Check the address, or retry later.")
        self.url, self.reason = url, reason


class NoDeviceModel(DeviceError):
    """The device has no model to predict with, neither from the cloud nor in its cache."""

    code = "no_device_model"

    def __init__(self, *, model: str, reason: str) -> None:
        super().__init__(f"Expected a device model of {_shown(model)}, but {_clipped(reason)}. Connect once.")
        self.model, self.reason = model, reason


def _restore(cls: type[DuetError], args: tuple[object, ...], facts: dict[str, object]) -> DuetError:
    error = cls.__new__(cls, *args)
    vars(error).update(facts)
    return error


def _shown(value: object) -> str:
    """Quote what a caller sent, cut to a length that fits a log line."""
    return _clipped(repr(value))


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def _listed(names: Iterable[object]) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _SHOWN_NAMES} more" if len(listed) > _SHOWN_NAMES else ""
    return (", ".join(listed[:_SHOWN_NAMES]) or "nothing") + more
