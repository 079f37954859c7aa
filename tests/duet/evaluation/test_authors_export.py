"""The authors' files hold our split: what is read back is what we train on and ask."""

import json
from itertools import groupby

import numpy as np
import pytest

from duet.data.authors_lines import AuthorsLine, read_authors_lines, write_authors_lines
from duet.evaluation.authors_export import export_for_authors
from duet.protocol.errors import InvalidData
from duet.training.ranking import ask
from duet.training.tasks import split_of


@pytest.fixture(scope="module")
def exported(tiny_config, tiny_interactions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_for_authors(tiny_config, tiny_interactions, folder)
    return folder


def test_a_line_is_as_their_loader_parses_it():
    line = AuthorsLine(17, 204, (3, 88, 0), (3, 88, 0), 1)

    assert str(line) == "17;204;3,88,0;3,88,0;1"


def test_lines_come_back_as_they_were_written(tmp_path):
    lines = [AuthorsLine(user, user + 1, (1, 2, 0), (4, 5, 6), user % 2) for user in range(5)]

    assert write_authors_lines(tmp_path / "lines.txt", lines) == 5
    assert list(read_authors_lines(tmp_path / "lines.txt")) == lines


@pytest.mark.parametrize("text", ["1;2;3;1", "1;2;3,4;5;1", "1;x;3;4;1", "1;2;3;4;2", ""])
def test_another_line_is_refused_with_its_number(tmp_path, text):
    path = tmp_path / "lines.txt"
    path.write_text(f"1;2;3;4;1\n{text}\n")

    with pytest.raises(InvalidData, match="line 2: expected user;target"):
        list(read_authors_lines(path))


def test_every_trained_position_is_there_with_its_past_and_its_negatives(exported, tiny_config, tiny_interactions):
    split, length = split_of(tiny_config, tiny_interactions), tiny_config.backbone.length

    lines = list(read_authors_lines(exported / "train.txt"))

    per = 1 + tiny_config.optimisation.negatives
    assert [line.label for line in lines[:per]] == [1, 0, 0, 0, 0]
    assert len(lines) == per * sum(max(0, n - 1) for n in split.train_lengths.tolist())
    found = {user: list(own) for user, own in groupby((line for line in lines if line.label), lambda line: line.user)}
    assert set(found) == set(np.flatnonzero(split.train_lengths >= 2).tolist())
    for user, positives in found.items():
        sequence = tiny_interactions.sequence(user)[: split.train_lengths[user]].tolist()
        assert [line.target for line in positives] == sequence[1:]
        for place, line in enumerate(positives, start=1):
            known = sequence[max(0, place - length) : place]
            assert line.click == line.trigger == (*known, *[0] * (length - len(known)))
    assert all(
        line.target != positive.target
        for positive, *others in zip(*[iter(lines)] * per, strict=True)
        for line in others
    )


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_candidates_are_those_of_our_sampled_metrics(exported, tiny_config, tiny_interactions, part):
    split = split_of(tiny_config, tiny_interactions)
    questions = ask(split, split.users, part, tiny_config.backbone.length)

    by_user = {user: list(own) for user, own in groupby(read_authors_lines(exported / f"{part}.txt"), lambda x: x.user)}

    assert list(by_user) == split.users.tolist()
    places = []
    for row, own in enumerate(by_user.values()):
        asked = questions.candidates[row, : 1 + questions.negatives[row]].tolist()
        assert sorted(line.target for line in own) == sorted(asked)
        (positive,) = [line for line in own if line.label]
        assert positive.target == questions.targets[row]
        assert {line.click for line in own} == {tuple(questions.samples[row].tolist())}
        places.append(own.index(positive))
    # their metrics resolve ties by the order of lines
    assert len(set(places)) > 5


def test_the_description_leads_back_to_raw_ids(exported, tiny_interactions):
    document = json.loads((exported / "export.json").read_text())

    assert document["items"] == list(tiny_interactions.item_ids)
    assert document["users"] == list(tiny_interactions.users)
    assert document["id_vocab"] == tiny_interactions.item_count + 1
    assert document["sha256"] == tiny_interactions.fingerprint()
    assert set(document["lines"]) == {path.name for path in exported.glob("*.txt")}


def test_a_folder_that_holds_something_is_left_alone(exported, tiny_config, tiny_interactions):
    before = {path: path.read_bytes() for path in exported.iterdir()}

    with pytest.raises(InvalidData, match="empty or a new folder"):
        export_for_authors(tiny_config, tiny_interactions, exported)

    assert {path: path.read_bytes() for path in exported.iterdir()} == before
