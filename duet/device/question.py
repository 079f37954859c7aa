"""What a device asks the cloud with: its sample, or the embedding that it has made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from duet.protocol.embedding_upload import spelt
from duet.protocol.package import tag_of
from duet.protocol.representation import Representation
from duet.protocol.signature import Signature


@dataclass(frozen=True)
class Question:
    """The part of a request that says for whom the parameters are to be."""

    fields: Mapping[str, object]
    canonical: bytes
    is_embedding: bool

    @classmethod
    def of_sample(cls, sample: object, signature: Signature) -> Self:
        """Ask with a valid sample, as far as it is read: the rest would cost uplink."""
        return cls({"sample": signature.upload(sample)}, signature.canonical(sample), is_embedding=False)

    @classmethod
    def of_embedding(cls, canonical: bytes, version: bytes) -> Self:
        """Ask with an embedding, ``[D]`` float16, by the encoder of a version."""
        fields = {"embedding": {"version": version.hex(), "values": spelt(canonical)}}
        return cls(fields, canonical, is_embedding=True)

    def tag(self, version: bytes, representation: Representation) -> bytes:
        """Name the package that answers it."""
        return tag_of(version, representation, self.canonical, is_embedding=self.is_embedding)
