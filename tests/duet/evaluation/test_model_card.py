"""A card says by itself when its own numbers speak against generating."""

import pytest

from duet.evaluation.model_card import CardText, model_card
from duet.protocol.manifest import Quality, RepresentationRecord
from duet.protocol.representation import Dtype, Form, Representation
from duet.training.config import GeneratorOptions, OptimisationOptions, TrainingConfig, read_config

TEXT = CardText("About.", "Data.", "Protocol.", "Measured", "Limits.", ("Never.",))
TRAINING = {"epochs": 7, "best_epoch": 3, "commit": "abc", "versions": {"torch": "1"}}


def card(*qualities, config=None):
    known = Representation(Form.SHARED, Dtype.FLOAT32), Representation(Form.FACTORS, Dtype.INT8, 1)
    records = [
        RepresentationRecord(each, 100, Quality("ndcg@10", "validation", value, interval))
        for each, (value, interval) in zip(known, qualities, strict=False)
    ]
    return model_card("m, version v", TEXT, config or TrainingConfig(), TRAINING, records)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ((0.10, (0.08, 0.12)), "no representation did better"),
        ((0.21, (0.18, 0.24)), "do not show a gain"),
        ((0.30, (0.27, 0.33)), None),
    ],
    ids=["worse", "within chance", "better"],
)
def test_what_was_measured_stands_among_the_reasons_not_to_use_it(own, told):
    text = card((0.20, (0.17, 0.22)), own)

    reasons = text.split("## When not to use it")[1]
    assert "- Never." in reasons
    assert [each in reasons for each in ("no representation did better", "do not show a gain")] == [
        each == told for each in ("no representation did better", "do not show a gain")
    ]


def test_the_training_can_be_repeated_from_it(tmp_path):
    cloud = GeneratorOptions(length=100, encoder="gru4rec", delta_penalty=0.1, weight_decay=0.02, layer_maps=True)
    config = TrainingConfig(seed=0, generator=cloud, optimisation=OptimisationOptions(schedule="staged"))
    text = card((0.2, (0.1, 0.3)), config=config)

    written = tmp_path / "config.yaml"
    written.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert read_config(written) == config

    assert "- stopping: best of 7 epochs: 3, patience 5" in text
    assert "- seed: 0" in text
    assert "- loss: softmax" in text
    assert "- commit: abc" in text


def test_the_card_tells_all_that_a_reader_must_know(tiny_version, tiny_config, tiny_interactions):
    card = tiny_version.path("model_card.md").read_text()

    sections = {part.split("\n")[0]: part for part in card.split("\n## ")[1:]}
    assert list(sections) == ["Data", "Protocol", "Quality", "Training", "Limits", "When not to use it"]
    assert f"{tiny_interactions.user_count} users, {tiny_interactions.item_count} items" in sections["Data"]
    assert "last but one is the validation item" in sections["Protocol"]
    assert "95 % interval" in sections["Quality"]
    assert f"seed: {tiny_config.seed}" in sections["Training"]
    assert f"learning rate {tiny_config.optimisation.learning_rate:g}" in sections["Training"]
    assert sections["When not to use it"].count("\n- ") >= 3


def test_the_card_names_every_representation_with_its_numbers(tiny_version):
    card = tiny_version.path("model_card.md").read_text()

    assert card.startswith("# tiny, version v1\n")
    for record in tiny_version.manifest.representations:
        assert f"| {record.representation} | {record.package_bytes:,} | {record.quality.value:.4f} |" in card
