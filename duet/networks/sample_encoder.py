"""Sample encoder: turns a sample into the embedding z the generator works from (the head encoder of Figure 2).

Shapes: B samples, T sample length, D embedding.
"""

from torch import Tensor, nn


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
