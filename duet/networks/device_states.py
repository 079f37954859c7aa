"""States of the device's backbone at positions of samples that may be longer than what the device looks at.

The generator may see T items of which the device model reads the last L only:

    exact     every position has the state of its last L items, as on a device; one pass of the backbone a position
    chunked   the sample is cut into pieces of L, and a position has the state of its own piece up to it; one pass a
              piece, with contexts of 1 to L items as in the windows that a static model trains on

Shapes: B samples, T sample length, L length of the device, n positions, S width of a state.
"""

import torch
from torch import Tensor, nn

from duet.networks.backbones import Backbone


def device_states(backbone: Backbone, items: Tensor, positions: Tensor, *, exact: bool) -> Tensor:
    """Return states ``[n, S]``.

    Args:
        backbone: The device's.
        items: Samples ``[B, T]``, padded with 0 at the end.
        positions: Flat positions ``[n]`` in ``[B * T]``.
        exact: Whether to see what a device would. It makes no difference where T is at most L.
    """
    length, longest = items.shape[1], backbone.config.length
    # the state of an image is of that image alone
    if length <= longest or items.dim() > 2:
        return backbone.encode(items).flatten(0, 1)[positions]
    rows, columns = positions // length, positions % length
    if exact:
        first = (columns - longest + 1).clamp(min=0)
        at = first.unsqueeze(1) + torch.arange(longest, device=items.device)
        windows = items[rows.unsqueeze(1), at.clamp(max=length - 1)] * (at <= columns.unsqueeze(1))
        return backbone.encode(windows)[torch.arange(len(windows), device=items.device), columns - first]
    pieces = nn.functional.pad(items, (0, -length % longest)).view(-1, longest)
    own = rows * (len(pieces) // len(items)) + columns // longest
    used, place = torch.unique(own, return_inverse=True)
    return backbone.encode(pieces[used]).flatten(0, 1)[place * longest + columns % longest]
