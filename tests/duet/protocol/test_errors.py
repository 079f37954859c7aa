"""The error tree: drawn as it is, one code a leaf, sentences with what was expected, what arrived and what to do."""

import pickle
import re

import pytest

from duet.protocol import access_errors, embedding_errors, errors, training_errors
from duet.protocol.errors import DuetError

FACTS: dict[str, dict[str, object]] = {
    "UnknownModel": {"model": "films", "known": ["books", "songs"]},
    "UnknownVersion": {"model": "films", "version": "v9", "known": ["v1"]},
    "InvalidRequest": {"detail": "Expected budget_ms to be a number, got 'soon'. Send milliseconds."},
    "InvalidSample": {"expected": "a list", "received": "a dict", "remedy": "Send a list."},
    "BudgetTooSmall": {"budget_ms": 20.0, "smallest_ms": 71.2},
    "NotAcceptable": {"accepts": ["full"], "offered": ["factors-r4-int8"]},
    "UnsupportedMediaType": {"received": "text/plain", "expected": ["application/json"]},
    "BodyTooLarge": {"limit_bytes": 1024, "received_bytes": 4096},
    "InvalidEmbedding": {"expected": "8 numbers", "received": "7 numbers", "remedy": "Send the sample."},
    "WithoutDecoders": {"model": "films", "version": "v2"},
    "WrongEncoder": {"model": "films", "version": "v2", "served": "0" * 32, "received": "1" * 32},
    "NoEncoder": {"model": "films", "reason": "nothing is cached"},
    "NoDecoders": {"model": "films", "reason": "nothing is cached"},
    "Unauthorized": {},
    "HeadersTooLarge": {"limit_count": 100, "limit_bytes": 16384, "received_count": 3, "received_bytes": 20000},
    "RequestTooSlow": {"limit_s": 10.0},
    "RateLimited": {"rate_per_s": 5.0, "retry_after_s": 0.2},
    "ForgedPackage": {"reason": "it has no signature"},
    "InvalidKeyFile": {
        "path": "keys.jsonl",
        "line": 2,
        "expected": "an object",
        "received": "a list",
        "remedy": "Remove the line.",
    },
    "Overloaded": {"retry_after_s": 0.5},
    "DeadlineExceeded": {"budget_ms": 200.0, "elapsed_ms": 231.7},
    "VersionNotReady": {"model": "films", "version": "v2"},
    "NonFiniteParameters": {"model": "films", "version": "v2"},
    "CorruptPackage": {"reason": "its CRC-32 does not match its bytes"},
    "UnsupportedPackage": {"what": "format", "received": 2, "known": (1,)},
    "WrongVersion": {"expected": "version 00", "received": "version 01"},
    "CorruptVersion": {"path": "models/films/v1", "reason": "it lacks encoder.onnx", "remedy": "Remove it."},
    "UnsupportedManifest": {"path": "models/films/v1", "received": 2, "known": (1,)},
    "VersionExists": {"path": "models/films/v1"},
    "InvalidName": {"name": "../films"},
    "InvalidData": {
        "path": "log.csv",
        "line": 3,
        "expected": "an integer timestamp",
        "received": "'noon'",
        "remedy": "Write seconds since 1970.",
    },
    "DivergedTraining": {"step": 7, "loss": float("inf")},
    "UnusableRun": {"path": "runs/1", "reason": "it has no checkpoint", "remedy": "Train it first."},
    "DatasetTooSmall": {"what": "users", "count": 3, "needed": 10},
    "LostWorkers": {"workers": 4, "path": "runs/1", "epoch": 7, "reason": "one was killed"},
    "TooManyWorkers": {"workers": 4, "schedule": "staged"},
    "CloudUnreachable": {"url": "http://localhost:8000", "reason": "the connection was refused"},
    "NoDeviceModel": {"model": "films", "reason": "nothing is cached"},
}


def leaves(root: type[DuetError] = DuetError) -> list[type[DuetError]]:
    below = root.__subclasses__()
    return [root] if not below else [leaf for child in below for leaf in leaves(child)]


def make(leaf: type[DuetError], **changes: object) -> DuetError:
    return leaf(**{**FACTS[leaf.__name__], **changes})


def drawn() -> list[tuple[str, ...]]:
    """The way from the root to every class, as the module docstring draws it."""
    lines = re.findall(
        r"^    ([│├└─ ]*)([A-Z]\w+(?:, [A-Z]\w+)*)(?: {2,}.*)?$", errors.__doc__ or "", flags=re.MULTILINE
    )
    ways: list[tuple[str, ...]] = []
    for branch, names in lines:
        above = ways[-1][: len(branch) // 4] if ways else ()
        ways += [(*above, name) for name in names.split(", ")]
    return ways


def walked(root: type[DuetError] = DuetError, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    way = (*above, root.__name__)
    return [way, *(line for child in root.__subclasses__() for line in walked(child, way))]


def test_the_drawn_tree_is_the_class_tree():
    # in any order: that of the classes is the one in which their modules were imported
    assert sorted(drawn()) == sorted(walked())


def test_every_leaf_has_its_own_code_and_nothing_else_has_one():
    codes = {leaf.__name__: leaf.code for leaf in leaves()}

    expected = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in codes}
    assert codes == expected
    assert not any("code" in vars(cls) for cls in (DuetError, *DuetError.__subclasses__()))


def test_every_leaf_is_tried_here():
    assert {leaf.__name__ for leaf in leaves()} == FACTS.keys()


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.__name__)
def test_a_message_says_what_was_expected_what_arrived_and_what_to_do(leaf):
    message = str(make(leaf))

    if leaf is not errors.BudgetTooSmall:  # "The budget is …, but …" says both in other words
        assert "xpected" in message or "accepts" in message
        assert re.search(r"\b(got|but)\b", message)
    assert message.endswith(".")
    assert message.count(". ") >= 1, "the remedy is a sentence of its own"
    assert not re.search(r"failed to|invalid input", message, flags=re.IGNORECASE)


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.__name__)
def test_facts_stay_on_the_error_and_survive_a_trip_between_processes(leaf):
    error = make(leaf)

    returned = pickle.loads(pickle.dumps(error))

    assert type(returned) is leaf
    assert (str(returned), returned.facts) == (str(error), error.facts)
    assert error.facts.keys() == FACTS[leaf.__name__].keys()


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownModel(model="x" * 10_000, known=[f"model-{place}" for place in range(10_000)]),
        errors.InvalidSample(expected="a list", received="x" * 10_000, remedy="Send one."),
        errors.UnsupportedMediaType(received="x" * 10_000, expected=["application/json"]),
        errors.InvalidName(name="x" * 10_000),
        access_errors.ForgedPackage(reason="x" * 10_000),
        training_errors.LostWorkers(workers=2, path="runs/1", epoch=0, reason="x" * 10_000),
        embedding_errors.WrongEncoder(**dict.fromkeys(("model", "version", "served", "received"), "x" * 10_000)),
        errors.UnsupportedManifest(path="here", received=10**4000, known=(1,)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_stranger_sent_is_cut_to_a_line(error):
    assert len(str(error)) < 600


def test_a_missing_remedy_list_says_how_to_get_one():
    assert "duet publish" in str(errors.UnknownModel(model="films", known=[]))
    assert "duet publish" in str(errors.UnknownVersion(model="films", version="v1", known=[]))


def test_a_damaged_version_is_not_to_be_published_under_its_own_name_which_would_be_refused():
    assert "under another name" in str(errors.CorruptVersion(path="models/films/v1", reason="it lacks encoder.onnx"))


def test_the_rule_for_names_is_said_in_words():
    message = str(errors.InvalidName(name="Films"))

    assert "lower-case letters and digits" in message
    assert "[a-z" not in message


def test_a_body_of_unknown_size_and_a_file_without_line_read_well():
    assert "got more" in str(errors.BodyTooLarge(limit_bytes=10, received_bytes=None))
    assert str(make(errors.InvalidData, line=None)).startswith("log.csv: expected")
    assert str(make(errors.InvalidData)).startswith("log.csv, line 3: expected")
