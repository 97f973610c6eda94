r"""The edges of a network: found or given, measured, and prepared for the convolutions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..graph import edge_lengths, measured_edges, neighbors, periodic_neighbors
from ..ops import EdgePlan
from . import checks
from .conv import SchNetConv
from .system import CheckedSystem, reach

if TYPE_CHECKING:
    from .schnet import SchNet


def measured(model: "SchNet", system: CheckedSystem) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and their lengths ``[E]``, differentiable in positions and cells.

    Raises:
        ValueError: If lengths of the user's own graph carry no gradients.
    """
    z, pos, cell = system.z, system.pos, system.cell
    if system.edge_index is None and model.interaction_graph is not None:
        edge_index, edge_weight = _by_the_user(model.interaction_graph, system)
    else:
        edge_index, edge_shift = found(model, system)
        along = (edge_index, edge_shift, None if edge_shift is None else cell, system.batch)
        moving = pos.requires_grad or (cell is not None and cell.requires_grad)
        if moving or torch.compiler.is_compiling():
            edge_weight = edge_lengths(pos, *along)
        else:
            edge_weight = measured_edges(pos, *along)[1]
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
    return edge_index, edge_weight


def found(model: "SchNet", system: CheckedSystem) -> tuple[Tensor, Tensor | None]:
    """The given edges or the radius graph, without those of padding atoms, and their shifts."""
    edge_index, edge_shift = system.edge_index, system.edge_shift
    if edge_index is None:
        pos, cell, batch = system.pos.detach(), system.cell, system.batch
        limit = model.config["max_num_neighbors"]
        if cell is None:
            edge_index = neighbors(pos, reach(model), batch, limit)
        else:
            edge_index, edge_shift = periodic_neighbors(
                pos, reach(model), batch, cell, system.pbc, limit
            )
    real = _between_atoms(system.z, edge_index)
    if real is None:
        return edge_index, edge_shift
    return edge_index[:, real], None if edge_shift is None else edge_shift[real]


def _by_the_user(graph: Any, system: CheckedSystem) -> tuple[Tensor, Tensor]:
    edge_index, edge_weight = graph(system.pos, system.batch)
    checks.check_interaction_graph(edge_weight, system.pos)
    real = _between_atoms(system.z, edge_index)
    return (edge_index, edge_weight) if real is None else (edge_index[:, real], edge_weight[real])


def prepared(model: "SchNet", x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> EdgePlan:
    """What all blocks need of the edges, once for all of them.

    Raises:
        ValueError: If atoms coincide.
    """
    block = next(iter(model.interactions), None)
    conv = None if block is None else block.conv
    knots = None
    if isinstance(conv, SchNetConv) and conv.tabulates(x, edge_index):
        knots = conv.knots_for
    plan = EdgePlan.build(edge_index, x.size(0), edge_weight, knots)
    if plan.extent is not None and not plan.extent[0] > 0:
        checks.check_distances(edge_index, edge_weight)
    plan.mutual = model.interaction_graph is None
    return plan


def _between_atoms(z: Tensor, edge_index: Tensor) -> Tensor | None:
    """Which edges touch no padding atom; ``None`` if all of them."""
    if torch.compiler.is_compiling() or not bool((z == 0).any()):
        return None
    return (z[edge_index] > 0).all(dim=0)
