"""Runs the device model: one ONNX Runtime session whose dynamic weights can be swapped while it predicts.

Dynamic layer n holds ``W_n [M, K]`` and ``b_n [M]``. The file carries them as overridable initializers named
``dyn.<layer>.weight`` and ``dyn.<layer>.bias`` whose defaults are the shared values; feeding them replaces them.

Shapes: B samples, N catalogue items, M output and K input features of a dynamic layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from duet.device.device_file import DeviceFile, read_device_file
from duet.device.samples import plain_sample
from duet.protocol.device_model import SCORES, Parameters, weight_inputs
from duet.protocol.errors import CorruptPackage, InvalidSample, NoDeviceModel
from duet.protocol.layers import LayerTable
from duet.protocol.signature import Signature, Vocabulary

_SCORES = 2**17  # that come out of the session at once: a backbone may hold a thousand numbers for each on the way
_SHARED: Mapping[str, NDArray[np.float32]] = MappingProxyType({})  # feeding nothing runs the defaults of the file


@dataclass(frozen=True)
class Ranking:
    """The best items for one sample, best first; items with equal scores keep catalogue order.

    Attributes:
        ids: Raw item ids.
        titles: Titles a person can read, parallel to ``ids``; the id as text where the vocabulary has no titles.
        scores: Scores of the model, parallel to ``ids``.
    """

    ids: tuple[str | int, ...]
    titles: tuple[str, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.ids)


class DeviceModel:
    """Predicts with a backbone that never changes and the dynamic layers that were swapped in last.

    Owns one session and one immutable set of parameters. Threads may predict while another swaps: a prediction reads
    the set once, so it sees all of the old parameters or all of the new ones. Keeps no samples.
    """

    def __init__(self, session: onnxruntime.InferenceSession, file: DeviceFile) -> None:
        self._session = session
        self._file = file
        self._feed = _SHARED

    @classmethod
    def load(cls, onnx: Path | bytes, *, name: str = "device.onnx") -> "DeviceModel":
        """Open a published device model, with the shared parameters in place.

        Args:
            onnx: The file, or its bytes.
            name: What errors call the model.

        Raises:
            NoDeviceModel: If the file cannot be read, is no ONNX graph, or breaks the contract of docs/device.md.
        """
        session = open_session(onnx if isinstance(onnx, bytes) else _read(onnx, name), name)
        return cls(session, read_device_file(session, name))

    @property
    def table(self) -> LayerTable:
        """The dynamic layers, in package order."""
        return self._file.table

    @property
    def signature(self) -> Signature:
        """What one sample is."""
        return self._file.signature

    @property
    def vocabulary(self) -> Vocabulary:
        """Ids and titles of the catalogue, in score order."""
        return self._file.vocabulary

    @property
    def shared(self) -> Parameters:
        """The parameters that were trained for everybody: weight ``[M, K]`` and bias ``[M]`` by layer name."""
        return self._file.shared

    @property
    def is_shared(self) -> bool:
        """Whether predictions use the shared parameters."""
        return self._feed is _SHARED

    def swap(self, parameters: Parameters, *, sample: object | None = None) -> None:
        """Predict with ``parameters`` from the next call on; on any error the old ones stay.

        Args:
            parameters: Weight ``[M, K]`` and bias ``[M]``, float32, of every dynamic layer. They are copied.
            sample: When given, the new parameters are first tried on it and refused if a score is not finite.

        Raises:
            ValueError: If a layer is missing or unknown, or a shape or dtype differs from the layer table.
            CorruptPackage: If a value, or a score of ``sample``, is not finite.
            InvalidSample: If ``sample`` is not what the signature asks for.
        """
        feed = self._checked_feed(parameters)
        if sample is not None and not np.isfinite(self._run([sample], feed)).all():
            raise CorruptPackage(reason="its parameters give scores that are not finite")
        self._feed = feed  # one reference: nobody sees half a swap

    def reset(self) -> None:
        """Predict with the shared parameters from the next call on."""
        self._feed = _SHARED

    def with_shared(self) -> "DeviceModel":
        """Make a model of the same file that predicts with the shared parameters, whatever this one does."""
        return DeviceModel(self._session, self._file)

    def predict(
        self, sample: object, candidates: Sequence[object] | None = None, k: int = 10, *, exclude_seen: bool = True
    ) -> Ranking:
        """Rank the catalogue, or the given candidates, for one sample.

        Args:
            sample: What the signature asks for.
            candidates: Raw item ids to rank, each counted once, seen or not; the whole catalogue when None.
            k: How many items to return at most.
            exclude_seen: Leave the items of ``sample`` out; does not apply to ``candidates``.

        Raises:
            InvalidSample: If the sample, or a candidate, is not known to the vocabulary.
            ValueError: If ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"Expected k of at least 1, got {k}.")
        scores = self.scores(sample)
        if candidates is not None:
            positions = self._positions(candidates)
        else:
            seen = self.signature.seen(plain_sample(sample), self.vocabulary) if exclude_seen else ()
            positions = np.delete(np.arange(len(scores)), np.array(seen, np.intp))
        best = positions[_top(scores[positions], k)]
        return Ranking(
            ids=tuple(self.vocabulary.ids[position] for position in best),
            titles=tuple(self.vocabulary.title(int(position)) for position in best),
            scores=tuple(float(score) for score in scores[best]),
        )

    def scores(self, sample: object) -> NDArray[np.float32]:
        """Score every catalogue item for one sample.

        Returns:
            Scores in vocabulary order, float32 ``[N]``.

        Raises:
            InvalidSample: If the sample is not what the signature asks for.
        """
        return self._run([sample], self._feed).reshape(-1)

    def scores_batch(self, samples: Sequence[object]) -> NDArray[np.float32]:
        """Score every catalogue item for many samples, all with the parameters in place when the call began.

        Returns:
            Scores in vocabulary order, float32 ``[B, N]``.

        Raises:
            InvalidSample: If a sample is not what the signature asks for.
        """
        feed, size = self._feed, max(1, _SCORES // len(self.vocabulary))
        chunks = [self._run(samples[start : start + size], feed) for start in range(0, len(samples), size)]
        return np.concatenate(chunks) if chunks else np.empty((0, len(self.vocabulary)), np.float32)

    def _run(self, samples: Sequence[object], feed: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        arrays = self.signature.arrays([plain_sample(sample) for sample in samples], self.vocabulary)
        return np.asarray(self._session.run([SCORES], {**arrays, **feed})[0], np.float32)

    def _checked_feed(self, parameters: Parameters) -> Mapping[str, NDArray[np.float32]]:
        expected = {layer.name for layer in self.table.layers}
        if set(parameters) != expected:
            raise ValueError(f"Expected parameters for {sorted(expected)}, got {sorted(parameters)}.")
        feed: dict[str, NDArray[np.float32]] = {}
        for layer in self.table.layers:
            shapes = ((layer.outputs, layer.inputs), (layer.outputs,))
            for name, array, shape in zip(weight_inputs(layer), parameters[layer.name], shapes, strict=True):
                if array.shape != shape or array.dtype != np.float32:
                    raise ValueError(f"Expected {name} float32 {list(shape)}, got {array.dtype} {list(array.shape)}.")
                if not np.isfinite(array).all():
                    raise CorruptPackage(reason=f"{name} holds values that are not finite")
                feed[name] = np.array(array, order="C")
                feed[name].setflags(write=False)
        return MappingProxyType(feed)

    def _positions(self, candidates: Sequence[object]) -> NDArray[np.intp]:
        positions = []
        for raw in candidates:
            raw = int(raw) if isinstance(raw, np.integer) else raw
            is_id = isinstance(raw, str | int) and not isinstance(raw, bool)
            position = self.vocabulary.index(raw) if is_id else None  # type: ignore[arg-type]
            if position is None:
                raise InvalidSample(
                    expected=f"ranked against candidates among the {len(self.vocabulary)} items of the catalogue",
                    received=f"the candidate {raw!r}",
                    remedy="Leave it out: the model cannot score an item that it was not trained with.",
                )
            positions.append(position)
        return np.unique(np.array(positions, np.intp))


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NoDeviceModel(model=name, reason=f"{path} cannot be read ({error.strerror})") from error


def open_session(data: bytes, name: str) -> onnxruntime.InferenceSession:
    """Open a graph on one core: it shares the device with its user.

    Raises:
        NoDeviceModel: If it is none.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # overridable initializers are wanted here; every load would warn about them
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise NoDeviceModel(model=name, reason=f"ONNX Runtime cannot open it ({error})") from error


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the positions of the ``k`` highest scores, best first; equal scores keep their order, NaN comes last."""
    losses = -scores
    kept = np.arange(len(losses))
    if len(losses) > 4 * k:  # sorting the few that can be in the answer is much cheaper than sorting all
        threshold = np.partition(losses, k - 1)[k - 1]
        kept = np.flatnonzero(~(losses > threshold))
    return kept[np.argsort(losses[kept], kind="stable")][:k]
