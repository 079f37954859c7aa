"""A grid file becomes cells, seed by seed, or is refused before anything runs."""

from pathlib import Path

import pytest
import yaml

from duet.evaluation.grid import read_grid, read_outline, write_outline
from duet.protocol.errors import InvalidData
from duet.training.config import TrainingConfig, read_config

GRIDS = sorted((Path(__file__).resolve().parents[3] / "duet/evaluation/grids").glob("*.yaml"))
RUNS = {"static": {"model": "static"}, "duet-full": {"generator.heads": ["full"], "optimisation.learning_rate": 0.01}}


@pytest.fixture
def write(tmp_path):
    """Write a grid file beside a base configuration of rank 8."""

    def write_grid(**changes):
        (tmp_path / "base.yaml").write_text("generator: {rank: 8}\n")
        fields = {"name": "paper", "base": "base.yaml", "seeds": [0, 3], "runs": RUNS, **changes}
        path = tmp_path / "grid.yaml"
        there = {key: value for key, value in fields.items() if value is not None}
        path.write_text(yaml.safe_dump(there, sort_keys=False))
        return path

    return write_grid


def test_cells_come_seed_by_seed_with_the_settings_of_their_variant(write):
    grid, cells = read_grid(write())

    assert grid.name == "paper"
    assert [cell.run_name for cell in cells] == ["static-s0", "duet-full-s0", "static-s3", "duet-full-s3"]
    assert cells[0].config == TrainingConfig(model="static", generator={"rank": 8})
    assert cells[3].config == TrainingConfig(
        seed=3, generator={"rank": 8, "heads": ["full"]}, optimisation={"learning_rate": 0.01}
    )


def test_the_base_is_found_beside_the_grid_from_everywhere(write, tmp_path, monkeypatch):
    path = write()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert len(read_grid(path)[1]) == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base": "other.yaml"}, "other.yaml"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [1, 1]}, "seed is there twice"),
        ({"runs": {}}, "runs"),
        ({"runs": None}, "runs"),
        ({"runs": {"../static": {}}}, "static"),
        ({"runs": {"a": {}, "b": {"generator.colour": "red"}}}, r"generator\.colour"),
        ({"runs": {"a": {}, "b": {"generator.rank": 0}}}, r"generator\.rank"),
        ({"runs": {"a": {"seed": 4}}}, "a sets seed"),
        ({"runs": {"a": {"data.unseen_share": 0.1}}}, r"a sets data\.unseen_share"),
        ({"name": "../paper"}, "name"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_run_is_refused(write, changes, reason):
    with pytest.raises(InvalidData, match=reason) as caught:
        read_grid(write(**changes))

    assert caught.value.remedy


@pytest.mark.parametrize("text", ["[", "just text", "", "\x00"], ids=repr)
def test_a_file_that_is_no_grid_is_refused(tmp_path, text):
    path = tmp_path / "grid.yaml"
    path.write_text(text)

    with pytest.raises(InvalidData, match="a grid: name, base, seeds and runs"):
        read_grid(path)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_grid_of_the_project_can_be_run_and_has_a_baseline(path):
    grid, cells = read_grid(path)

    assert grid.name == path.stem
    assert len(cells) == len(grid.seeds) * len(grid.runs)
    assert "static" in grid.runs
    assert {cell.config.data for cell in cells} == {read_config(grid.base).data}


def test_there_are_grids():
    assert {"movielens-100k", "movielens-1m"} <= {path.stem for path in GRIDS}


def test_the_outline_of_a_grid_lies_beside_its_records(write, tmp_path):
    grid, _ = read_grid(write())

    write_outline(grid, tmp_path / "results")

    outline = read_outline(tmp_path / "results" / "paper")
    assert (outline.seeds, outline.variants) == ((0, 3), ("static", "duet-full"))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"seeds": [0]}', '{"seeds": [0], "variants": ["../static"]}'])
def test_a_folder_that_does_not_say_what_its_grid_is_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "grid.json").write_text(text)

    with pytest.raises(InvalidData, match="outline of a grid") as caught:
        read_outline(tmp_path)

    assert "duet evaluate --grid" in caught.value.remedy
