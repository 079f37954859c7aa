"""A queue runs what is missing and nothing twice, whenever it is stopped and however many share it."""

import json

import pytest
import yaml

from duet.evaluation import queue
from duet.evaluation.comparison import compare
from duet.evaluation.conditions import evaluate_run
from duet.evaluation.grid import read_grid
from duet.evaluation.queue import Places, chosen, existing_record, run_queue
from duet.evaluation.record import read_record, write_record
from duet.protocol.errors import InvalidData, UnusableRun
from duet.training.loop import Observer
from duet.training.run_lock import lock
from tests.duet.data.logs import numbered_log
from tests.duet.evaluation.records import made_up

NAMES = ["static-s0", "duet-r3-s0", "static-s1", "duet-r3-s1"]


@pytest.fixture(scope="module")
def grid(tiny_config, tmp_path_factory):
    """Two variants times two seeds of an epoch each."""
    folder = tmp_path_factory.mktemp("grid")
    document = tiny_config.model_dump(mode="json", exclude={"seed"})
    document["optimisation"]["max_epochs"] = 2
    document["data"]["unseen_share"] = 0.0
    (folder / "base.yaml").write_text(yaml.safe_dump(document))
    runs = {"static": {"model": "static"}, "duet-r3": {"generator.heads": ["factors"]}}
    grid = {"name": "tiny", "base": "base.yaml", "seeds": [0, 1], "runs": runs}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return read_grid(folder / "grid.yaml")


@pytest.fixture(scope="module")
def cells(grid):
    return grid[1]


@pytest.fixture
def places(tmp_path, tiny_interactions):
    # the world of seed 0 for every seed, as a log would be
    return Places(tmp_path / "runs", tmp_path / "results", lambda config: tiny_interactions)


@pytest.fixture(scope="module")
def finished(cells, tmp_path_factory, tiny_interactions):
    """Where all cells are done. Do not write there."""
    folder = tmp_path_factory.mktemp("finished")
    places = Places(folder / "runs", folder / "results", lambda config: tiny_interactions)
    assert [cell.run_name for cell, _ in run_queue(cells, places)] == NAMES
    return places


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_times(record):
    document = json.loads(record.to_json())
    for name in ("seconds", "positions_per_s"):
        del document["training"][name]
    return document


def stop_at(count):
    """Press Ctrl-C at a training step, counted over all cells."""
    steps = iter(range(10**6))

    def on_step(epoch, done, total):
        if next(steps) == count:
            raise KeyboardInterrupt

    return Observer(on_step=on_step)


def test_every_run_leaves_a_record_that_can_be_compared(cells, finished):
    records = [read_record(finished.record(cell)) for cell in cells]

    rows = {row.label: row for row in compare(records)}

    assert sorted(path.stem for path in (finished.results / "tiny").iterdir()) == sorted(NAMES)
    served = ("factors-r3", "factors-r2", "factors-r1", "factors-r3-int8", "shared")
    assert list(rows) == ["static", *(f"duet-r3, {condition}" for condition in served)]
    assert {row.seeds for row in rows.values()} == {(0, 1)}
    assert rows["duet-r3, factors-r3"].differences is not None
    assert [(record.grid, record.name, record.seed) for record in records[:2]] == [
        ("tiny", "static", 0),
        ("tiny", "duet-r3", 0),
    ]


def test_a_run_of_the_queue_is_ranked_like_any_other(cells, finished, tiny_interactions):
    record = evaluate_run(finished.run(cells[1]), tiny_interactions, grid="tiny", name="duet-r3")

    assert without_times(record) == without_times(read_record(finished.record(cells[1])))


def test_what_is_done_is_not_done_again(cells, finished):
    before = contents(finished.runs.parent)

    assert list(run_queue(cells, finished, observer=stop_at(0))) == []

    assert contents(finished.runs.parent) == before


@pytest.mark.parametrize("count", [0, 5, 20, 40], ids=lambda count: f"step {count}")
def test_a_queue_that_is_stopped_goes_on_and_ends_like_one_that_was_not(cells, places, finished, count):
    with pytest.raises(KeyboardInterrupt):
        list(run_queue(cells, places, observer=stop_at(count)))
    recorded = len(list((places.results).rglob("*.json")))

    rest = list(run_queue(cells, places))

    assert len(rest) == len(cells) - recorded
    for cell in cells:
        assert without_times(read_record(places.record(cell))) == without_times(read_record(finished.record(cell)))


@pytest.mark.parametrize("moment", ["evaluate_run", "write_record"])
def test_a_trained_cell_whose_record_was_not_written_is_only_ranked(cells, places, monkeypatch, moment):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(queue, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            list(run_queue(cells[:1], places))
    assert not places.record(cells[0]).exists()

    ((cell, record),) = run_queue(cells[:1], places, observer=stop_at(0))

    assert cell == cells[0]
    assert record.model_dump(exclude={"origin"}) == read_record(places.record(cell)).model_dump(exclude={"origin"})


def test_at_most_so_many_cells_are_run(cells, places):
    done = [cell.run_name for cell, _ in run_queue(cells, places, limit=1)]
    done += [cell.run_name for cell, _ in run_queue(cells, places, limit=2)]

    assert done == NAMES[:3]


def test_a_cell_that_another_process_runs_is_left_to_it(cells, places):
    with lock(places.run(cells[0])):
        outcomes = list(run_queue(cells[:2], places))

    assert [cell.run_name for cell, _ in outcomes] == ["duet-r3-s0", "static-s0"]
    assert outcomes[1][1].startswith("process ")
    assert not places.record(cells[0]).exists()


def test_a_cell_that_another_process_gives_up_comes_again_at_the_end(cells, places):
    held = lock(places.run(cells[0]))
    held.__enter__()

    order = []
    for cell, _ in run_queue(cells[:2], places):
        order.append(cell.run_name)
        if len(order) == 1:
            held.__exit__(None, None, None)

    assert order == ["duet-r3-s0", "static-s0"]
    assert places.record(cells[0]).exists()


def test_a_cell_that_another_process_finishes_meanwhile_is_not_repeated(cells, places, finished):
    queued = run_queue(cells[:2], places)
    next(queued)
    write_record(places.record(cells[1]).parent, read_record(finished.record(cells[1])))

    assert list(queued) == []
    assert not (places.run(cells[1]) / "config.yaml").exists()


def test_a_record_of_another_configuration_is_refused_before_anything_runs(cells, places):
    other = cells[3].config.model_copy(update={"generator": cells[3].config.generator.model_copy(update={"rank": 2})})
    write_record(places.results / "tiny", made_up("duet-r3", 1, grid="tiny", config=other))

    with pytest.raises(UnusableRun, match=r"generator\.rank: 2 there, 3 asked") as caught:
        list(run_queue(cells, places))

    assert "another name" in caught.value.remedy
    assert not places.runs.exists()


def test_a_record_of_other_data_is_refused(cells, finished):
    moved = Places(finished.runs, finished.results, lambda config: numbered_log([9] * 10))

    with pytest.raises(UnusableRun, match="other content"):
        existing_record(cells[0], moved)


def test_a_damaged_record_is_refused_before_anything_runs(cells, places):
    path = places.record(cells[2])
    path.parent.mkdir(parents=True)
    path.write_text("{")

    with pytest.raises(UnusableRun, match="no record of a run"):
        list(run_queue(cells, places))

    assert not places.runs.exists()


def test_a_run_folder_of_another_configuration_is_refused_before_anything_runs(cells, places):
    places.run(cells[2]).mkdir(parents=True)
    (places.run(cells[2]) / "config.yaml").write_text(cells[3].config.to_yaml())

    with pytest.raises(UnusableRun, match="model: duet there, static asked"):
        list(run_queue(cells, places))

    assert not places.record(cells[0]).exists()


def test_single_variants_can_be_chosen(cells):
    assert [cell.run_name for cell in chosen(cells, ["static"])] == ["static-s0", "static-s1"]
    with pytest.raises(InvalidData, match="static, duet-r3"):
        chosen(cells, ["static", "duet-r8"])
