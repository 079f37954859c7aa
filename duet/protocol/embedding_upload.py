"""What a device may send in the place of a sample: the embedding that it has made of one with the version's encoder.

    embedding = float16(encoder(sample))        [D], little-endian; these bytes are its canonical spelling

It goes up. The *form* ``embedding`` of a package would come down, and is reserved (decision 0010).

Shapes: D embedding.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from duet.protocol.canonical_json import Json
from duet.protocol.embedding_errors import InvalidEmbedding

ENCODER_FILE = "encoder.onnx"
"""The file of a version that makes embeddings."""

ENCODER_OUTPUT = "embedding"
"""Name of the output of its graph, float32 ``[B, D]``."""

VALUE_BYTES = 2
_DTYPE = "float16"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EmbeddingUpload:
    """What a version declares of the embeddings that it takes.

    Raises:
        ValueError: If a field is out of range.
    """

    dim: int
    """``D``."""
    encoder_sha256: str
    """Of the file that makes them, lower-case hexadecimal."""

    def __post_init__(self) -> None:
        if type(self.dim) is not int or self.dim < 1 or not _SHA256.fullmatch(self.encoder_sha256):
            raise ValueError(
                f"it declares embeddings of {self.dim!r:.40} values by the encoder {self.encoder_sha256!r:.80}"
            )

    def read(self, values: str | Sequence[float]) -> bytes:
        """Check what a device sent, and spell it canonically.

        Args:
            values: Base64 of little-endian float16, or numbers, which are rounded to float16.

        Returns:
            ``[D]`` float16, little-endian.

        Raises:
            InvalidEmbedding: If there are not ``D`` values, or one is not finite in float16.
        """
        if isinstance(values, str):
            try:
                content = base64.b64decode(values, validate=True)
            except (binascii.Error, ValueError) as error:
                raise self._refusal("text that is no base64") from error
            if len(content) != VALUE_BYTES * self.dim:
                raise self._refusal(f"{len(content)} bytes")
            if not np.isfinite(np.frombuffer(content, "<f2")).all():
                raise self._refusal("numbers that are not finite")
            return content
        if len(values) != self.dim:
            raise self._refusal(f"{len(values)} numbers")
        return self.canonical(np.array(values, np.float64))

    def canonical(self, embedding: npt.NDArray[np.floating]) -> bytes:
        """Round an embedding ``[D]`` to float16 and spell it.

        Raises:
            InvalidEmbedding: If a number is not finite in float16.
        """
        if embedding.shape != (self.dim,):
            raise self._refusal(f"an array {list(embedding.shape)}")
        with np.errstate(over="ignore"):
            rounded = embedding.astype("<f2")
        if not np.isfinite(rounded).all():
            place = int(np.argmin(np.isfinite(rounded)))
            raise self._refusal(f"{embedding[place]:g} at position {place}")
        return rounded.tobytes()

    def to_json(self) -> dict[str, Json]:
        """Describe it as ``{"dtype", "shape", "encoder"}``."""
        return {"dtype": _DTYPE, "shape": [self.dim], "encoder": self.encoder_sha256}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If it is anything else.
        """
        if not isinstance(value, Mapping) or value.keys() != {"dtype", "shape", "encoder"} or value["dtype"] != _DTYPE:
            raise ValueError(f"it declares embeddings as {value!r:.120} and not as {{dtype: {_DTYPE}, shape, encoder}}")
        shape, encoder = value["shape"], value["encoder"]
        if not isinstance(shape, list) or len(shape) != 1 or not isinstance(encoder, str):
            raise ValueError(f"it declares embeddings of shape {shape!r:.40} by the encoder {encoder!r:.80}")
        return cls(shape[0], encoder)

    def _refusal(self, received: str) -> InvalidEmbedding:
        largest = np.finfo(np.float16).max
        return InvalidEmbedding(
            expected=f"{self.dim} float16 numbers, as base64 of {VALUE_BYTES * self.dim} little-endian bytes or as a "
            f"list, all within ±{largest:g}",
            received=received,
            remedy="Send what the version's encoder makes of the sample, or the sample.",
        )


def spelt(canonical: bytes) -> str:
    """Spell canonical bytes as JSON carries them: base64."""
    return base64.b64encode(canonical).decode()
