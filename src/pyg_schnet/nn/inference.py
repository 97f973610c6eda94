r"""Energies and forces without autograd: the forward pass and its derivative, written out.

Reverse mode by hand through the very operators of the network. It saves the bookkeeping of
autograd, which for a small molecule costs more than the arithmetic.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from ..ops import kernels_for, threads
from ..ops.geometry import edge_vectors, forces_from_distances
from . import checks, edges, molecule
from .layers import read_layers, weights_of
from .response import forces_from_energy

if TYPE_CHECKING:
    from .schnet import SchNet


@torch.no_grad()
def predict(
    model: "SchNet",
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    edge_index: Tensor | None,
    batch_size: int | None,
    with_forces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
    r"""Evaluates a network whose filters come from tables.

    Args:
        model: The network.
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, D]``.
        batch: Molecule of each atom ``[N]``.
        edge_index: Edges ``[2, E]``, or ``None`` to find them.
        batch_size: Number B of molecules, or ``None`` to count them.
        with_forces: Whether to compute forces.

    Returns:
        The target ``[B, 1]``, atom-wise contributions ``[N]``, features ``[N, F]`` and forces
        ``[N, D]`` or ``None``; or ``None`` in place of all if a part of the network has been
        exchanged, has hooks, or does not use tables, so that autograd must do it.
    """
    if model.interaction_graph is not None or torch.is_autocast_enabled(pos.device.type):
        return None
    layers = read_layers(model)
    if layers is None:
        return None
    if edge_index is None and batch_size == 1:
        small = molecule.predict(model, layers, z, pos, with_forces)
        if small is not None:
            return small
    z, batch, batch_size = model._checked(z, pos, batch, batch_size)
    edge_index = edges.found(model, z, pos, batch, edge_index)
    vectors, lengths = edge_vectors(pos, edge_index)
    checks.check_distances(edge_index, lengths)
    x = embedding(z, model.embedding.weight)  # [N, F]
    distances = lengths.to(x.dtype)
    plan = edges.prepared(model, x, edge_index, distances)
    if plan.knots is None or plan.short is not None:
        return None
    if not all(
        layer.conv.has_table() and layer.conv.knots_for(distances) == plan.knots for layer in layers
    ):
        return None  # filters with knots or short edges of their own
    tables = [layer.conv.table(plan.knots) for layer in layers]
    vectors, lengths, distances = (plan.arrange(v) for v in (vectors, lengths, distances))
    kernels = kernels_for(x)
    readout: Any = model.readout
    first, second = weights_of(readout.lin1), weights_of(readout.lin2)
    with threads.single_threaded_products(x.numel() * layers[0].before[0].size(0)):
        # 1. Forward, keeping what the way back needs.
        tape = []
        for layer, table in zip(layers, tables):
            u = linear(x, *layer.before)
            y = kernels.reduce(u, distances, table, plan)
            value, slope = kernels.softplus_and_slope(linear(y, *layer.after))
            x = x + linear(value, *layer.last)
            tape.append((layer, table, u, slope))
        value, slope = kernels.softplus_and_slope(linear(x, *first))
        h = linear(value, *second)
        output, contributions = readout.pool(h, z, batch, batch_size)
        if not with_forces:
            return output, contributions, x, None

        # 2. Backward: gradients of the sum of all outputs.
        by_h = readout.pool_gradient(z, batch, batch_size).to(x.dtype).unsqueeze(-1)  # [N, 1]
        by_x = (by_h * second[0] * slope) @ first[0]  # [N, F]
        by_distance: Tensor | None = None
        for layer, table, u, slope in reversed(tape):
            by_y = ((by_x @ layer.last[0]) * slope) @ layer.after[0]
            if layer is layers[0]:  # embeddings do not depend on positions
                slopes = kernels.product(by_y, u, distances, table, plan, 1)
            else:
                by_u, slopes = kernels.reduce_backward(by_y, u, distances, table, plan)
                by_x = torch.addmm(by_x, by_u, layer.before[0])
            by_distance = slopes if by_distance is None else by_distance.add_(slopes)
    assert by_distance is not None
    forces = forces_from_distances(by_distance.to(pos.dtype), vectors, lengths, plan)
    return output, contributions, x, forces


def predict_by_autograd(
    model: "SchNet", pos: Tensor, with_forces: bool, **inputs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What :func:`predict` returns, of any network, by automatic differentiation."""
    with torch.set_grad_enabled(with_forces):
        pos = pos.detach().clone().requires_grad_(with_forces)
        output, contributions, x = model._evaluate(pos=pos, **inputs)
        forces = forces_from_energy(output, pos) if with_forces else None
    return output.detach(), contributions.detach(), x.detach(), forces
