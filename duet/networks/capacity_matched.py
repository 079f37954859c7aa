"""Capacity-matched static baseline: the generator's encoder and as many parameters, but nothing is generated.

    classifier'(x) = classifier(x + perceptron(z))

What the perceptron shifts is the input of the classifier: the state, where the classifier sees only that, target and
attended history together, where it sees both. Its hidden width is chosen so that it holds as many parameters as the
generator's folded decoders. It answers whether a gain of DUET comes from generating parameters or merely from having
more of them; where the generator sees more than the device, from generating or merely from knowing more.
"""

from torch import Tensor, nn

from duet.networks.backbones import BackboneConfig
from duet.networks.device_states import device_states
from duet.networks.duet_network import SHARED, GeneratorSizes, Served, build_encoder
from duet.networks.dynamic_layer import InputShift, LayerResidual
from duet.networks.personalized_parameters_generator import head_segments
from duet.networks.sample_encoder import embed_samples
from duet.networks.universal_meta_network import UniversalMetaNetwork


class CapacityMatchedNetwork(nn.Module):
    """Universal Meta Network whose classifier's input is shifted by a perceptron of the sample's embedding."""

    served = (SHARED,)

    def __init__(self, backbone: BackboneConfig, generator: GeneratorSizes) -> None:
        super().__init__()
        self.meta = UniversalMetaNetwork(backbone)
        self.encoder = build_encoder(backbone, generator)
        values = max(
            sum(segment.size for segment in head_segments(self.meta.table, head, generator.rank))
            for head in generator.heads
        )
        decoded = values * (generator.embedding_dim + 1)
        inputs = self.meta.table.layers[0].inputs
        hidden = max(1, (decoded - inputs) // (generator.embedding_dim + inputs + 1))
        self.perceptron = nn.Sequential(
            nn.Linear(generator.embedding_dim, hidden), nn.GELU(), nn.Linear(hidden, inputs)
        )

    def condition(
        self, items: Tensor, positions: Tensor, served: Served = SHARED, *, lag: int = 0
    ) -> tuple[Tensor, list[LayerResidual | None]]:
        """Return states ``[n, S]`` and the shift of the classifier's input; the rest of the classifier is shared.

        The arguments are those of ``DuetNetwork.condition``.
        """
        states = device_states(self.meta.backbone, items, positions, exact=not self.training)
        embeddings = embed_samples(self.encoder, self.meta.backbone, items).flatten(0, 1)[positions]
        others = [None] * (len(self.meta.table.layers) - 1)
        return states, [InputShift(self.perceptron(embeddings)), *others]
