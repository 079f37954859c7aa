"""What a finished run leaves for every later comparison: one small JSON file, with the rank of every user in it.

Ranks are kept exactly. Ties count half, so twice a rank is an integer; the integers are little-endian, as few bytes
each as the largest needs, stored byte plane by byte plane (first all lowest bytes), zlib, base64.

Shapes: U evaluated users.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_serializer, model_validator

from duet.data.splits import Part
from duet.protocol.errors import UnusableRun
from duet.training.checkpoint import write_atomically
from duet.training.config import TrainingConfig
from duet.training.ranking import Ranks

MAX_FILE_BYTES = 64 * 2**20
OWN = "own"
"""The condition that stale, mean and swapped parameters are compared with; seeds may differ in which head that is."""
TESTS = ("mean", "swapped")
INT8 = "-int8"
"""What the condition ends with in which parameters went through an int8 package."""
METRICS: Mapping[str, Callable[[Ranks], NDArray[np.float64]]] = {
    "ndcg@10": lambda ranks: ranks.ndcg(10),
    "hr@10": lambda ranks: ranks.hit_rate(10),
    "uauc": lambda ranks: ranks.auc(),
    "sampled_ndcg@10": lambda ranks: ranks.ndcg(10, sampled=True),
    "sampled_hr@10": lambda ranks: ranks.hit_rate(10, sampled=True),
}
"""Per-user metrics by name: full catalogue, then AUC and rankings of 1 positive against 99 sampled negatives."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Dataset(_Part):
    """The data a run was trained and ranked on."""

    name: str
    users: int = Field(ge=1)
    """Users in the log."""
    evaluated: int = Field(ge=1, le=100_000_000)
    """Users whose held-out item was ranked, U."""
    items: int = Field(ge=1, le=2**30)
    """Catalogue size."""
    sha256: str
    """Fingerprint of catalogue and sequences."""


class Training(_Part):
    """How the training went."""

    seconds: float
    """Training and validation time, over all starts."""
    epochs: int
    best_epoch: int
    """The epoch that was ranked, the best on validation."""
    positions_per_s: float
    """Median training speed over the epochs."""
    history: tuple[float, ...]
    """What selection looked at after each epoch: validation NDCG@10, full catalogue."""
    meta_epochs: int = Field(default=0, ge=0)
    """The first of them, in which a staged run trained the Universal Meta Network alone."""


class Sizes(_Part):
    """Parameters, and what sending them takes."""

    static: int
    """Parameters on the device that never change."""
    dynamic: int
    """Parameters on the device that an update changes."""
    generator: int
    """Parameters that stay in the cloud: sample encoder and generator."""
    update: dict[str, dict[str, int]]
    """Bytes of a whole package, by condition and dtype; nothing for a condition that needs no update."""


class Trial(_Part):
    """One way to fine-tune a device, tried on validation."""

    layers: Literal["classifier", "all"]
    learning_rate: float
    steps: int = Field(ge=1)
    value: float
    """Validation NDCG@10, full catalogue."""


class FineTuned(_Part):
    """How devices fine-tune: the best of all that was tried on validation."""

    chosen: Trial
    users: int
    """Users it was chosen on."""
    trials: tuple[Trial, ...]


class Cost(_Part):
    """What parameters of one's own cost, a device; one thread, all ways of a record measured in turn in one run."""

    one_ms: float
    """Median time of a device that comes alone."""
    batched_ms: float | None
    """Median time a device where `batch` of them are computed at once; None where that is not to be had."""
    batch: int
    megaflops: float | None
    """Arithmetic of matrix products, which is the same on every machine; two a multiply-add."""
    device_bytes: int
    """What a device keeps for it beside its model."""


class Answer(_Part):
    """How every held-out item ranked under one condition."""

    metrics: dict[str, float]
    """Means over the users."""
    full: str
    """Packed ranks ``[U]`` among the whole catalogue minus what the user has seen."""
    sampled: str
    """Packed ranks ``[U]`` among the item and the sampled negatives."""

    @classmethod
    def of(cls, ranks: Ranks) -> Self:
        """Pack ranks and the means of their metrics."""
        metrics = {name: float(metric(ranks).mean()) for name, metric in METRICS.items()}
        return cls(metrics=metrics, full=pack(ranks.full), sampled=pack(ranks.sampled))


class RunRecord(_Part):
    """One finished run. A *condition* is which parameters the devices hold: ``shared``, ``factors-r4``, ``swapped``."""

    format: Literal[1] = Field(alias="schema")
    """The format of the file: a version that does not know it refuses it."""
    grid: str
    """The grid it belongs to; empty for a run outside of any."""
    name: str
    """Name of the variant; runs of one name are seeds of one another."""
    seed: int
    part: Part
    """Which item was held out."""
    dataset: Dataset
    config: TrainingConfig
    """Its configuration; where the log lay is not recorded."""
    training: Training
    sizes: Sizes
    tested: str | None
    """The condition that the tests of personalisation started from; None if nothing is generated."""
    candidates: str
    """Hash of the sampled candidate lists."""
    negatives: str
    """Packed numbers ``[U]`` of sampled negatives."""
    groups: dict[str, str]
    """Packed masks ``[U]`` of groups of users."""
    answers: dict[str, Answer] = Field(min_length=1)
    """By condition, the best that the run serves first."""
    fine_tuning: FineTuned | None = None
    """How devices fine-tune, where they do."""
    costs: dict[str, Cost] = Field(default_factory=dict)
    """By way to parameters of one's own: `fine-tuned`, or what is generated; only in records of fine-tuning."""
    provenance: dict[str, JsonValue]
    """Commit, hardware and versions of the evaluation."""
    origin: str = Field(default="", exclude=True)
    """The run folder or the file it comes from, for messages; not written."""

    @property
    def run_name(self) -> str:
        """Name of the run and of its file."""
        return f"{self.name}-s{self.seed}"

    @property
    def served(self) -> tuple[str, ...]:
        """The conditions that devices may really be in, in order; the others are tests of personalisation."""
        return tuple(name for name in self.answers if name not in TESTS and not name.startswith("stale-"))

    def ranks(self, condition: str) -> Ranks:
        """Return the ranks under a condition; ``own`` is the one that the tests of personalisation started from."""
        if condition == OWN and self.tested is not None:
            condition = self.tested
        answer, users = self.answers[condition], self.dataset.evaluated
        return Ranks(
            unpack(answer.full, users), unpack(answer.sampled, users), unpack(self.negatives, users).astype(np.int64)
        )

    def values(self, condition: str, metric: str) -> NDArray[np.float64]:
        """Return a metric of every user, ``[U]``."""
        return METRICS[metric](self.ranks(condition))

    def group(self, name: str) -> NDArray[np.bool_]:
        """Return which users are in a group, ``[U]``."""
        return unpack_mask(self.groups[name], self.dataset.evaluated)

    def to_json(self) -> str:
        """Return the record as JSON, a line a field, that :func:`read_record` reads back to an equal one."""
        document = self.model_dump(mode="json", by_alias=True)
        # as if they had never been thought of, where there are none: older records stay as they are
        document = {key: value for key, value in document.items() if key not in ("fine_tuning", "costs") or value}
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @field_serializer("config")
    def _without_place(self, config: TrainingConfig) -> dict[str, object]:
        return config.model_dump(mode="json", exclude={"data": {"source"}})

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if self.tested is not None and self.tested not in self.answers:
            raise ValueError(f"the tests start from {self.tested}, which has no answer")
        for name in self.groups:
            self.group(name)
        for condition, answer in self.answers.items():
            ranks = self.ranks(condition)
            for values, most in ((ranks.full, 1 + self.dataset.items), (ranks.sampled, 1 + ranks.negatives)):
                if ((values < 1) | (values > most)).any():
                    raise ValueError(f"{condition} has ranks that its items do not allow")
            for metric, mean in answer.metrics.items():
                if metric in METRICS and abs(METRICS[metric](ranks).mean() - mean) > 1e-9:
                    raise ValueError(f"the mean {metric} of {condition} is not that of its ranks")
        return self


def write_record(folder: Path, record: RunRecord) -> Path:
    """Write a record as ``<folder>/<name>-s<seed>.json``, whole or not at all, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.run_name}.json"
    write_atomically(path, record.to_json().encode())
    return path


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Raises:
        UnusableRun: If the file is damaged, is none, or of a format that this version does not know.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        record = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise _unusable(path, f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    if (path.parent.name, path.stem) != (record.grid, record.run_name):
        raise _unusable(path, f"it is the record of {record.grid}/{record.run_name}")
    return record.model_copy(update={"origin": str(path)})


def _unusable(path: Path, reason: str) -> UnusableRun:
    return UnusableRun(
        path=path,
        reason=f"it is no record of a run ({reason})",
        remedy="Restore it from version control, or delete it and let `duet evaluate --grid` make it again.",
    )


def pack(ranks: NDArray[np.float64] | NDArray[np.int64]) -> str:
    """Pack ranks ``[U]``, which are multiples of a half.

    Raises:
        ValueError: If they are not, or are negative.
    """
    doubled = np.asarray(2 * ranks)
    if not ((doubled == np.rint(doubled)) & (doubled >= 0) & (doubled < 2**32)).all():
        raise ValueError("Expected ranks in halves from 0 on, got others.")
    integers = doubled.astype("<u4")
    largest = int(integers.max(initial=0))
    width = 1 if largest < 2**8 else 2 if largest < 2**16 else 4
    planes = integers.view(np.uint8).reshape(-1, 4)[:, :width].T
    return _deflate(planes.tobytes())


def unpack(text: str, users: int) -> NDArray[np.float64]:
    """Unpack what :func:`pack` packed for so many users.

    Raises:
        ValueError: If it is anything else.
    """
    data = _inflate(text, 4 * users)
    width, rest = divmod(len(data), users)
    if rest or width not in (1, 2, 4):
        raise ValueError(f"expected 1, 2 or 4 bytes for each of {users} ranks, got {len(data)} bytes")
    integers = np.zeros((users, 4), np.uint8)
    integers[:, :width] = np.frombuffer(data, np.uint8).reshape(width, users).T
    return integers.view("<u4").reshape(users) / 2


def pack_mask(mask: NDArray[np.bool_]) -> str:
    """Pack which users are in a group, ``[U]``."""
    return _deflate(np.packbits(mask).tobytes())


def unpack_mask(text: str, users: int) -> NDArray[np.bool_]:
    """Unpack what :func:`pack_mask` packed for so many users.

    Raises:
        ValueError: If it is anything else.
    """
    expected = -(-users // 8)
    data = _inflate(text, expected)
    if len(data) != expected:
        raise ValueError(f"expected a bit for each of {users} users, got {len(data)} bytes")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=users).astype(bool)


def _deflate(data: bytes) -> str:
    """Return zlib, base64; ranks hold so little repetition that Huffman codes alone are often shorter."""
    strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)
    coders = [zlib.compressobj(9, strategy=strategy) for strategy in strategies]
    shortest = min((coder.compress(data) + coder.flush() for coder in coders), key=len)
    return base64.b64encode(shortest).decode("ascii")


def _inflate(text: str, most: int) -> bytes:
    """Undo base64 and zlib; never more than ``most`` bytes come out."""
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"packed values cannot be unpacked ({error})") from error
    if len(data) > most or not inflater.eof or inflater.unused_data:
        raise ValueError(f"expected packed values of at most {most} bytes that end where they say, got others")
    return data
