"""Quality of every representation as a device would see it: encode, decode, compose, the device's ONNX graph, predict.

Nothing of the network is trusted here: what a device predicts with went through package bytes and ONNX Runtime.

Shapes: U users, T sample length, D embedding, P flat values of a head, M and K features of a layer, R rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from duet.device.decoders import run_decoders
from duet.device.runtime import DeviceModel, open_session
from duet.evaluation.exams import Exam
from duet.evaluation.intervals import mean_interval
from duet.networks.personalized_parameters_generator import Head, head_segments
from duet.protocol.decoders import encode_embedding
from duet.protocol.device_model import Parameters
from duet.protocol.errors import UnusableRun
from duet.protocol.layers import LayerTable
from duet.protocol.manifest import Quality, RepresentationRecord
from duet.protocol.package import LayerValues, ParameterPackage, encode_body, seal
from duet.protocol.representation import Dtype, Form, Representation
from duet.training.ranking import Questions, Ranks, ranks_of_scores


@dataclass(frozen=True)
class Generated:
    """What the generator says for each user: flat values of the heads, ``[U, P]`` each."""

    table: LayerTable
    rank: int
    values: Mapping[Head, NDArray[np.float32]]
    decoding: "Decoding | None" = None
    """For devices that generate for themselves."""


@dataclass(frozen=True)
class Decoding:
    """What a device that generates for itself works with: the embedding of each user ``[U, D]``, and the decoders."""

    embeddings: NDArray[np.float32]
    decoders: onnxruntime.InferenceSession

    @classmethod
    def by(cls, decoders_onnx: bytes, embeddings: NDArray[np.float32]) -> Self:
        """Open published decoders."""
        return cls(embeddings, open_session(decoders_onnx, "the decoders"))


EMBEDDINGS = (Representation(Form.EMBEDDING, Dtype.FLOAT32), Representation(Form.EMBEDDING, Dtype.FLOAT16))


def offered_representations(heads: Sequence[Head], rank: int) -> tuple[Representation, ...]:
    """List what a version with these heads can answer: every form, dtypes, and ranks 1, 2, 4, … up to R."""
    ranks = sorted({min(2**power, rank) for power in range(rank.bit_length() + 1)})
    offered = [Representation(Form.SHARED, Dtype.FLOAT32)]
    for dtype in Dtype:
        if "factors" in heads:
            offered += [Representation(Form.FACTORS, dtype, r) for r in ranks]
            offered.append(Representation(Form.COMPOSED, dtype, rank))
        if "full" in heads:
            offered.append(Representation(Form.FULL, dtype))
    return tuple(offered)


def answered_representations(generated: Generated) -> tuple[Representation, ...]:
    """List what a version answers with that generates this."""
    offered = offered_representations(tuple(generated.values), generated.rank)
    return offered if generated.decoding is None else (*offered, *EMBEDDINGS)


def layer_values(
    generated: Generated,
    user: int,
    representation: Representation,
    shared: Mapping[str, tuple[NDArray[np.float32], ...]],
) -> dict[str, LayerValues]:
    """Return the numbers of a package for one user, before quantisation."""
    if representation.form is Form.SHARED:
        return {}
    head: Head = "full" if representation.form is Form.FULL else "factors"
    flat = generated.values[head][user]
    arrays: dict[str, dict[str, NDArray[np.float32]]] = {layer.name: {} for layer in generated.table.layers}
    for segment in head_segments(generated.table, head, generated.rank):
        array = flat[segment.start : segment.start + segment.size]
        name = generated.table.layers[segment.layer].name
        arrays[name][segment.role] = array if segment.role == "shift" else array.reshape(segment.rows, segment.columns)
    values = {}
    for name, found in arrays.items():
        if representation.form is Form.FULL:
            values[name] = LayerValues(weight=found["residual"], shift=found["shift"])
        elif representation.form is Form.FACTORS:
            values[name] = LayerValues(left=found["left"], right=found["right"], shift=found["shift"])
        else:
            left, right = found["left"][: representation.rank], found["right"][: representation.rank]
            weight, bias = shared[name]
            values[name] = LayerValues(weight=weight + left.T @ right, shift=bias + found["shift"])
    return values


def device_ranks(
    device: DeviceModel,
    generated: Generated,
    representation: Representation,
    samples: Sequence[object],
    questions: Questions,
    *,
    on_user: Callable[[], None] = lambda: None,
) -> Ranks:
    """Rank every user's held-out item on the device, with parameters that went through package bytes.

    Args:
        device: The device model; its parameters are the shared ones again afterwards.
        generated: What the generator says for each user.
        representation: How it is sent.
        samples: What each device holds, as raw ids.
        questions: The held-out items, in the order of ``samples``.
        on_user: Called after each user.
    """
    parts = []
    for user, sample in enumerate(samples):
        scores = _scores(device, generated, user, representation, sample)
        parts.append(ranks_of_scores(scores[None], questions, slice(user, user + 1)))
        on_user()
    device.reset()
    return Ranks.joined(parts)


def device_scores(
    device_onnx: bytes, generated: Generated, representation: Representation, samples: Sequence[object]
) -> NDArray[np.float32]:
    """Score the catalogue for every user on a device, ``[U, N]``, with parameters that went through package bytes."""
    device = DeviceModel.load(device_onnx)
    return np.stack([_scores(device, generated, user, representation, sample) for user, sample in enumerate(samples)])


def measure_representations(
    device_onnx: bytes,
    generated: Generated,
    exam: Exam,
    *,
    split: str,
    on_user: Callable[[], None] = lambda: None,
) -> tuple[RepresentationRecord, ...]:
    """Measure size and quality of everything a version can answer with, as its manifest publishes them.

    Args:
        device_onnx: The device model that is published.
        generated: What the generator says for each user.
        exam: What each device is asked.
        split: Name of the split, for the record.
        on_user: Called after each user of each representation.
    """
    device = DeviceModel.load(device_onnx)
    records = []
    for representation in answered_representations(generated):
        values = np.empty(len(exam))
        for place in range(len(exam)):
            _put_in_place(device, generated, place, representation)
            values[place] = exam.value(device, place)
            on_user()
        value, low, high = mean_interval(values)
        interval = (round(low, 6), round(high, 6))
        quality = Quality(metric=exam.metric, split=split, value=round(value, 6), interval=interval)
        records.append(RepresentationRecord(representation, _table(generated).package_bytes(representation), quality))
    return tuple(records)


def _scores(
    device: DeviceModel, generated: Generated, user: int, representation: Representation, sample: object
) -> NDArray[np.float32]:
    """Score the catalogue ``[N]`` with the parameters of one user; they stay in place."""
    _put_in_place(device, generated, user, representation)
    return device.scores(sample).copy()


def _put_in_place(device: DeviceModel, generated: Generated, user: int, representation: Representation) -> None:
    """Have a device predict with the parameters of one user, through package bytes."""
    if representation.form is Form.EMBEDDING:
        device.swap(_decoded(generated, user, representation))
    else:
        device.swap(sent_package(generated, user, representation, device.shared).compose(device.shared))


def _decoded(generated: Generated, user: int, representation: Representation) -> Parameters:
    """Send the embedding of one user as bytes, and generate from what arrives."""
    assert generated.decoding is not None
    table = _table(generated)
    body = encode_embedding(generated.decoding.embeddings[user], representation, table)
    if body is None:
        raise UnusableRun(
            path="the encoder",
            reason=f"it makes embeddings that {representation} cannot hold",
            remedy="Train with weight decay or a lower learning rate, in a new folder.",
        )
    sealed = seal(body, representation=representation, version=bytes(16), table=table)
    return run_decoders(generated.decoding.decoders, ParameterPackage.decode(sealed, table))


def _table(generated: Generated) -> LayerTable:
    if generated.decoding is None:
        return generated.table
    return replace(generated.table, embedding_dim=generated.decoding.embeddings.shape[1])


def sent_package(
    generated: Generated,
    user: int,
    representation: Representation,
    shared: Mapping[str, tuple[NDArray[np.float32], ...]],
) -> ParameterPackage:
    """Send the parameters of one user as bytes, and return what arrives.

    Raises:
        UnusableRun: If the representation cannot hold what was generated.
    """
    values, table = layer_values(generated, user, representation, shared), generated.table
    try:
        body = encode_body(values, representation, table)
    except ValueError as error:
        raise UnusableRun(
            path="the generator",
            reason=f"it generates values that {representation} cannot hold: {str(error).rstrip('.')}",
            remedy="Train with weight decay or a lower learning rate, in a new folder.",
        ) from error
    return ParameterPackage.decode(seal(body, representation=representation, version=bytes(16), table=table), table)
