r"""Energies and forces without autograd: the forward pass and its derivative, written out.

Reverse mode by hand through the very operators of the network. It saves the bookkeeping of
autograd, which for a small molecule costs more than the arithmetic.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..ops import Knots, edge_vectors, forces_from_distances, kernels_for
from . import checks, edges
from .conv import SchNetConv
from .interaction import InteractionBlock
from .readout import AtomwiseReadout
from .response import forces_from_energy

if TYPE_CHECKING:
    from .schnet import SchNet


@dataclass(frozen=True)
class Layer:
    """The weights of an interaction block, out of their modules.

    Attributes:
        conv: The convolution.
        frozen: Its frozen table when this was read.
        before: Weight and bias of the dense layer before the sum over neighbours.
        after: Those of the layer behind it.
        last: Those of the layer behind the activation.
    """

    conv: SchNetConv
    frozen: tuple[Knots, Tensor] | None
    before: tuple[Tensor, Tensor | None]
    after: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Program:
    """A network read once, so that predictions need not walk through its modules.

    Attributes:
        layers: The interaction blocks.
        parts: All modules, to see whether one has got hooks.
    """

    layers: tuple[Layer, ...]
    parts: tuple[nn.Module, ...]

    @classmethod
    def read(cls, model: "SchNet") -> "Program | None":
        """Reads a network; ``None`` if one of its parts is not the original."""
        from .schnet import SchNet

        blocks: list[Any] = list(model.interactions)
        original = (
            type(model)._evaluate is SchNet._evaluate
            and type(model.readout) is AtomwiseReadout
            and len(blocks) > 0
            and all(type(block) is InteractionBlock for block in blocks)
            and all(type(block.conv) is SchNetConv for block in blocks)
        )
        if not original:
            return None
        layers = tuple(
            Layer(
                block.conv,
                block.conv._frozen,
                (block.conv.lin1.weight, block.conv.lin1.bias),
                (block.conv.lin2.weight, block.conv.lin2.bias),
                (block.lin.weight, block.lin.bias),
            )
            for block in blocks
        )
        return cls(layers, tuple(model.modules()))

    def is_current(self) -> bool:
        """Whether all tables are still frozen as they were."""
        return all(
            layer.frozen is not None and layer.conv._frozen is layer.frozen for layer in self.layers
        )

    def is_hooked(self) -> bool:
        """Whether somebody listens to a module or its messages."""
        return any(layer.conv.has_message_hooks() for layer in self.layers) or any(
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
            for part in self.parts
        )


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
    program = model.program()
    if program is None or model.interaction_graph is not None or program.is_hooked():
        return None
    z, batch, batch_size = model._checked(z, pos, batch, batch_size)
    edge_index = edges.found(model, z, pos, batch, edge_index)
    vectors, lengths = edge_vectors(pos, edge_index)
    checks.check_distances(edge_index, lengths)
    x = model.embedding(z)  # [N, F]
    plan = edges.prepared(model, x, edge_index, lengths.to(x.dtype))
    if not program.is_current() and not all(
        layer.conv.tabulates(x, plan) for layer in program.layers
    ):
        return None
    if plan.knots is None or plan.short is not None:
        return None
    vectors, lengths = plan.arrange(vectors), plan.arrange(lengths)
    distances = lengths.to(x.dtype)
    kernels = kernels_for(x)

    # 1. Forward, keeping what the way back needs.
    tape = []
    for layer in program.layers:
        table = layer.conv.table(plan.require_knots())
        u = linear(x, *layer.before)
        y = kernels.reduce(u, distances, table, plan)
        value, slope = kernels.softplus_and_slope(linear(y, *layer.after))
        x = x + linear(value, *layer.last)
        tape.append((layer, table, u, slope))
    readout: Any = model.readout
    first, second = readout.lin1, readout.lin2
    value, slope = kernels.softplus_and_slope(linear(x, first.weight, first.bias))
    h = linear(value, second.weight, second.bias)
    output, contributions = readout.pool(h, z, batch, batch_size)
    if not with_forces:
        return output, contributions, x, None

    # 2. Backward: gradients of the sum of all outputs.
    by_h = readout.pool_gradient(z, batch, batch_size).to(x.dtype).unsqueeze(-1)  # [N, 1]
    by_x = (by_h * second.weight * slope) @ first.weight  # [N, F]
    by_distance = torch.zeros_like(distances)
    for layer, table, u, slope in reversed(tape):
        by_y = ((by_x @ layer.last[0]) * slope) @ layer.after[0]
        if layer is program.layers[0]:  # embeddings do not depend on positions
            by_distance += kernels.product(by_y, u, distances, table, plan, 1)
        else:
            by_u, slopes = kernels.reduce_backward(by_y, u, distances, table, plan)
            by_distance += slopes
            by_x = torch.addmm(by_x, by_u, layer.before[0])
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
