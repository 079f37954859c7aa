"""Configurations are typed: what cannot be used is refused with file, setting and remedy."""

from pathlib import Path

import pytest
import torch

import duet.training
from duet.networks.backbones import BACKBONES, CLASSIFIERS
from duet.protocol.errors import InvalidData
from duet.training.config import OptimisationOptions, TrainingConfig, difference, override, read_config

CONFIGS = sorted((Path(duet.training.__file__).parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_published_configuration_loads_and_says_how_to_run_it(path):
    config = read_config(path)

    assert config.backbone.name in {**BACKBONES, **CLASSIFIERS}
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith(f"# duet train duet/training/configs/{path.name}")


def test_there_are_published_configurations():
    assert {path.stem for path in CONFIGS} >= {"demo", "movielens-100k", "movielens-1m"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_written_is_read_back_equal(path, tmp_path):
    config = read_config(path)

    (tmp_path / "config.yaml").write_text(config.to_yaml())

    assert read_config(tmp_path / "config.yaml") == config


def test_an_empty_file_means_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")

    assert read_config(tmp_path / "empty.yaml") == TrainingConfig()


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("optimisation: {momentum: 0.9}", None, "optimisation.momentum"),
        ("colour: red", None, "colour"),
        ("generator: {rank: four}", None, "generator.rank"),
        ("generator: {rank: 0}", None, "generator.rank"),
        ("generator: {rank: 256}", None, "generator.rank"),
        ("generator: {heads: [spectral]}", None, "generator.heads.0"),
        ("generator: {heads: []}", None, "generator.heads"),
        ("generator: {heads: [full, full]}", None, "generator.heads"),
        ("generator: {length: 29}", None, "generator.length must be at least backbone.length, 30, got 29"),
        ("generator: {encoder: transformer}", None, "generator.encoder"),
        ("generator: {encoder: sasrec, encoder_width: 9}", None, "generator.encoder: Expected a width divisible"),
        (
            "backbone: {name: cnn, length: 8}\ngenerator: {length: 16}",
            None,
            "generator.length and generator.encoder are of backbones that rank items",
        ),
        ("backbone: {name: cnn}\ngenerator: {encoder: gru4rec}", None, "leave them out for cnn"),
        ("backbone: {width: 33, heads: 2}", None, "width divisible by the number of heads"),
        (
            "backbone: {name: transformer}",
            None,
            "a backbone among ['cnn', 'din', 'gru4rec', 'sasrec'], got 'transformer'",
        ),
        ("backbone: {name: din}", None, "must be sampled-softmax or binary"),
        ("backbone: {name: din}\noptimisation: {loss: softmax}", None, "got softmax"),
        ("optimisation: {sampled_negatives: 0}", None, "optimisation.sampled_negatives"),
        ("backbone: {dropout: 1}", None, "backbone.dropout"),
        ("optimisation: {learning_rate: -1}", None, "optimisation.learning_rate"),
        ("model: transformer", None, "model"),
        ("seed: -1", None, "seed"),
        ("- a list", None, "file"),
        ("just text", None, "file"),
        ("model: duet\nbackbone: {width: 3", 2, "YAML"),
        ("model: duet\n\tseed: 1", 2, "YAML"),
        ("seed: 2024-99-99", None, "YAML"),
        ("seed: !!python/object/apply:os.getcwd []", 1, "YAML"),
        ("{" * 5000, None, "YAML"),
    ],
    ids=[
        *("unknown setting", "unknown section", "wrong type", "rank zero", "rank too large", "unknown head", "no head"),
        *(
            "same head twice",
            "shorter than the device",
            "unknown encoder",
            "encoder width and heads",
            "longer images",
            "encoder of images",
            "width and heads",
            "unknown backbone",
            "no loss",
            "wrong loss",
            "no negatives",
            "dropout of one",
            "negative rate",
            "unknown variant",
            "negative seed",
        ),
        *("a list", "a text", "unclosed brace", "tab", "impossible date", "code", "endless nesting"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_file_setting_and_remedy(tmp_path, text, line, named):
    path = tmp_path / "run.yaml"
    path.write_text(text)

    with pytest.raises(InvalidData, match=r"run\.yaml") as caught:
        read_config(path)

    assert caught.value.path == str(path)
    assert caught.value.line == line
    assert named in f"{caught.value.expected} {caught.value.received}"
    assert "duet/training/configs" in caught.value.remedy


def test_all_mistakes_of_a_file_are_named_at_once(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: -1\nmodel: none\nbackbone: {width: 0}")

    with pytest.raises(InvalidData) as caught:
        read_config(tmp_path / "run.yaml")

    assert all(name in caught.value.received for name in ("seed", "model", "backbone.width"))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["absent", "not text"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidData, match="readable YAML file") as caught:
        read_config(path)

    assert caught.value.remedy == "Check the path."


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("seed", "7", lambda config: config.seed == 7),
        ("model", "static", lambda config: config.model == "static"),
        ("generator.heads", "[full, factors]", lambda config: config.generator.heads == ("full", "factors")),
        ("optimisation.learning_rate", "1e-3", lambda config: config.optimisation.learning_rate == 0.001),
        ("data.source", "logs/my data.csv", lambda config: config.data.source == "logs/my data.csv"),
        ("data.user_column", "null", lambda config: config.data.user_column is None),
    ],
    ids=["integer", "name", "list", "exponent", "path with a space", "null"],
)
def test_one_setting_is_changed_and_the_others_stay(key, value, read):
    changed = override(TrainingConfig(), {key: value})

    assert read(changed)
    kept = TrainingConfig().model_dump(), changed.model_dump()
    section = key.split(".")[0]
    assert {k: v for k, v in kept[0].items() if k != section} == {k: v for k, v in kept[1].items() if k != section}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("generator.rang", "4", "generator.rank"),
        ("rank", "4", "generator.rank"),
        ("generator.rank.r", "4", "generator.rank"),
        ("", "4", "seed"),
        ("generator", "4", "generator"),
        ("generator.rank", "four", "generator.rank: four ("),
        ("generator.rank", "[1,", "the setting generator.rank"),
        ("backbone.heads", "5", "width divisible by the number of heads"),
        ("backbone.name", "din", "must be sampled-softmax or binary where backbone.name is din"),
        ("seed", "2024-99-99", "the setting seed"),
    ],
    ids=[
        "typo",
        "no section",
        "too deep",
        "empty",
        "whole section",
        "wrong type",
        "bad YAML",
        "cross-check",
        "loss of a backbone",
        "bad date",
    ],
)
def test_an_override_that_cannot_be_used_names_the_setting_and_what_there_is(key, value, named):
    with pytest.raises(InvalidData) as caught:
        override(TrainingConfig(), {key: value})

    assert named in str(caught.value) + caught.value.expected
    assert caught.value.remedy


@pytest.mark.parametrize("loss", ["sampled-softmax", "binary"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_configured_with_every_loss_but_the_one_it_cannot_have(name, loss):
    config = override(TrainingConfig(), {"backbone.name": name, "optimisation.loss": loss})

    assert (config.backbone.name, config.optimisation.loss) == (name, loss)
    assert override(config, {"backbone.name": "gru4rec"}).backbone_sizes(5).name == "gru4rec"


def test_a_width_that_only_attention_heads_would_have_to_divide_is_allowed_without_them():
    config = TrainingConfig.model_validate({"backbone": {"name": "gru4rec", "width": 33}})

    assert config.backbone.width == 33


@pytest.mark.parametrize(
    ("document", "length"),
    [
        ({}, 30),
        ({"generator": {"length": 200}}, 200),
        ({"generator": {"length": 200}, "model": "capacity-matched"}, 200),
        ({"generator": {"length": 200}, "model": "static"}, 30),
        ({"backbone": {"name": "cnn", "length": 8}, "generator": {"length": 8}}, 8),
    ],
    ids=str,
)
def test_a_sample_is_as_long_as_what_the_generator_sees_where_there_is_one(document, length):
    assert TrainingConfig.model_validate(document).sample_length == length


def test_reading_a_configuration_draws_no_random_number_and_leaves_the_default_device():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)

    TrainingConfig()

    drawn = torch.rand(3)
    assert torch.equal(drawn, expected)
    assert drawn.device == expected.device


def test_configurations_are_frozen_and_every_setting_is_documented():
    with pytest.raises(ValueError, match="frozen"):
        TrainingConfig().seed = 1
    for section in [
        TrainingConfig,
        *(type(getattr(TrainingConfig(), name)) for name in ("data", "backbone", "generator")),
    ]:
        for name, field in section.model_fields.items():
            assert field.description or hasattr(field.annotation, "model_fields"), name
    assert all(field.description for field in OptimisationOptions.model_fields.values())


@pytest.mark.parametrize(
    ("there", "asked", "named"),
    [
        ({}, {}, None),
        ({}, {"seed": 1}, "seed: 0 there, 1 asked"),
        ({"model": "static"}, {}, "model: static there, duet asked"),
        ({}, {"optimisation": {"patience": 9}}, "optimisation.patience: 5 there, 9 asked"),
        ({"data": {"source": "/here/u.data"}}, {"data": {"source": "/there/u.data"}}, None),
        ({"data": {"unseen_share": 0.1}}, {}, "data.unseen_share: 0.1 there, 0.0 asked"),
        ({"model": "static", "generator": {"rank": 8}}, {"model": "static"}, None),
        ({"model": "capacity-matched", "generator": {"rank": 8}}, {"model": "capacity-matched"}, "generator.rank"),
        ({"generator": {"rank": 8}}, {"model": "static"}, "model: duet there, static asked"),
        ({"fine_tuning": {"users": 5}}, {}, None),
        ({"model": "fine-tuned", "fine_tuning": {"users": 5}}, {"model": "fine-tuned"}, "fine_tuning.users"),
    ],
    ids=str,
)
def test_the_first_setting_that_makes_runs_different_is_named(there, asked, named):
    found = difference(TrainingConfig.model_validate(there), TrainingConfig.model_validate(asked))

    assert found == named if named is None else named in found
