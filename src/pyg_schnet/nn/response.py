r"""Responses: forces as derivatives of the energy."""

import torch
from torch import Tensor


def forces_from_energy(energy: Tensor, pos: Tensor, create_graph: bool = False) -> Tensor:
    r"""Forces as the negative gradient of the energy, so that they conserve it.

    .. math::
        \mathbf{F}_i = - \frac{\partial E}{\partial \mathbf{r}_i}

    Args:
        energy: Energies computed from ``pos``, any shape; their sum is differentiated, so
            molecules of a batch must not interact.
        pos: Positions ``[N, D]`` that require gradients.
        create_graph: Keep what is needed to differentiate the forces, to train on them.

    Returns:
        Forces ``[N, D]`` in the unit of energy per unit of length, in the dtype of ``pos``. Zero
        where the energy does not depend on a position.

    Raises:
        RuntimeError: If ``pos`` does not require gradients.
    """
    if not pos.requires_grad:
        raise RuntimeError(
            "forces need positions that require gradients: "
            "call 'pos = pos.detach().clone().requires_grad_()' before computing the energy"
        )
    (gradient,) = torch.autograd.grad(
        energy.sum(), pos, create_graph=create_graph, materialize_grads=True
    )
    return -gradient
