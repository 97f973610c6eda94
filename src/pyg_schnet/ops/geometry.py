r"""From positions to distances, and from derivatives by distances to forces, without a graph.

What :func:`pyg_schnet.edge_lengths` and its derivative do, in two loops over the edges.
"""

from torch import Tensor

from .dispatch import use_cpu_kernels
from .plan import EdgePlan


def edge_vectors(pos: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    r"""Vectors from target to source along the edges, and their lengths.

    Args:
        pos: Positions, ``[N, D]``.
        edge_index: Edges, ``[2, E]``.

    Returns:
        Vectors ``[E, D]`` and lengths ``[E]``.
    """
    if use_cpu_kernels(pos):
        from . import geometry_kernels

        vectors = pos.new_empty(edge_index.size(1), pos.size(1))
        lengths = pos.new_empty(edge_index.size(1))
        geometry_kernels.edge_vectors(
            pos.contiguous().numpy(),
            edge_index.contiguous().numpy(),
            vectors.numpy(),
            lengths.numpy(),
        )
        return vectors, lengths
    vectors = pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])
    return vectors, vectors.square().sum(dim=1).sqrt()


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
