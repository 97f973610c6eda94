r"""Responses: forces and stress as derivatives of the energy."""

import torch
from torch import Tensor


def forces_from_energy(
    energy: Tensor, pos: Tensor, create_graph: bool = False, retain_graph: bool | None = None
) -> Tensor:
    r"""Forces as the negative gradient of the energy, so that they conserve it.

    .. math::
        \mathbf{F}_i = - \frac{\partial E}{\partial \mathbf{r}_i}

    Args:
        energy: Energies computed from ``pos``, any shape; their sum is differentiated, so
            molecules of a batch must not interact.
        pos: Positions ``[N, D]`` that require gradients.
        create_graph: Keep what is needed to differentiate the forces, to train on them.
        retain_graph: Keep what is needed for other derivatives of the energy; as ``create_graph``
            if ``None``.

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
        energy.sum(),
        pos,
        create_graph=create_graph,
        retain_graph=retain_graph,
        materialize_grads=True,
    )
    return -gradient


def strained(pos: Tensor, cell: Tensor, batch: Tensor | None = None) -> tuple[Tensor, ...]:
    r"""Positions and cells under a strain of zero, by which the energy can be differentiated.

    .. math::
        \mathbf{r}_i \leftarrow \mathbf{r}_i (1 + \varepsilon), \qquad
        \mathbf{a}_k \leftarrow \mathbf{a}_k (1 + \varepsilon)

    Args:
        pos: Positions ``[N, 3]``.
        cell: Lattice vectors in rows, ``[B, 3, 3]`` or ``[3, 3]``.
        batch: System of each atom ``[N]``; needed for more than one.

    Returns:
        Positions ``[N, 3]`` and cells ``[B, 3, 3]`` of the same values, and the strain
        ``[B, 3, 3]``, of which the symmetric part acts.

    >>> import torch
    >>> from pyg_schnet import SchNet, stress_from_energy
    >>> model = SchNet(8, 8, 1, cutoff=5.0)
    >>> z, pos, cell = torch.tensor([29]), torch.zeros(1, 3), 3.0 * torch.eye(3).unsqueeze(0)
    >>> pos, cell, strain = strained(pos, cell)
    >>> stress_from_energy(model(z, pos, cell=cell), strain, cell).shape
    torch.Size([1, 3, 3])
    """
    cell = cell.reshape(-1, 3, 3).to(pos.dtype)
    strain = torch.zeros_like(cell).requires_grad_()
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    if batch is None:
        moved = pos + pos @ symmetric[0]
    else:
        moved = pos + (pos.unsqueeze(1) @ symmetric.index_select(0, batch)).squeeze(1)
    return moved, cell + cell @ symmetric, strain


def stress_from_energy(
    energy: Tensor, strain: Tensor, cell: Tensor, create_graph: bool = False
) -> Tensor:
    r"""Stress as the derivative of the energy by strain over the volume, positive under tension.

    .. math::
        \sigma = \frac{1}{V} \frac{\partial E}{\partial \varepsilon}

    Args:
        energy: Energies of what :func:`strained` returned, any shape.
        strain: Its strain ``[B, 3, 3]``.
        cell: Its cells ``[B, 3, 3]``.
        create_graph: Keep what is needed to train on the stress.

    Returns:
        Stress ``[B, 3, 3]`` in the unit of energy per unit of volume.

    Raises:
        ValueError: If a cell has no volume.
    """
    (gradient,) = torch.autograd.grad(
        energy.sum(), strain, create_graph=create_graph, materialize_grads=True
    )
    return gradient / volumes_of(cell).to(gradient.dtype)


def volumes_of(cell: Tensor | None) -> Tensor:
    """Volumes of cells ``[B, 1, 1]`` in float64.

    Raises:
        ValueError: If a system has none.
    """
    if cell is None:
        raise ValueError(
            "stress needs periodic systems: give 'cell' [B, 3, 3], and 'pbc' where it is not "
            "periodic along all directions"
        )
    cell = cell.reshape(-1, 3, 3)
    volumes = torch.linalg.det(cell.detach().double()).abs()
    if not (volumes > 0).all():
        system = int((~(volumes > 0)).nonzero()[0])
        raise ValueError(
            f"stress needs a cell with a volume (got {cell[system].tolist()} for system {system}): "
            "give three lattice vectors, or a batch without such systems"
        )
    return volumes.view(-1, 1, 1)
