"""What one sample is, by kind of model. Nothing else in the cloud looks inside a sample.

A kind is one class that satisfies ``Signature`` and stands in ``KINDS``: ``sequence``, a list of item ids, and
``tensor``, the last rows of numbers of one shape (:mod:`duet.protocol.tensor_signature`).

Shapes: B batch of devices, T sample length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from duet.protocol.canonical_json import Json, encode_json
from duet.protocol.errors import InvalidSample
from duet.protocol.tensor_signature import TensorSignature

MAX_ID_CHARACTERS = 256
MAX_ID_INTEGER = 2**63 - 1
PADDING_INDEX = 0
"""Input index of "no item"; raw id ``i`` of the vocabulary is input index ``i + 1``."""


@dataclass(frozen=True)
class Vocabulary:
    """The raw ids that a version knows, in the order of its outputs, and what to call them.

    An integer and its decimal text name the same id (``42`` and ``"42"``), unless the vocabulary holds both.

    Args:
        ids: Strings or integers; all differ.
        titles: One a person can read for every id, or None.

    Raises:
        ValueError: If ids repeat or are of another type, or there is not one title for each.
    """

    ids: tuple[str | int, ...]
    titles: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        if not self.ids or not all(_is_id(raw) for raw in self.ids):
            raise ValueError("Expected ids to be strings or integers, at least one.")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("Expected ids to differ, got one twice.")
        if self.titles is not None:
            object.__setattr__(self, "titles", tuple(self.titles))
            are_texts = all(isinstance(title, str) and _is_unicode(title) for title in self.titles)
            if len(self.titles) != len(self.ids) or not are_texts:
                raise ValueError(f"Expected {len(self.ids)} titles that are Unicode strings, one an id.")

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, raw: str | int) -> int | None:
        """Find the place of a raw id in ``ids``, or None if it is unknown."""
        found = self._places.get(raw)
        if found is None:
            other = str(raw) if isinstance(raw, int) else _integer_in(raw)
            found = None if other is None else self._places.get(other)
        return found

    def indices(self, raws: Sequence[str | int]) -> list[int]:
        """Find the places of those raw ids that are known, in order."""
        found = [*map(self._places.get, raws)]
        if None in found:
            found = [self.index(raw) for raw in raws]
        return [place for place in found if place is not None]

    def title(self, index: int) -> str:
        """Name the id at a place for a person: its title, or the id itself."""
        return str(self.ids[index]) if self.titles is None else self.titles[index]

    def to_json(self) -> dict[str, Json]:
        """Describe the vocabulary as ``{"ids", "titles"}``."""
        return {"ids": list(self.ids), "titles": None if self.titles is None else list(self.titles)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If it is anything else.
        """
        if not isinstance(value, dict) or value.keys() != {"ids", "titles"} or not isinstance(value["ids"], list):
            raise ValueError(f"Expected a vocabulary as {{ids, titles}}, got {value!r:.80}.")
        titles = value["titles"]
        if titles is not None and not isinstance(titles, list):
            raise ValueError(f"Expected titles to be a list or null, got {titles!r:.80}.")
        return cls(tuple(value["ids"]), None if titles is None else tuple(titles))

    @cached_property
    def _places(self) -> dict[str | int, int]:
        return {raw: place for place, raw in enumerate(self.ids)}


@runtime_checkable
class Signature(Protocol):
    """What a device sends for one kind of model, and which arrays the encoder gets from it."""

    kind: ClassVar[str]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the encoder's inputs, the keys of ``arrays``."""

    def validate(self, sample: object, vocabulary: Vocabulary | None = None) -> None:
        """Check one sample before anything is done with it.

        With a vocabulary, also that something in the sample is known to the version: what passes this way alone cannot
        fail in a batch.

        Raises:
            InvalidSample: If it is not what this signature asks for.
        """

    def canonical(self, sample: object) -> bytes:
        """Spell a valid sample in one way; equal bytes lead to equal arrays."""

    def upload(self, sample: object) -> object:
        """Return what a device sends of a sample, the part that is read: JSON, or bytes for the binary request.

        Raises:
            InvalidSample: If it is not what this signature asks for.
        """

    def arrays(self, samples: Sequence[object], vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.generic]]:
        """Make the encoder's inputs, batch first.

        Raises:
            InvalidSample: If a sample is not valid, or nothing in it is known.
        """

    def blank(self, count: int) -> dict[str, npt.NDArray[np.generic]]:
        """Make the encoder's inputs of ``count`` samples that say nothing, for their shapes and types."""

    def seen(self, sample: object, vocabulary: Vocabulary) -> tuple[int, ...]:
        """List the outputs (places in the vocabulary) that the sample already names; none where that has no meaning."""

    def to_json(self) -> dict[str, Json]:
        """Describe the signature, ``kind`` first."""


@dataclass(frozen=True)
class SequenceSignature:
    """A sample is a list of raw item ids, oldest first; the last ``length`` of them are used.

    Of those, ids that the vocabulary does not know are dropped; if none is left the sample is invalid.

    Args:
        length: Items the encoder reads, ``T``.
        max_items: Longest list that is accepted.
        item_type: ``"string"``, ``"integer"`` or ``"any"``.

    Raises:
        ValueError: If a field is out of range.
    """

    kind: ClassVar[str] = "sequence"

    length: int
    max_items: int = 1000
    item_type: str = "any"

    def __post_init__(self) -> None:
        if not all(type(count) is int for count in (self.length, self.max_items)) or not (
            1 <= self.length <= self.max_items
        ):
            raise ValueError(f"Expected 1 <= length <= max_items, got {self.length!r:.40} and {self.max_items!r:.40}.")
        if self.item_type not in _ITEM_TYPES:
            raise ValueError(f"Expected item_type to be one of {list(_ITEM_TYPES)}, got {self.item_type!r:.80}.")

    @property
    def input_names(self) -> tuple[str, ...]:
        """One input, ``items``."""
        return ("items",)

    def validate(self, sample: object, vocabulary: Vocabulary | None = None) -> None:
        """Check that the sample is a list of ids; with a vocabulary, that it knows one of the last ``length``.

        Raises:
            InvalidSample: If it is not.
        """
        items = self._items(sample)
        if vocabulary is not None:
            self._known(items, vocabulary)

    def canonical(self, sample: object) -> bytes:
        """Spell the last ``length`` ids as canonical JSON."""
        return encode_json(self._items(sample)[-self.length :])

    def upload(self, sample: object) -> list[str | int]:
        """Return the last ``length`` ids: the rest would cost uplink and not be read.

        Raises:
            InvalidSample: If the sample is not what this signature asks for.
        """
        return self._items(sample)[-self.length :]

    def arrays(self, samples: Sequence[object], vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.generic]]:
        """Make ``items``, int64 ``[B, T]``.

        Left-aligned: the oldest kept item is in column 0, padding (index 0) at the end.

        Raises:
            InvalidSample: If a sample is not valid, or none of its last ``length`` ids is known.
        """
        items = np.full((len(samples), self.length), PADDING_INDEX, np.int64)
        for row, sample in enumerate(samples):
            known = self._known(self._items(sample), vocabulary)
            items[row, : len(known)] = known
        return {"items": items}

    def blank(self, count: int) -> dict[str, npt.NDArray[np.generic]]:
        """Make ``items``, int64 ``[count, T]``, the first id all along."""
        return {"items": np.ones((count, self.length), np.int64)}

    def seen(self, sample: object, vocabulary: Vocabulary) -> tuple[int, ...]:
        """List the places of every known id of the sample, also of those before the last ``length``."""
        return tuple(sorted(set(vocabulary.indices(self._items(sample)))))

    def to_json(self) -> dict[str, Json]:
        """Describe the signature as ``{"kind", "length", "max_items", "item_type"}``."""
        return {
            "kind": self.kind,
            "length": self.length,
            "max_items": self.max_items,
            "item_type": self.item_type,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If it is anything else.
        """
        if value.keys() != {"kind", "length", "max_items", "item_type"} or value["kind"] != cls.kind:
            raise ValueError(
                f"Expected a sequence signature as {{kind, length, max_items, item_type}}, got {value!r:.80}."
            )
        length, max_items, item_type = value["length"], value["max_items"], value["item_type"]
        if not (isinstance(length, int) and isinstance(max_items, int) and isinstance(item_type, str)):
            raise ValueError(f"Expected integers length and max_items and a string item_type, got {value!r:.120}.")
        return cls(length, max_items, item_type)

    def _items(self, sample: object) -> list[str | int]:
        # this runs for every request, several times; the search for what is wrong runs for those where something is
        if isinstance(sample, list) and len(sample) <= self.max_items and self._are_ids(sample):
            return sample
        return self._checked(sample)

    def _are_ids(self, sample: list[Any]) -> bool:
        """Whether these are ids of one type, and of that which is asked for; False also where that is not known."""
        types = {*map(type, sample)}
        if types == {int} and self.item_type != "string":
            return bool(min(sample) >= -MAX_ID_INTEGER and max(sample) <= MAX_ID_INTEGER)
        if types == {str} and self.item_type != "integer":
            lengths = [*map(len, sample)]
            return min(lengths) > 0 and max(lengths) <= MAX_ID_CHARACTERS and _is_unicode("".join(sample))
        return False

    def _checked(self, sample: object) -> list[str | int]:
        expected = f"a list of 1 to {self.max_items} item ids ({_ITEM_TYPES[self.item_type]}), oldest first"
        if not isinstance(sample, list | tuple):
            raise InvalidSample(expected=expected, received=_kind_of(sample), remedy="Send the raw ids as a list.")
        if not 1 <= len(sample) <= self.max_items:
            remedy = (
                f"Send the most recent ids; the last {self.length} are used."
                if sample
                else "Send at least one id, or use the shared parameters until the user has touched an item."
            )
            raise InvalidSample(expected=expected, received=f"{len(sample)} of them", remedy=remedy)
        for place, raw in enumerate(sample):
            if not _is_id(raw) or (self.item_type != "any" and isinstance(raw, int) != (self.item_type == "integer")):
                example = "[115]" if self.item_type == "integer" else '["115"]'
                raise InvalidSample(
                    expected=expected,
                    received=f"{_kind_of(raw)} at position {place}",
                    remedy=f"Send every id as {_ITEM_TYPES[self.item_type]}, in JSON {example}; "
                    f"text has 1 to {MAX_ID_CHARACTERS} characters.",
                )
        return list(sample)

    def _known(self, items: list[str | int], vocabulary: Vocabulary) -> list[int]:
        known = [place + 1 for place in vocabulary.indices(items[-self.length :])]
        if not known:
            raise InvalidSample(
                expected=f"a list with a known item id among its last {self.length}",
                received=f"none, {items[-1]!r} for example",
                remedy="Send ids of the catalogue that the model was trained on; the device model lists them.",
            )
        return known


_ITEM_TYPES: Mapping[str, str] = MappingProxyType(
    {"string": "a string", "integer": "an integer", "any": "a string or an integer"}
)

KINDS: Mapping[str, type[SequenceSignature] | type[TensorSignature]] = MappingProxyType(
    {SequenceSignature.kind: SequenceSignature, TensorSignature.kind: TensorSignature}
)
"""Every kind of signature, by the name that stands in a manifest."""


def signature_from_json(value: object) -> Signature:
    """Read the signature of a manifest or of a device model.

    Raises:
        ValueError: If the kind is not known, or its fields are not.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"Expected a signature of kind {list(KINDS)}, got {value!r:.80}.")
    return KINDS[kind].from_json(value)


def _is_id(raw: object) -> bool:
    if isinstance(raw, str):
        return 1 <= len(raw) <= MAX_ID_CHARACTERS and _is_unicode(raw)
    return type(raw) is int and -MAX_ID_INTEGER <= raw <= MAX_ID_INTEGER


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell
        return False
    return True


def _integer_in(text: str) -> int | None:
    """Read decimal text that an integer is written as; ``"042"`` and ``"٤٢"`` are not."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_ID_INTEGER))):
        return None
    return int(text) if str(int(text)) == text else None


def _kind_of(value: object) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        return "an empty string" if not value else f"a string of {len(value)} characters"
    if isinstance(value, int):
        return "an integer beyond 64 bits" if abs(value) > MAX_ID_INTEGER else f"the integer {value}"
    return f"a {type(value).__name__}"
