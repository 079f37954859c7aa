"""A mistake in a body is told by its field, what was expected there and what came, and nothing else is told."""

import json

import pytest
from pydantic import ValidationError

from app.mistakes import told
from app.schemas import ParametersRequest

VALID = {"device": "phone", "sample": [1]}


def told_of(content: str) -> str:
    with pytest.raises(ValidationError) as refusal:
        ParametersRequest.model_validate_json(content)
    return told(refusal.value.errors(include_url=False))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"budget_ms": -1}, "budget_ms: expected a number above 0, got -1"),
        ({"budget_ms": 1e5}, "budget_ms: expected a number of at most 10000, got 100000.0"),
        ({"budget_ms": "soon"}, 'budget_ms: expected a number, got "soon"'),
        ({"budget_ms": None}, "budget_ms: expected a number, got null"),
        ({"budget": 5}, "budget: expected no field of this name, got 5"),
        ({"device": ""}, 'device: expected text of length 1 or more, got ""'),
        ({"device": True}, "device: expected text, got true"),
        ({"accepts": []}, "accepts: expected an object, got a list of length 0"),
        ({"accepts": {"forms": "full"}}, 'accepts.forms: expected a list, got "full"'),
        ({"accepts": {"forms": []}}, "accepts.forms: expected a list of length 1 or more, got a list of length 0"),
        (
            {"accepts": {"forms": ["full"] * 9}},
            "accepts.forms: expected a list of length 8 or less, got a list of length 9",
        ),
        (
            {"current": {"version": "0" * 32, "tag": "G"}},
            'current.tag: expected text that matches ^[0-9a-f]{16}$, got "G"',
        ),
        ({"priority": "urgent"}, "priority: expected 'low', 'normal' or 'high', got \"urgent\""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_field_expectation_and_arrival(fields: dict[str, object], sentence: str) -> None:
    assert told_of(json.dumps(VALID | fields)) == sentence


def test_a_field_that_is_not_there_is_named_without_the_rest_of_the_message() -> None:
    assert told_of('{"sample": ["secret"]}') == "device: expected a value, got none"


@pytest.mark.parametrize(
    ("content", "received"),
    [({"device": "d"}, "neither"), (VALID | {"embedding": {"version": "0" * 32, "values": [1]}}, "both")],
)
def test_a_request_brings_a_sample_or_an_embedding(content: dict[str, object], received: str) -> None:
    assert told_of(json.dumps(content)) == f"body: expected one of `sample` and `embedding`, got {received}"


@pytest.mark.parametrize(
    ("embedding", "sentence"),
    [
        (None, "embedding: expected an object, got null"),
        ([0.5], "embedding: expected an object, got a list of length 1"),
        ({"values": "AA=="}, "embedding.version: expected a value, got none"),
        ({"version": "v1", "values": []}, 'embedding.version: expected text that matches ^[0-9a-f]{32}$, got "v1"'),
        ({"version": "0" * 32, "values": 7}, "embedding.values: expected text, got 7"),
        ({"version": "0" * 32, "values": [1, "2"]}, 'embedding.values[1]: expected a number, got "2"'),
        ({"version": "0" * 32, "values": [1, True]}, "embedding.values[1]: expected a number, got true"),
    ],
)
def test_a_mistake_in_an_embedding_names_its_part(embedding: object, sentence: str) -> None:
    assert told_of(json.dumps({"device": "d", "embedding": embedding})) == sentence


def test_a_number_that_json_has_no_word_for_is_none_of_an_embedding() -> None:
    for number in ("NaN", "Infinity", "1e999"):
        content = f'{{"device": "d", "embedding": {{"version": "{"0" * 32}", "values": [{number}]}}}}'
        assert told_of(content).startswith(("embedding.values[0]: expected a finite number", "body: expected JSON"))


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        (
            "carrier-pigeon",
            "link: expected 'slow-3g', 'slow-4g', 'fast-4g', 'lte', 'wifi' or '5g', "
            'or {down_kbps, up_kbps, rtt_ms}, got "carrier-pigeon"',
        ),
        (
            {"down_kbps": 5e-324, "up_kbps": 1, "rtt_ms": 1},
            "link.down_kbps: expected a number of at least 0.1, got 5e-324",
        ),
        (
            {"down_kbps": 1, "up_kbps": 1, "rtt_ms": 1, "profile": 1},
            "link.profile: expected no field of this name, got 1",
        ),
    ],
    ids=["profile", "measured", "a-field-called-like-a-tag"],
)
def test_a_link_is_told_of_by_its_own_fields(link: object, sentence: str) -> None:
    assert told_of(json.dumps(VALID | {"link": link})) == sentence


def test_what_only_follows_from_another_mistake_is_not_told() -> None:
    sentence = "accepts.forms[0]: expected 'factors', 'full', 'composed' or 'shared', got \"best\""

    assert told_of(json.dumps(VALID | {"accepts": {"forms": ["best"]}})) == sentence


@pytest.mark.parametrize("content", ["", '{"device": "x"', "sample=1"])
def test_a_body_that_is_no_json_is_told_as_that_and_not_repeated(content: str) -> None:
    sentence = told_of(content)

    assert sentence.startswith("body: expected JSON, got text that is not JSON: ")
    assert "sample" not in sentence


@pytest.mark.parametrize("value", ["x" * 5000, "9" * 4000], ids=["text", "digits"])
def test_what_came_is_cut_to_what_fits_a_sentence(value: str) -> None:
    sentences = [
        told_of(json.dumps(VALID | {"device": value})),
        told_of(json.dumps(VALID | {value: 1})),
        told_of('{"device": "x", "sample": [1], "budget_ms": ' + "9" * 4000 + "}"),
    ]

    assert max(map(len, sentences)) < 200
    assert "(5000 characters)" in sentences[0] or "(4000 characters)" in sentences[0]


def test_of_many_mistakes_the_first_are_told_and_the_others_counted() -> None:
    sentence = told_of(json.dumps({f"field{number}": number for number in range(8)}))

    # one field is missing, eight are too many
    assert sentence.count("expected") == 3
    assert sentence.endswith("(and 6 more)")
