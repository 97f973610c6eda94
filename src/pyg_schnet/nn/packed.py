"""The network on packed batches: nothing is checked or found, and the host waits for nothing."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.packed import PackedBatch
from ..graph import edge_lengths

if TYPE_CHECKING:
    from .schnet import SchNet


def evaluate_packed(model: "SchNet", batch: PackedBatch, pos: Tensor) -> Tensor:
    r"""What ``model(...)`` gives, with zero for the padding.

    The model must consist of its original parts, with filters on the knots of the batch.

    Args:
        model: The network.
        batch: Molecules.
        pos: Their positions ``[N, D]``, by which to differentiate.

    Returns:
        The target ``[B + 1]`` in float64; the last one is of padding.
    """
    x = model.embedding(batch.z)  # [N, F]
    lengths = edge_lengths(pos, batch.edge_index).to(x.dtype)
    lengths = torch.where(batch.is_edge, lengths, batch.beyond)
    for interaction in model.interactions:
        x = x + interaction(x, batch.plan, lengths)
    output, _ = model.readout(x, batch.z, pos, batch.molecule, batch.sizes.numel())
    return output.squeeze(-1)
