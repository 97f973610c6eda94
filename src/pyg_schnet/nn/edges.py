r"""The edges of a network: found or given, measured, and prepared for the convolutions."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..graph import edge_lengths, neighbors
from ..ops import EdgePlan
from ..ops.geometry import edge_vectors
from . import checks
from .conv import SchNetConv

if TYPE_CHECKING:
    from .schnet import SchNet


def measured(
    model: "SchNet", z: Tensor, pos: Tensor, batch: Tensor, edge_index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and their lengths ``[E]``, differentiable in the positions.

    Raises:
        ValueError: If atoms coincide, or lengths of the user's own graph carry no gradients.
    """
    if edge_index is None and model.interaction_graph is not None:
        edge_index, edge_weight = model.interaction_graph(pos, batch)
        checks.check_interaction_graph(edge_weight, pos)
        if (real := _between_atoms(z, edge_index)) is not None:
            edge_index, edge_weight = edge_index[:, real], edge_weight[real]
    else:
        edge_index = found(model, z, pos, batch, edge_index)
        if pos.requires_grad or torch.compiler.is_compiling():
            edge_weight = edge_lengths(pos, edge_index)
        else:
            edge_weight = edge_vectors(pos, edge_index)[1]
    if torch.compiler.is_compiling():
        if model.envelope == "none":
            torch._assert_async(
                (edge_weight <= model.cutoff).all(), "a distance is beyond the range of the filter"
            )
            torch._assert_async(
                (z > 0).all(), "compiled models without envelope take no padding atoms (z = 0)"
            )
            return edge_index, edge_weight
        # Edges cannot be left out of a graph of fixed shapes; beyond the cutoff a filter is zero.
        real = (z[edge_index] > 0).all(dim=0)
        return edge_index, torch.where(real, edge_weight, 2.0 * model.cutoff)
    checks.check_distances(edge_index, edge_weight)
    return edge_index, edge_weight


def found(
    model: "SchNet", z: Tensor, pos: Tensor, batch: Tensor, edge_index: Tensor | None
) -> Tensor:
    """The given edges or the radius graph, without those of padding atoms."""
    if edge_index is None:
        radius = math.inf if model.envelope == "none" else model.cutoff
        limit = model.config["max_num_neighbors"]
        edge_index = neighbors(pos.detach(), radius, batch, limit)
    real = _between_atoms(z, edge_index)
    return edge_index if real is None else edge_index[:, real]


def prepared(model: "SchNet", x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> EdgePlan:
    """What all blocks need of the edges, once for all of them."""
    plan = EdgePlan.build(edge_index, x.size(0), edge_weight)
    plan.mutual = model.interaction_graph is None
    block = next(iter(model.interactions), None)
    conv = None if block is None else block.conv
    if isinstance(conv, SchNetConv) and conv.tabulates(x, plan):
        plan = plan.with_knots(conv.knots_for(edge_weight), edge_weight)
    return plan


def _between_atoms(z: Tensor, edge_index: Tensor) -> Tensor | None:
    """Which edges touch no padding atom; ``None`` if all of them."""
    if torch.compiler.is_compiling() or not bool((z == 0).any()):
        return None
    return (z[edge_index] > 0).all(dim=0)
