"""A GRU of plain operations with the parameters of ``nn.GRU``: ``torch.func.vmap`` cannot batch the fused one.

Shapes: B samples, T sample length, W width of the input, H hidden width.
"""

import torch
from torch import Tensor, nn


class UnrolledGRU(nn.Module):
    """One direction, batch first, any number of layers, no dropout; names of parameters are those of ``nn.GRU``."""

    def __init__(self, fused: nn.GRU) -> None:
        super().__init__()
        self.layers = fused.num_layers
        for name, parameter in fused.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``[B, T, W]`` to the states ``[B, T, H]`` of the last layer; the final state is not returned again."""
        for layer in range(self.layers):
            names = (f"{kind}_{side}_l{layer}" for kind in ("weight", "bias") for side in ("ih", "hh"))
            to_gates, recurrent, bias, recurrent_bias = (getattr(self, name) for name in names)
            inputs = nn.functional.linear(x, to_gates, bias)  # [B, T, 3 H]
            state = inputs[:, 0, : recurrent.shape[1]] * 0
            states = []
            for step in range(x.shape[1]):
                reset, update, new = inputs[:, step].chunk(3, dim=-1)
                own = nn.functional.linear(state, recurrent, recurrent_bias)
                own_reset, own_update, own_new = own.chunk(3, dim=-1)
                candidate = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
                kept = torch.sigmoid(update + own_update)
                state = candidate + kept * (state - candidate)
                states.append(state)
            x = torch.stack(states, dim=1)
        return x, None


def unroll(module: nn.Module) -> nn.Module:
    """Replace every fused GRU inside a module, which keeps its parameters and their names; the module is returned."""
    for name, child in module.named_children():
        if isinstance(child, nn.GRU):
            setattr(module, name, UnrolledGRU(child))
        else:
            unroll(child)
    return module
