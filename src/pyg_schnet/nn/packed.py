"""The network on packed batches: nothing is checked or found, and the host waits for nothing."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.packed import PackedBatch
from ..graph import edge_lengths
from .inference import Geometry, Prediction, through
from .layers import Layer

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


@torch.no_grad()
def predict_packed(
    model: "SchNet",
    layers: list[Layer],
    tables: list[Tensor],
    batch: PackedBatch,
    with_forces: bool,
) -> Prediction:
    r"""What ``model.predict`` gives, without autograd; forces of padding are zero.

    Args:
        model: The network.
        layers: What its blocks are made of.
        tables: Filters of each block on the knots of the batch ``[K, F]``.
        batch: Molecules.
        with_forces: Whether to compute forces.
    """
    source, target = batch.edge_index
    pos = batch.pos
    vectors = pos.index_select(0, source) - pos.index_select(0, target)  # [E, D]
    lengths = torch.where(batch.is_edge, vectors.norm(dim=1), batch.beyond)
    num_molecules = batch.sizes.numel()
    geometry = Geometry(batch.z, pos, batch.molecule, num_molecules, vectors, lengths, batch.plan)
    x = model.embedding(batch.z)
    return through(model, layers, tables, x, geometry, with_forces)
