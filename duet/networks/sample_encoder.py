"""Sample encoders: turn a sample into the embedding z the generator works from (the head encoder of Figure 2).

    head             GRU and perceptron over the item vectors of the device model: the paper's
    gru4rec, sasrec  a backbone of the generator's own, with item vectors of any width, and a perceptron of its states

Shapes: B samples, T sample length, D embedding.
"""

from torch import Tensor, nn

from duet.networks.backbones import Backbone, BackboneConfig, build_backbone


class SampleEncoder(nn.Module):
    """A GRU over item vectors and a two-layer perceptron; every position gets the embedding of its own past."""

    def __init__(self, inputs: int, embedding_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.recurrent = nn.GRU(inputs, embedding_dim, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim), nn.Tanh(), nn.Linear(embedding_dim, embedding_dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map item vectors ``[B, T, inputs]`` to embeddings ``[B, T, D]``; position t sees positions up to t only."""
        states, _ = self.recurrent(self.dropout(vectors))
        embeddings: Tensor = self.perceptron(self.dropout(states))
        return embeddings


class CloudEncoder(nn.Module):
    """A backbone that stays in the cloud and shares nothing with the device's, and a two-layer perceptron."""

    def __init__(self, config: BackboneConfig, embedding_dim: int) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.perceptron = nn.Sequential(
            nn.Linear(config.width, config.width), nn.Tanh(), nn.Linear(config.width, embedding_dim)
        )

    def forward(self, items: Tensor) -> Tensor:
        """Map samples ``[B, T]`` to embeddings ``[B, T, D]``; position t sees items up to t only."""
        embeddings: Tensor = self.perceptron(self.backbone.encode(items))
        return embeddings


def embed_samples(encoder: SampleEncoder | CloudEncoder, device: Backbone, items: Tensor) -> Tensor:
    """Return the embedding of every prefix of samples ``[B, T]``: ``[B, T, D]``.

    Args:
        encoder: Either kind.
        device: The backbone of the device model, whose item vectors an encoder without its own reads.
        items: The samples.
    """
    embeddings: Tensor = encoder(items if isinstance(encoder, CloudEncoder) else device.embed(items))
    return embeddings
