"""What the gateway needs of one published version, read once."""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property

from duet.protocol.budget import Offer, RankedOffers
from duet.protocol.decoders import DECODERS_FILE, name_of
from duet.protocol.embedding_errors import WithoutDecoders
from duet.protocol.embedding_upload import ENCODER_FILE
from duet.protocol.errors import InvalidRequest
from duet.protocol.signature import Signature, Vocabulary
from duet.registry import PublishedVersion


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """What the gateway needs of one published version; one object a version, so it is compared by identity."""

    published: PublishedVersion
    signature: Signature
    vocabulary: Vocabulary
    offers: tuple[Offer, ...]
    """What it can answer with."""
    offers_by_wish: dict[Hashable, RankedOffers] = field(default_factory=dict)
    """What the gateway has made of them for each kind of request."""

    @classmethod
    def of(cls, published: PublishedVersion) -> "ServedVersion":
        """Read it once.

        Raises:
            CorruptVersion: If the vocabulary cannot be read.
        """
        offers = tuple(
            Offer(record.representation, record.package_bytes, record.quality.value, record.quality.higher_is_better)
            for record in published.manifest.representations
        )
        return cls(published, published.signature(), published.vocabulary(), offers)

    @cached_property
    def digest(self) -> bytes:
        """First 16 bytes of the manifest's SHA-256."""
        return self.published.digest

    @cached_property
    def manifest_sha256(self) -> str:
        """The whole hash of the manifest, hexadecimal."""
        return hashlib.sha256(self.published.manifest_bytes).hexdigest()

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers that name the version."""
        return {"Duet-Version": self.digest.hex(), "Duet-Model-Version": self.published.version}

    @cached_property
    def device_model(self) -> bytes:
        """The device model file; read for the first device that downloads it."""
        return self.published.path("device.onnx").read_bytes()

    @cached_property
    def encoder(self) -> bytes:
        """The encoder file, for devices that send embeddings; read for the first one that downloads it."""
        return self.published.path(ENCODER_FILE).read_bytes()

    @cached_property
    def decoders(self) -> bytes:
        """The decoders file, for devices that generate for themselves; read for the first one that downloads it.

        Raises:
            WithoutDecoders: If the version has none.
        """
        if self.decoders_name is None:
            raise WithoutDecoders(model=self.published.model, version=self.published.version)
        return self.published.path(DECODERS_FILE).read_bytes()

    @cached_property
    def decoders_name(self) -> str | None:
        """How devices name these decoders; None if the version has none."""
        record = self.published.manifest.files.get(DECODERS_FILE)
        return None if record is None else name_of(record.sha256)

    @cached_property
    def model_card(self) -> bytes:
        """The model card; read for the first one who asks.

        Raises:
            InvalidRequest: If the version has none.
            CorruptVersion: If the file is no text.
        """
        card = self.published.model_card()
        if card is None:
            raise InvalidRequest(
                detail=f"Expected a version with a model card, got {self.published.version}, which was published "
                "without one. Publish the run again, or read its manifest."
            )
        return card.encode()
