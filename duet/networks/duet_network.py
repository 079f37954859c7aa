"""The whole of DUET for one family of devices: Universal Meta Network, sample encoder and parameter generator together.

Shapes: B samples in a batch, T sample length, n positions, D embedding, S width of a state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from duet.networks.backbones import BackboneConfig
from duet.networks.device_states import device_states
from duet.networks.dynamic_layer import LayerResidual
from duet.networks.personalized_parameters_generator import Head, PersonalizedParametersGenerator
from duet.networks.sample_encoder import CloudEncoder, SampleEncoder, embed_samples
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.protocol.layers import LayerTable

RivalHead = Literal["scale-shift", "shift", "core"]
"""What the rivals generate in the place of residuals: FiLM, a concatenated embedding, APG."""

EncoderName = Literal["head", "gru4rec", "sasrec"]


@dataclass(frozen=True)
class GeneratorSizes:
    """Sizes of the sample encoder and of the generator.

    Attributes:
        embedding_dim: Width D of the embedding.
        rank: Largest rank R of the factors.
        heads: Heads that are trained, ``factors`` and/or ``full``.
        decoders: Parallel decoders of the Stable Weight Adapter; 1 switches it off.
        layer_maps: Whether each dynamic layer has a linear layer and a layer embedding before its decoders.
        dropout: Dropout in the sample encoder.
        core_rank: Side of the generated core of APG.
        length: Longest sample T that it sees; that of the device model without it.
        encoder: Which sample encoder (:mod:`duet.networks.sample_encoder`).
        encoder_width: Width of the item vectors of an encoder that has its own.
        encoder_blocks: Attention blocks or recurrent layers of such an encoder.
        encoder_heads: Attention heads of ``sasrec``.
    """

    embedding_dim: int = 32
    rank: int = 4
    heads: tuple[Head, ...] = ("factors",)
    decoders: int = 3
    layer_maps: bool = False
    dropout: float = 0.0
    core_rank: int = 16
    length: int | None = None
    encoder: EncoderName = "head"
    encoder_width: int = 64
    encoder_blocks: int = 1
    encoder_heads: int = 2


def build_encoder(device: BackboneConfig, sizes: GeneratorSizes) -> SampleEncoder | CloudEncoder:
    """Return a freshly initialised sample encoder.

    Raises:
        ValueError: If it cannot have these sizes.
    """
    if sizes.encoder == "head":
        return SampleEncoder(device.width, sizes.embedding_dim, dropout=sizes.dropout)
    own = BackboneConfig(
        name=sizes.encoder,
        item_count=device.item_count,
        length=sizes.length or device.length,
        width=sizes.encoder_width,
        blocks=sizes.encoder_blocks,
        heads=sizes.encoder_heads,
        dropout=sizes.dropout,
    )
    return CloudEncoder(own, sizes.embedding_dim)


@dataclass(frozen=True)
class Served:
    """Which parameters a device would hold: those of a head (rank 0 of none means the shared ones)."""

    head: Head | RivalHead | None = None
    rank: int = 0

    def __str__(self) -> str:
        return f"factors-r{self.rank}" if self.head == "factors" else self.head or "shared"


SHARED = Served()


def _personalized(table: LayerTable, sizes: GeneratorSizes) -> nn.Module:
    return PersonalizedParametersGenerator(
        table,
        embedding_dim=sizes.embedding_dim,
        rank=sizes.rank,
        heads=sizes.heads,
        decoders=sizes.decoders,
        layer_maps=sizes.layer_maps,
    )


class DuetNetwork(nn.Module):
    """A Universal Meta Network whose classifier is shared or generated from the past of each position.

    Args:
        backbone: Sizes of the backbone.
        generator: Sizes of encoder and generator.
        generates: Makes the generator; a rival's takes the place of ours, and all else stays the same. It has ``heads``
            and is called as :class:`PersonalizedParametersGenerator` is.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        generator: GeneratorSizes,
        generates: Callable[[LayerTable, GeneratorSizes], nn.Module] = _personalized,
    ) -> None:
        super().__init__()
        self.sizes = generator
        self.meta = UniversalMetaNetwork(backbone)
        self.encoder = build_encoder(backbone, generator)
        # a rival in its place has the same heads and the same call, which is all that training and ranking use
        self.generator = cast(PersonalizedParametersGenerator, generates(self.meta.table, generator))

    @property
    def served(self) -> tuple[Served, ...]:
        """The parameters this network can give a device, the best it has first."""
        return tuple(Served(head, self.sizes.rank if head == "factors" else 0) for head in self.generator.heads)

    def embeddings(self, items: Tensor) -> Tensor:
        """Return the embedding of every prefix of samples ``[B, T]``: ``[B, T, D]``."""
        return embed_samples(self.encoder, self.meta.backbone, items)

    def residuals(self, embeddings: Tensor, served: Served) -> Sequence[LayerResidual] | None:
        """Return what is added to the shared classifier for embeddings ``[n, D]``; None for the shared one itself."""
        if served.head is None:
            return None
        residuals: list[LayerResidual] = self.generator(embeddings, served.head, use_rank=served.rank or None)
        return residuals

    def condition(
        self, items: Tensor, positions: Tensor, served: Served = SHARED, *, lag: int = 0
    ) -> tuple[Tensor, Sequence[LayerResidual] | None]:
        """Return what the Universal Meta Network needs to score positions, each with parameters of its own past.

        Args:
            items: Samples ``[B, T]``, padded with 0 at the end.
            positions: Flat positions ``[n]`` in ``[B * T]``.
            served: Which parameters to apply.
            lag: Generate from what was known so many items before (stale parameters); at least the first item is.

        Returns:
            States ``[n, S]``, and the residuals of the dynamic layers, or None for the shared classifier.
        """
        states = device_states(self.meta.backbone, items, positions, exact=not self.training)
        if served.head is None:
            return states, None
        length = items.shape[1]
        columns = positions % length
        sources = positions - columns + (columns - lag).clamp(min=0)
        return states, self.residuals(self.embeddings(items).flatten(0, 1)[sources], served)


class StaticNetwork(nn.Module):
    """The Universal Meta Network alone: the static baseline, every device the same classifier."""

    served = (SHARED,)

    def __init__(self, backbone: BackboneConfig) -> None:
        super().__init__()
        self.meta = UniversalMetaNetwork(backbone)

    def condition(
        self, items: Tensor, positions: Tensor, served: Served = SHARED, *, lag: int = 0
    ) -> tuple[Tensor, None]:
        """Return states ``[n, S]`` as :meth:`DuetNetwork.condition` does; the classifier is always the shared one."""
        return self.meta.backbone.encode(items).flatten(0, 1)[positions], None
