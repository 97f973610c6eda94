r"""From positions to distances, and from derivatives by distances to forces, without a graph.

What :func:`pyg_schnet.edge_lengths` and its derivative do, in two loops over the edges.
"""

import torch
from torch import Tensor

from .dispatch import use_cpu_kernels
from .plan import EdgePlan


def edge_vectors(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Vectors from target to source along the edges, and their lengths.

    Args:
        pos: Positions, ``[N, D]``.
        edge_index: Edges, ``[2, E]``.
        edge_shift: Lattice vectors by which each source is displaced, ``[E, 3]``.
        cell: Lattice vectors in rows, ``[B, 3, 3]`` or ``[3, 3]``.
        batch: System of each atom, ``[N]``.

    Returns:
        Vectors ``[E, D]`` and lengths ``[E]``.
    """
    if not use_cpu_kernels(pos):
        source, target = edge_index
        vectors = pos.index_select(0, source) - pos.index_select(0, target)
        if edge_shift is not None and cell is not None:
            cells = cell.reshape(-1, 3, 3)
            if batch is not None:
                cells = cells.index_select(0, batch.index_select(0, target))  # [E, 3, 3]
            # Not a matrix product: that may round an edge and its reverse differently.
            vectors = vectors + (edge_shift.unsqueeze(2) * cells).sum(dim=1)
        return vectors, vectors.square().sum(dim=1).sqrt()
    from . import geometry_kernels

    vectors = pos.new_empty(edge_index.size(1), pos.size(1))
    lengths = pos.new_empty(edge_index.size(1))
    edges = (pos.contiguous().numpy(), edge_index.contiguous().numpy())
    if edge_shift is None or cell is None:
        geometry_kernels.edge_vectors(*edges, vectors.numpy(), lengths.numpy())
        return vectors, lengths
    system = pos.new_zeros(len(pos), dtype=torch.long) if batch is None else batch
    geometry_kernels.shifted_edge_vectors(
        *edges,
        edge_shift.to(pos).contiguous().numpy(),
        cell.detach().to(pos).reshape(-1, 3, 3).contiguous().numpy(),
        system.contiguous().numpy(),
        vectors.numpy(),
        lengths.numpy(),
    )
    return vectors, lengths


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
    forces = vectors.new_zeros(plan.num_dst, vectors.size(1))
    if use_cpu_kernels(vectors):
        from . import geometry_kernels

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
    return forces.index_add_(0, plan.target, along).index_add_(0, plan.source, along, alpha=-1)


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
