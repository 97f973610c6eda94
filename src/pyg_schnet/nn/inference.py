r"""Energies and forces without autograd: the forward pass and its derivative, written out.

Reverse mode by hand through the very operators of the network. It saves the bookkeeping of
autograd, which for a small molecule costs more than the arithmetic.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..ops import edge_vectors, forces_from_distances, kernels_for, value_and_slope
from . import checks, edges
from .conv import SchNetConv
from .interaction import InteractionBlock
from .readout import AtomwiseReadout

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
    if not _is_plain(model):
        return None
    blocks: list[Any] = list(model.interactions)
    readout: Any = model.readout
    model._check(z, pos, batch, batch_size)
    z = z.long()
    if batch is None:
        batch, batch_size = torch.zeros_like(z), batch_size or 1
    if batch_size is None:
        batch_size = int(batch[-1]) + 1 if batch.numel() > 0 else 0
    edge_index = edges.found(model, z, pos, batch, edge_index)
    vectors, lengths = edge_vectors(pos, edge_index)
    checks.check_distances(edge_index, lengths)
    x = model.embedding(z)  # [N, F]
    plan = edges.prepared(model, x, edge_index, lengths.to(x.dtype))
    tabulated = all(block.conv.tabulates(x, plan) for block in blocks)
    if not tabulated or plan.short is not None:
        return None
    vectors, lengths = plan.arrange(vectors), plan.arrange(lengths)
    distances = lengths.to(x.dtype)
    kernels = kernels_for(x)

    # 1. Forward, keeping what the way back needs.
    tape = []
    for block in blocks:
        conv = block.conv
        table = conv.table(plan.knots)
        u = _linear(conv.lin1, x)
        y = kernels.reduce(u, distances, table, plan)
        value, slope = value_and_slope(_linear(conv.lin2, y))
        x = x + _linear(block.lin, value)
        tape.append((block, table, u, slope))
    value, slope = value_and_slope(_linear(readout.lin1, x))
    output, contributions = readout.pool(_linear(readout.lin2, value), z, batch, batch_size)
    if not with_forces:
        return output, contributions, x, None

    # 2. Backward: gradients of the sum of all outputs.
    by_h = readout.pool_gradient(z, batch, batch_size).to(x.dtype).unsqueeze(-1)  # [N, 1]
    by_x = (by_h * readout.lin2.weight * slope) @ readout.lin1.weight  # [N, F]
    by_distance = torch.zeros_like(distances)
    for block, table, u, slope in reversed(tape):
        conv = block.conv
        by_y = ((by_x @ block.lin.weight) * slope) @ conv.lin2.weight
        if block is blocks[0]:  # embeddings do not depend on positions
            by_distance += kernels.product(by_y, u, distances, table, plan, 1)
        else:
            by_u, slopes = kernels.reduce_backward(by_y, u, distances, table, plan)
            by_distance += slopes
            by_x = torch.addmm(by_x, by_u, conv.lin1.weight)
    forces = forces_from_distances(by_distance.to(pos.dtype), vectors, lengths, plan)
    return output, contributions, x, forces


def _is_plain(model: "SchNet") -> bool:
    from .schnet import SchNet

    return (
        type(model)._evaluate is SchNet._evaluate
        and model.interaction_graph is None
        and type(model.readout) is AtomwiseReadout
        and len(model.interactions) > 0
        and all(
            type(block) is InteractionBlock and type(block.conv) is SchNetConv
            for block in model.interactions
        )
        and not any(_hooked(module) for module in _parts(model))
    )


def _parts(model: Any) -> Iterator[nn.Module]:
    yield from (model, model.embedding, model.readout, model.readout.lin1, model.readout.act)
    yield from (model.readout.lin2, model.readout.offsets)
    for block in model.interactions:
        conv = block.conv
        yield from (block, block.act, block.lin, conv, conv.lin1, conv.filter, conv.lin2)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _linear(layer: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, layer.weight, layer.bias)
