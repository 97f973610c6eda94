r"""From derivatives by distances to forces and virials, without autograd."""

import torch
from torch import Tensor

from .dispatch import use_cpu_kernels
from .plan import EdgePlan


def are_sound(edge_index: Tensor, batch: Tensor) -> bool:
    """Whether all edges are known to join atoms of one molecule of the batch each.

    Args:
        edge_index: Edges, ``[2, E]`` int64.
        batch: Molecule of each atom, ``[N]``.
    """
    if batch.numel() == 0 or edge_index.device != batch.device:
        return False
    if not (edge_index.is_cpu and batch.dtype == torch.long):
        atoms = edge_index.clamp(0, batch.numel() - 1)
        source, target = (batch.index_select(0, index) for index in atoms)
        return bool((atoms == edge_index).all() & (source == target).all())
    from . import geometry_kernels

    return not geometry_kernels.join_molecules(
        edge_index.contiguous().numpy(), batch.contiguous().numpy()
    )


def forces_from_distances(
    slopes: Tensor, vectors: Tensor, lengths: Tensor, plan: EdgePlan
) -> Tensor:
    r"""Forces from the derivatives of the energy by the distances.

    .. math::
        \mathbf{F}_i = \sum_{e = (j \to i)} \frac{\partial E}{\partial d_e}
        \frac{\mathbf{r}_j - \mathbf{r}_i}{d_e}
        - \sum_{e = (i \to k)} \frac{\partial E}{\partial d_e}
        \frac{\mathbf{r}_i - \mathbf{r}_k}{d_e}

    Args:
        slopes: Derivative of the energy by each distance, ``[E]``, in plan order.
        vectors: Vectors along the edges, ``[E, D]``, in plan order.
        lengths: Their lengths, ``[E]``, in plan order.
        plan: The edges.

    Returns:
        Forces ``[N, D]`` in the dtype of ``vectors``.
    """
    if use_cpu_kernels(vectors):
        from . import geometry_kernels

        forces = vectors.new_zeros(plan.num_dst, vectors.size(1))
        geometry_kernels.forces(
            slopes.contiguous().numpy(),
            vectors.contiguous().numpy(),
            lengths.contiguous().numpy(),
            plan.source.numpy(),
            plan.target.numpy(),
            forces.numpy(),
        )
        return forces
    along = (slopes.to(vectors.dtype) / lengths).unsqueeze(1) * vectors
    # Not index_add, which on GPUs adds in another order each time.
    by_source, _, order = plan.transposed()
    if slopes.device.type not in ("cpu", "cuda"):  # segment_reduce knows no others
        forces = along.new_zeros(plan.num_dst, along.size(1))
        forces.index_add_(0, plan.target, along)
        return forces.index_add_(0, plan.source, along, alpha=-1)
    return _sums(along, plan.rowptr) - _sums(along.index_select(0, order), by_source)


def _sums(rows: Tensor, starts: Tensor | None) -> Tensor:
    """Sums of consecutive rows, of which those of each atom begin at ``starts``."""
    return torch.segment_reduce(rows, "sum", offsets=starts, axis=0, initial=0.0, unsafe=True)


def virial_from_distances(
    slopes: Tensor, vectors: Tensor, lengths: Tensor, system: Tensor, num_systems: int
) -> Tensor:
    r"""Derivatives of the energies by strain, from those by the distances.

    .. math::
        \frac{\partial E}{\partial \varepsilon} = \sum_e \frac{\partial E}{\partial d_e}
        \frac{\mathbf{r}_e \mathbf{r}_e^\top}{d_e}

    Args:
        slopes: Derivative of the energy by each distance, ``[E]``.
        vectors: Vectors along the edges, ``[E, 3]``.
        lengths: Their lengths, ``[E]``.
        system: System of each edge, ``[E]``.
        num_systems: Number B of systems.

    Returns:
        ``[B, 3, 3]`` in the dtype of ``vectors``.
    """
    along = (slopes.to(vectors.dtype) / lengths).unsqueeze(1) * vectors  # [E, 3]
    if num_systems == 1:
        return (along.t() @ vectors).unsqueeze(0)
    products = (along.unsqueeze(2) * vectors.unsqueeze(1)).flatten(1)  # [E, 9]
    virial = products.new_zeros(num_systems, 9).index_add_(0, system, products)
    return virial.view(num_systems, 3, 3)
