"""The failures about embeddings that devices compute themselves: what was sent, whose encoder made it, who has none.

Leaves of the tree that ``duet/protocol/errors.py`` draws.
"""

# ruff: noqa: N818  # a failure is called what it is; the base classes already say that they are errors
from duet.protocol.errors import DeviceError, RequestError

_SHOWN_CHARACTERS, _NAME_CHARACTERS = 120, 64


class InvalidEmbedding(RequestError):
    """The embedding is not what the version declares, or leads to nothing that can be sent."""

    code = "invalid_embedding"

    def __init__(self, *, expected: str, received: str, remedy: str) -> None:
        super().__init__(f"Expected the embedding to be {expected}, got {_clipped(received)}. {remedy}")
        self.expected, self.received, self.remedy = expected, received, remedy


class WrongEncoder(RequestError):
    """The embedding was made by the encoder of another version than the device gets now."""

    code = "wrong_encoder"

    def __init__(self, *, model: str, version: str, served: str, received: str) -> None:
        super().__init__(
            f"Expected an embedding by the encoder of version {_name(version)} ({_name(served)}) of model "
            f"{_name(model)}, which this device gets now, got one by that of {_name(received)}. "
            "Download that version's encoder and device model and embed the sample anew, or send the sample."
        )
        self.model, self.version, self.served, self.received = model, version, served, received


class WithoutDecoders(RequestError):
    """The version was published without decoders."""

    code = "without_decoders"

    def __init__(self, *, model: str, version: str) -> None:
        super().__init__(
            f"Expected a version of model {_name(model)} with decoders, got {_name(version)}, which was published "
            "without. Ask for factors."
        )
        self.model, self.version = model, version


class NoEncoder(DeviceError):
    """The device is to send embeddings and has no encoder for the version in place."""

    code = "no_encoder"

    def __init__(self, *, model: str, reason: str) -> None:
        super().__init__(
            f"Expected an encoder of {_clipped(model)}, but {_clipped(reason)}. "
            "Connect once, or let the device send samples."
        )
        self.model, self.reason = model, reason


class NoDecoders(DeviceError):
    """The device is to generate for itself and has no decoders for the version in place."""

    code = "no_decoders"

    def __init__(self, *, model: str, reason: str) -> None:
        super().__init__(
            f"Expected decoders of {_clipped(model)}, but {_clipped(reason)}. "
            "The device asks for factors meanwhile; connect once to let it download the decoders."
        )
        self.model, self.reason = model, reason


def _name(text: str) -> str:
    return _clipped(text, _NAME_CHARACTERS)


def _clipped(text: str, characters: int = _SHOWN_CHARACTERS) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
