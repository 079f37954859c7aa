"""Versions to put under load are made once, follow from their configuration, and say what they are."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from benchmarks.serving import versions
from duet.data.loading import load
from duet.registry import Registry
from duet.training.config import TrainingConfig, read_config


@pytest.fixture
def small(tiny_config: TrainingConfig) -> TrainingConfig:
    return tiny_config.model_copy(
        update={"generator": tiny_config.generator.model_copy(update={"heads": ("factors",), "decoders": 1})}
    )


def options(*told: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    versions.add_options(parser)
    versions.add_heavy_options(parser)
    return parser.parse_args(told)


def test_a_version_is_made_once_and_another_configuration_is_another_version(
    tmp_path: Path, small: TrainingConfig
) -> None:
    made = versions.heavy(tmp_path, small)
    written_s = made.path("encoder.onnx").stat().st_mtime
    other = versions.heavy(tmp_path, small.model_copy(update={"seed": 1}))
    registry = Registry(versions.root_of(made))
    active = registry.active(made.model)
    again = versions.heavy(tmp_path, small)

    assert (made.model, made.manifest.training["epochs"]) == ("untrained-heavy", 0)
    assert (again.digest, again.path("encoder.onnx").stat().st_mtime) == (made.digest, written_s)
    assert (active, registry.active(made.model)) == (other.version, made.version)
    assert other.version != made.version


def test_random_weights_follow_from_the_seed(tmp_path: Path, small: TrainingConfig) -> None:
    interactions = load(small.data.source, seed=small.seed)
    for name in ("one", "two"):
        versions._write_initial(small, interactions, tmp_path / name)

    one, two = (safetensors.numpy.load_file(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_folder_that_is_named_is_used_as_it_is(tmp_path: Path) -> None:
    told = options("--models", str(tmp_path), "--model", "mine", "--heavy-models", str(tmp_path))

    assert versions.chosen(told) == (tmp_path, "mine")
    assert versions.chosen_heavy(told) == (tmp_path, versions.HEAVY)


def test_the_heavy_configuration_is_larger_than_the_demos_in_every_way() -> None:
    heavy, demo = read_config(versions.HEAVY_CONFIG), read_config(versions.DEMO_CONFIG)

    assert heavy.generator.embedding_dim > demo.generator.embedding_dim
    assert heavy.generator.rank > demo.generator.rank
    assert heavy.backbone.blocks > demo.backbone.blocks
