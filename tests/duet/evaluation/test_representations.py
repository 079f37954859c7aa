"""What a device computes from package bytes ranks like the network that was trained."""

import numpy as np
import pytest
import torch

from duet.device.runtime import DeviceModel
from duet.evaluation.exams import RankingExam
from duet.evaluation.representations import (
    Generated,
    device_ranks,
    device_scores,
    layer_values,
    measure_representations,
    offered_representations,
)
from duet.networks.duet_network import SHARED as SHARED_SERVED
from duet.networks.duet_network import Served
from duet.networks.export import export_device_model
from duet.protocol.representation import SHARED, Dtype, Form, Representation
from duet.protocol.signature import SequenceSignature, Vocabulary
from duet.training import checkpoint
from duet.training.networks import build_network
from duet.training.ranking import ask, rank
from duet.training.tasks import split_of

RANK = 3
OFFERED = offered_representations(("factors", "full"), RANK)


class Case:
    """A trained network with livelier generators, its device model, and the questions of all users."""

    def __init__(self, run, config, interactions):
        self.network = build_network(config, interactions.item_count).eval()
        checkpoint.load_best(run, self.network)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in self.network.generator.parameters():
                parameter += 0.15 * torch.randn_like(parameter)
        self.split = split = split_of(config, interactions)
        self.questions = ask(split, split.users, "validation", config.backbone.length)
        signature = SequenceSignature(config.backbone.length, item_type="integer")
        vocabulary = Vocabulary(interactions.item_ids, interactions.titles)
        self.onnx = export_device_model(self.network, signature, vocabulary)
        self.samples = [[interactions.item_ids[item - 1] for item in row if item] for row in self.questions.samples]
        self.generated = Generated(self.network.meta.table, RANK, self._values())

    def _values(self):
        items = torch.from_numpy(self.questions.samples)
        positions = torch.arange(len(items)) * items.shape[1] + (items != 0).sum(1) - 1
        with torch.no_grad():
            z = self.network.embeddings(items).flatten(0, 1)[positions]
            heads = self.network.generator.heads
            folded = {head: self.network.generator.fold(head) for head in heads}
            return {head: (z @ weight.T + bias).numpy() for head, (weight, bias) in folded.items()}

    def logits(self, served):
        items = torch.from_numpy(self.questions.samples)
        positions = torch.arange(len(items)) * items.shape[1] + (items != 0).sum(1) - 1
        with torch.no_grad():
            states, residuals = self.network.condition(items, positions, served)
            return self.network.meta.scores(states, residuals).numpy()


@pytest.fixture(scope="module")
def case(tiny_run, tiny_config, tiny_interactions):
    return Case(tiny_run, tiny_config, tiny_interactions)


def served_by(representation):
    if representation.form is Form.SHARED:
        return SHARED_SERVED
    return Served("full") if representation.form is Form.FULL else Served("factors", representation.rank)


@pytest.mark.parametrize("representation", [offer for offer in OFFERED if offer.dtype is Dtype.FLOAT32], ids=str)
def test_in_float32_a_device_scores_and_ranks_like_the_network(case, representation):
    served = served_by(representation)
    logits = case.logits(served)

    scores = device_scores(case.onnx, case.generated, representation, case.samples)
    ranks = device_ranks(DeviceModel.load(case.onnx), case.generated, representation, case.samples, case.questions)

    np.testing.assert_allclose(scores, logits, rtol=0, atol=2e-5)
    expected = rank(case.network, case.questions, served)
    own = logits[np.arange(len(logits)), case.questions.targets - 1][:, None]
    ties = (np.abs(logits - own) < 1e-4).sum(1) - 1  # items that rounding may move past the target
    assert (np.abs(ranks.full - expected.full) <= ties).all()
    assert (np.abs(ranks.sampled - expected.sampled) <= ties).all()
    assert (ties == 0).mean() > 0.9
    assert ranks.negatives.tolist() == expected.negatives.tolist()


@pytest.mark.parametrize("representation", [offer for offer in OFFERED if offer.dtype is not Dtype.FLOAT32], ids=str)
def test_smaller_numbers_stay_close_to_the_network(case, representation):
    logits = case.logits(served_by(representation))

    scores = device_scores(case.onnx, case.generated, representation, case.samples)

    tolerance = 0.02 if representation.dtype is Dtype.FLOAT16 else 0.15
    assert np.abs(scores - logits).max() < tolerance
    assert np.abs(scores - logits).max() > 0


def stored_and_read(array, dtype):
    """What a device reads of an array, by the rule of the package format, written once more."""
    if dtype is Dtype.FLOAT16 or array.ndim == 1:
        return array.astype(np.float16).astype(np.float32)
    scales = np.maximum((np.abs(array).max(1) / np.float32(127)).astype(np.float16), np.float16(2.0**-24))
    scales = scales.astype(np.float32)[:, None]
    return np.clip(np.rint(array / scales), -127, 127) * scales


@pytest.mark.parametrize("representation", [offer for offer in OFFERED if offer.dtype is not Dtype.FLOAT32], ids=str)
def test_smaller_numbers_are_measured_as_they_are_stored(case, representation):
    device, scores, dtype = DeviceModel.load(case.onnx), [], representation.dtype
    shared = device.shared
    for user, sample in enumerate(case.samples):
        parameters = {}
        for name, values in layer_values(case.generated, user, representation, shared).items():
            arrays = {
                role: stored_and_read(array[: representation.rank] if role in ("left", "right") else array, dtype)
                for role in ("left", "right", "weight", "shift")
                if (array := getattr(values, role)) is not None
            }
            weight, bias = shared[name]
            if representation.form is Form.COMPOSED:
                parameters[name] = arrays["weight"], arrays["shift"]
                continue
            residual = arrays["left"].T @ arrays["right"] if "left" in arrays else arrays["weight"]
            parameters[name] = weight + residual, bias + arrays["shift"]
        device.swap(parameters)
        scores.append(device.scores(sample).copy())
    exact = Representation(representation.form, Dtype.FLOAT32, representation.rank)

    measured = device_scores(case.onnx, case.generated, representation, case.samples)

    assert np.abs(measured - np.stack(scores)).max() < 1e-5
    assert np.abs(measured - device_scores(case.onnx, case.generated, exact, case.samples)).max() > 1e-4


def test_generated_parameters_matter_here(case):
    shared = device_scores(case.onnx, case.generated, SHARED, case.samples)

    for representation in OFFERED[1:]:
        scores = device_scores(case.onnx, case.generated, representation, case.samples)
        assert np.abs(scores - shared).max(axis=1).min() > 0.02, representation


def test_the_device_is_shared_again_afterwards_and_every_user_is_counted(case):
    device, told = DeviceModel.load(case.onnx), []

    device_ranks(device, case.generated, OFFERED[1], case.samples, case.questions, on_user=lambda: told.append(1))

    assert device.is_shared
    assert len(told) == len(case.samples)


def test_composed_values_are_the_sum_and_the_others_are_what_was_generated(case):
    shared = DeviceModel.load(case.onnx).shared

    factors = layer_values(case.generated, 5, Representation(Form.FACTORS, Dtype.INT8, 2), shared)
    composed = layer_values(case.generated, 5, Representation(Form.COMPOSED, Dtype.INT8, 2), shared)
    full = layer_values(case.generated, 5, Representation(Form.FULL, Dtype.INT8), shared)

    assert layer_values(case.generated, 5, SHARED, shared) == {}
    with torch.no_grad():
        items = torch.from_numpy(case.questions.samples[5:6])
        position = torch.tensor([int((items != 0).sum()) - 1])
        _, residuals = case.network.condition(items, position, Served("full"))
    for (name, (weight, bias)), residual in zip(shared.items(), residuals, strict=True):
        product = factors[name].left[:2].T @ factors[name].right[:2]
        np.testing.assert_allclose(composed[name].weight, weight + product, rtol=0, atol=1e-6)
        np.testing.assert_allclose(composed[name].shift, bias + factors[name].shift, rtol=0, atol=1e-6)
        np.testing.assert_allclose(full[name].weight, residual.residual[0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(full[name].shift, residual.shift[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rank", "ranks"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_ranks_are_offered_in_powers_of_two_up_to_the_largest(rank, ranks):
    offered = offered_representations(("factors",), rank)

    assert [offer.rank for offer in offered if offer.form is Form.FACTORS and offer.dtype is Dtype.INT8] == ranks
    assert {offer.rank for offer in offered if offer.form is Form.COMPOSED} == {rank}
    assert offered[0] == SHARED
    assert len(set(offered)) == len(offered)


def test_heads_decide_which_forms_are_offered():
    assert {offer.form for offer in offered_representations(("full",), 4)} == {Form.SHARED, Form.FULL}
    assert {offer.form for offer in offered_representations(("factors",), 4)} == {
        Form.SHARED,
        Form.FACTORS,
        Form.COMPOSED,
    }


def test_records_hold_the_size_and_the_measured_quality_of_every_representation(case):
    few = slice(0, 20)
    exam = RankingExam(case.split, case.split.users[few], case.questions.samples.shape[1])
    questions = exam.questions
    told = []

    records = measure_representations(
        case.onnx, case.generated, exam, split="validation", on_user=lambda: told.append(1)
    )

    assert [record.representation for record in records] == list(OFFERED)
    assert len(told) == 20 * len(OFFERED)
    device = DeviceModel.load(case.onnx)
    for record in records:
        ranks = device_ranks(device, case.generated, record.representation, case.samples[few], questions)
        assert record.package_bytes == case.generated.table.package_bytes(record.representation)
        assert record.quality.value == pytest.approx(ranks.ndcg().mean(), abs=1e-6)
        assert record.quality.interval[0] <= record.quality.value <= record.quality.interval[1]
        assert (record.quality.metric, record.quality.split) == ("ndcg@10", "validation")
        assert record.quality.higher_is_better
