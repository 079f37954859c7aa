"""How devices fine-tune is chosen on validation, once, and what it costs stands beside what generation costs."""

import json

import numpy as np
import pytest
import yaml

from duet.evaluation import fine_tuned
from duet.evaluation.conditions import evaluate_run
from duet.evaluation.fine_tuned import CHOICE, choose_recipe, rank_fine_tuned
from duet.evaluation.grid import read_grid
from duet.evaluation.queue import Places, run_queue
from duet.evaluation.record import read_record
from duet.evaluation.report import write_report
from duet.protocol.errors import InvalidData, UnusableRun
from duet.training import checkpoint
from duet.training.adoption import adopt
from duet.training.config import FineTuningOptions, override
from duet.training.loop import Observer, train
from duet.training.networks import build_network
from duet.training.ranking import ask, rank
from duet.training.tasks import split_of

OPTIONS = FineTuningOptions(layers=("classifier", "all"), learning_rates=(1e-3, 1e-2), steps=(1, 3), users=40)


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config.model_copy(update={"model": "fine-tuned", "fine_tuning": OPTIONS}).with_max_epochs(1)


@pytest.fixture(scope="module")
def run(config, tiny_interactions, tmp_path_factory):
    """A static model, trained for an epoch. Do not write there."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    train(config, tiny_interactions, folder)
    return folder


@pytest.fixture(scope="module")
def record(run, tiny_interactions):
    return evaluate_run(run, tiny_interactions)


@pytest.fixture(scope="module")
def meta(run, config, tiny_interactions):
    network = build_network(config, tiny_interactions.item_count).eval()
    checkpoint.load_best(run, network)
    return network.meta


@pytest.fixture(scope="module")
def split(config, tiny_interactions):
    return split_of(config, tiny_interactions)


def test_every_combination_is_tried_and_the_best_on_validation_is_ranked(
    record, meta, config, split, tiny_interactions
):
    tried = record.fine_tuning.trials
    questions = ask(split, split.asked("test"), "test", config.backbone.length)

    expected = rank_fine_tuned(meta, config, split, "test", questions, record.fine_tuning.chosen)

    assert {(t.layers, t.learning_rate, t.steps) for t in tried} == {
        (layers, rate, steps) for layers in ("classifier", "all") for rate in (1e-3, 1e-2) for steps in (1, 3)
    }
    assert record.fine_tuning.chosen.value == max(trial.value for trial in tried)
    assert record.fine_tuning.users == 40
    assert (list(record.answers), record.served, record.tested) == (["fine-tuned"], ("fine-tuned",), None)
    np.testing.assert_array_equal(record.ranks("fine-tuned").full, expected.full)


def test_the_choice_never_sees_a_test_item(run, meta, config, split, tmp_path, monkeypatch, record):
    seen = []
    monkeypatch.setattr(
        fine_tuned, "ask", lambda split, users, part, length: seen.append(part) or ask(split, users, part, length)
    )
    lessons = fine_tuned.lessons_of
    monkeypatch.setattr(
        fine_tuned, "lessons_of", lambda s, u, part, length: seen.append(part) or lessons(s, u, part, length)
    )

    again = choose_recipe(tmp_path, meta, config, split)

    assert set(seen) == {"validation"}
    assert again == record.fine_tuning


def test_a_choice_that_was_stopped_goes_on_with_what_it_had_not_tried(meta, config, split, tmp_path, record):
    def stop(trial):
        if (trial.layers, trial.learning_rate, trial.steps) == ("all", 1e-3, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_recipe(tmp_path, meta, config, split, on_trial=stop)
    tried = []

    found = choose_recipe(tmp_path, meta, config, split, on_trial=tried.append)

    assert found == record.fine_tuning
    assert {trial.layers for trial in tried} == {"all"}
    assert choose_recipe(tmp_path, meta, config, split, on_trial=lambda trial: pytest.fail("tried again")) == found


def test_a_damaged_choice_is_refused(meta, config, split, tmp_path):
    (tmp_path / CHOICE).write_text('{"layers"')

    with pytest.raises(UnusableRun, match="cannot be read"):
        choose_recipe(tmp_path, meta, config, split)


def test_fine_tuning_that_changes_nothing_is_the_static_model(meta, config, split, run, tiny_interactions, record):
    questions = ask(split, split.asked("test"), "test", config.backbone.length)
    still = record.fine_tuning.chosen.model_copy(update={"learning_rate": 1e-12, "steps": 1})
    static = build_network(config, tiny_interactions.item_count).eval()
    checkpoint.load_best(run, static)

    ranks = rank_fine_tuned(meta, config, split, "test", questions, still)

    np.testing.assert_array_equal(ranks.full, rank(static, questions, static.served[0]).full)
    assert (record.ranks("fine-tuned").full != ranks.full).any()


def test_the_record_says_what_every_way_costs(record):
    costs = record.costs

    assert list(costs) == [
        *("fine-tuned", "factors-r3", "full", "factors-r3 on device", "scale-shift", "shift", "core"),
    ]
    assert all(cost.one_ms > 0 for cost in costs.values())
    assert costs["factors-r3 on device"].batched_ms is None
    assert costs["factors-r3 on device"].device_bytes > 0
    assert costs["fine-tuned"].megaflops > 2 * costs["factors-r3"].megaflops > 0
    assert costs["fine-tuned"].one_ms > costs["factors-r3"].one_ms
    assert read_back(record).costs == costs


def read_back(record):
    return type(record).model_validate_json(record.to_json())


def test_records_of_others_do_not_mention_fine_tuning(tiny_run, tiny_interactions):
    document = json.loads(evaluate_run(tiny_run, tiny_interactions).to_json())

    assert {"fine_tuning", "costs"}.isdisjoint(document)


@pytest.fixture(scope="module")
def grid(tiny_config, tmp_path_factory):
    """Two backbones: static, fine-tuned, a rival and ours, an epoch each."""
    folder = tmp_path_factory.mktemp("grid")
    document = tiny_config.with_max_epochs(1).model_dump(mode="json", exclude={"seed"})
    document["fine_tuning"] |= {"learning_rates": [1e-3], "steps": [2], "users": 10, "layers": ["classifier"]}
    (folder / "base.yaml").write_text(yaml.safe_dump(document))
    runs = {
        f"{prefix}{name}": {"backbone.name": backbone, **settings}
        for prefix, backbone in (("", "sasrec"), ("gru4rec-", "gru4rec"))
        for name, settings in {
            "static": {"model": "static"},
            "duet": {"generator.heads": ["factors"]},
            "film": {"model": "film"},
            "fine-tuned": {"model": "fine-tuned"},
        }.items()
    }
    (folder / "grid.yaml").write_text(
        yaml.safe_dump({"name": "tiny", "base": "base.yaml", "seeds": [0], "runs": runs}, sort_keys=False)
    )
    return read_grid(folder / "grid.yaml")[1]


@pytest.mark.long
def test_a_grid_of_baselines_runs_and_is_reported_by_backbone(grid, tmp_path, tiny_interactions):
    places = Places(tmp_path / "runs", tmp_path / "results", lambda config: tiny_interactions)
    (tmp_path / "results" / "tiny").mkdir(parents=True)
    outline = {"seeds": [0], "variants": [cell.variant for cell in grid]}
    (tmp_path / "results" / "tiny" / "grid.json").write_text(json.dumps(outline))
    begun, trained = [], set()
    observer = Observer(on_step=lambda *step: trained.add(begun[-1]))

    done = list(run_queue(grid, places, observer=observer, on_cell=lambda cell: begun.append(cell.variant)))

    assert [cell.variant for cell, _ in done] == outline["variants"]
    static, tuned = (places.runs / "tiny" / name / checkpoint.BEST for name in ("static-s0", "fine-tuned-s0"))
    assert static.read_bytes() == tuned.read_bytes()
    assert trained == {variant for variant in begun if not variant.endswith("fine-tuned")}
    write_report(tmp_path / "results", tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for backbone in ("sasrec", "gru4rec"):
        assert f"### {backbone}" in text
        assert (tmp_path / "results" / "tiny" / "plots" / backbone / "time-per-device.svg").is_file()
    row = next(line for line in text.splitlines() if line.startswith("| gru4rec-film, scale-shift"))
    record = read_record(places.results / "tiny" / "gru4rec-film-s0.json")
    static = read_record(places.results / "tiny" / "gru4rec-static-s0.json")
    gain = (record.values("scale-shift", "ndcg@10") - static.values("shared", "ndcg@10")).mean()
    assert f"{gain:+.4f} [" in row


def test_a_run_is_taken_over_only_if_it_is_finished_and_the_same_training(config, run, tmp_path, tiny_interactions):
    static = override(config, {"model": "static"})
    other = override(static, {"optimisation.learning_rate": "0.02"})
    for name, it in (("a", other), ("b", static)):
        (tmp_path / name).mkdir()
        with pytest.raises(KeyboardInterrupt):
            train(it, tiny_interactions, tmp_path / name, observer=Observer(on_step=_stop))
    (tmp_path / "new").mkdir()

    assert adopt(tmp_path / "new", config, [tmp_path / "a", tmp_path / "b", tmp_path / "none"]) is None
    train(other, tiny_interactions, tmp_path / "a")
    assert adopt(tmp_path / "new", config, [tmp_path / "a", tmp_path / "b"]) is None
    train(static, tiny_interactions, tmp_path / "b")
    assert adopt(tmp_path / "new", config, [tmp_path / "a", tmp_path / "b"]) == tmp_path / "b"

    assert checkpoint.read_run_config(tmp_path / "new") == config
    train(config, tiny_interactions, tmp_path / "new", observer=Observer(on_step=_stop))
    # training is a function of configuration, data and seed: what was taken over is what would have come
    assert (tmp_path / "new" / checkpoint.BEST).read_bytes() == (run / checkpoint.BEST).read_bytes()
    assert adopt(tmp_path / "new", config, [tmp_path / "b"]) is None


def _stop(*step):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "settings", [{"fine_tuning.steps": "[]"}, {"model": "fine-tuned", "backbone.name": "cnn"}], ids=str
)
def test_what_cannot_be_fine_tuned_is_refused(config, settings):
    with pytest.raises(InvalidData, match=r"fine_tuning must name|devices have labelled none"):
        override(config, settings)
