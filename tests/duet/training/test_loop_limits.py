"""What training refuses before it starts, and what it does with little data."""

from dataclasses import replace

import numpy as np
import pytest

from duet.data.interactions import Interactions
from duet.data.windows import training_windows
from duet.protocol.errors import DatasetTooSmall, UnusableRun
from duet.training.loop import Observer, train
from duet.training.tasks import split_of
from tests.duet.data.logs import numbered_log
from tests.duet.training.test_loop import changed


@pytest.fixture(scope="module")
def config(tiny_config):
    return changed(tiny_config, optimisation__max_epochs=3, optimisation__patience=9)


@pytest.mark.parametrize("loss", ["binary", "softmax"])
def test_a_catalogue_of_one_item_is_refused(config, tmp_path, loss):
    one_item = Interactions("one item", np.ones(12, np.int32), np.array([0, 6, 12]), ("a", "b"), (7,))

    with pytest.raises(DatasetTooSmall, match="at least 2 items"):
        train(changed(config, optimisation__loss=loss), one_item, tmp_path / "run")

    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("share", [0.0, 0.9], ids=["short users", "everybody unseen"])
def test_too_little_data_is_refused_before_anything_is_written(config, tmp_path, share):
    log = numbered_log([2, 2, 2] if share == 0 else [4, 4, 2])

    with pytest.raises(DatasetTooSmall):
        train(changed(config, data__unseen_share=share), log, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_a_run_refuses_to_go_on_with_other_data_of_the_same_size(tmp_path, tiny_config, tiny_interactions):
    other = replace(tiny_interactions, items=tiny_interactions.items[::-1].copy())
    train(tiny_config, tiny_interactions, tmp_path / "run")

    with pytest.raises(UnusableRun, match="other content"):
        train(tiny_config, other, tmp_path / "run")


def test_a_small_log_is_cut_into_smaller_batches_so_that_an_epoch_has_steps(config, tiny_interactions, tmp_path):
    steps = []
    config = changed(config, optimisation__batch_size=10_000, optimisation__max_epochs=1)

    train(
        config, tiny_interactions, tmp_path, observer=Observer(on_step=lambda epoch, done, total: steps.append(total))
    )

    windows = training_windows(split_of(config, tiny_interactions), config.backbone.length, seed=0, epoch=1)
    assert set(steps) == {-(-len(windows.inputs) // 16)}
    assert steps[0] > 10


def test_a_run_with_another_configuration_says_which_setting_differs(config, tiny_interactions, tmp_path):
    train(changed(config, optimisation__max_epochs=1), tiny_interactions, tmp_path)

    with pytest.raises(UnusableRun, match=r"optimisation\.patience: 9 there, 7 asked"):
        train(changed(config, optimisation__max_epochs=1, optimisation__patience=7), tiny_interactions, tmp_path)


@pytest.mark.parametrize(
    "kernel",
    [
        "duet.networks.personalized_parameters_generator.synthesize_factors",
        "duet.networks.dynamic_layer.apply_low_rank",
    ],
)
def test_nothing_is_trained_without_the_kernels(config, tiny_interactions, tmp_path, monkeypatch, kernel):
    def broken(*_, **__):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(kernel, broken)

    with pytest.raises(RuntimeError, match="no kernel"):
        train(config, tiny_interactions, tmp_path)
