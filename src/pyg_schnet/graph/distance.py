r"""Vectors and distances along edges, differentiable in positions and cell."""

import torch
from torch import Tensor

from ..ops.dispatch import use_cpu_kernels


def edge_vectors(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""Vectors :math:`r_j - r_i + \sum_k s_k a_k` from target to source along the edges.

    Args:
        pos: Positions, ``[N, D]``.
        edge_index: Edges, ``[2, E]``.
        edge_shift: Lattice vectors by which each source is displaced, ``[E, 3]``; none if ``None``.
        cell: Lattice vectors in rows, ``[B, 3, 3]``, or ``[3, 3]`` of one system.
        batch: System of each atom, ``[N]``; needed for more systems than one.

    Returns:
        Vectors, ``[E, D]``. An edge and its reverse have exactly opposite ones.

    Raises:
        ValueError: If only one of ``edge_shift`` and ``cell`` is given, or shapes do not match.

    >>> import torch
    >>> pos, cell = torch.tensor([[0.5, 0.0, 0.0]]), 4.0 * torch.eye(3)
    >>> edge_vectors(pos, torch.tensor([[0], [0]]), torch.tensor([[-1.0, 0.0, 0.0]]), cell)
    tensor([[-4., 0., 0.]])
    """
    # index_select has a much faster backward pass than indexing.
    source, target = (pos.index_select(0, index) for index in edge_index)
    vectors = source - target  # [E, D]
    images = _images(pos, edge_index, edge_shift, cell, batch)
    if images is None:
        return vectors
    shift, cells = images
    system = None
    if batch is not None and cells.size(0) > 1:
        system = batch.index_select(0, edge_index[0])  # [E]
    # Not a matrix product: its roundings differ from row to row, and so an edge from its reverse.
    offset: Tensor | float = 0.0
    for k in range(3):
        along = cells[:, k] if system is None else cells[:, k].index_select(0, system)
        offset = offset + shift[:, k : k + 1] * along
    return vectors + offset


def edge_lengths(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""Distances :math:`d_e = |r_j - r_i + \sum_k s_k a_k|` along the edges.

    Differentiable any number of times. Coincident atoms get distance zero with zero derivative
    instead of NaN.

    Args:
        pos: Positions, ``[N, D]``.
        edge_index: Edges, ``[2, E]``.
        edge_shift: See :func:`edge_vectors`.
        cell: See :func:`edge_vectors`.
        batch: See :func:`edge_vectors`.

    Returns:
        Distances, ``[E]``.

    Raises:
        ValueError: As :func:`edge_vectors` does.
    """
    vectors = edge_vectors(pos, edge_index, edge_shift, cell, batch)
    squared = vectors.square().sum(dim=-1)  # [E]
    apart = squared > 0
    return torch.where(apart, squared, 1.0).sqrt() * apart


def squared_lengths(vectors: Tensor) -> Tensor:
    """Squares of the lengths of vectors ``[E, D]``, by which the search decides, ``[E]``.

    Squares are rounded as components are, but summed in float64, one after the other: the loops on
    the CPU do the same, and so all searches draw the line between the same pairs.
    """
    squares = vectors.square()
    wide = squares.dtype if squares.device.type == "mps" else torch.float64  # which it has not
    total = squares[:, 0].to(wide)
    for k in range(1, squares.size(1)):
        total = total + squares[:, k]
    return total


def measured_edges(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Vectors and distances along edges in one go, without derivatives.

    Args:
        pos: Positions, ``[N, D]``.
        edge_index: Edges, ``[2, E]``, within range.
        edge_shift: See :func:`edge_vectors`.
        cell: See :func:`edge_vectors`.
        batch: See :func:`edge_vectors`; less than the number of cells.

    Returns:
        Vectors ``[E, D]`` and distances ``[E]``.

    Raises:
        ValueError: As :func:`edge_vectors` does.
    """
    if not use_cpu_kernels(pos):
        vectors = edge_vectors(pos, edge_index, edge_shift, cell, batch)
        return vectors, vectors.square().sum(dim=1).sqrt()
    from ..ops import geometry_kernels

    images = _images(pos, edge_index, edge_shift, cell, batch)
    vectors = pos.new_empty(edge_index.size(1), pos.size(1))
    lengths = pos.new_empty(edge_index.size(1))
    edges = (pos.contiguous().numpy(), edge_index.contiguous().numpy())
    if images is None:
        geometry_kernels.edge_vectors(*edges, vectors.numpy(), lengths.numpy())
        return vectors, lengths
    shift, cells = images
    system = torch.zeros(len(pos), dtype=torch.long) if batch is None else batch
    geometry_kernels.shifted_edge_vectors(
        *edges,
        shift.contiguous().numpy(),
        cells.contiguous().numpy(),
        system.contiguous().numpy(),
        vectors.numpy(),
        lengths.numpy(),
    )
    return vectors, lengths


def _images(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Shifts ``[E, 3]`` and cells ``[B, 3, 3]`` of matching shapes in the dtype of positions."""
    if edge_shift is None and cell is None:
        return None
    if edge_shift is None or cell is None:
        present, missing = ("cell", "edge_shift") if edge_shift is None else ("edge_shift", "cell")
        raise ValueError(f"'{present}' needs '{missing}' beside it (got None)")
    if edge_shift.shape != (edge_index.size(1), 3):
        raise ValueError(
            f"'edge_shift' must have shape [{edge_index.size(1)}, 3], a row per edge "
            f"(got {list(edge_shift.shape)})"
        )
    cells = cell.unsqueeze(0) if cell.dim() == 2 else cell
    if cells.dim() != 3 or cells.shape[1:] != (3, 3) or pos.size(1) != 3:
        raise ValueError(
            "'cell' must have shape [3, 3] or [B, 3, 3], and 'pos' [N, 3] "
            f"(got {list(cell.shape)} and {list(pos.shape)})"
        )
    if batch is None and cells.size(0) != 1:
        raise ValueError(f"{cells.size(0)} cells need 'batch', the system of each atom (got None)")
    return edge_shift.to(pos.dtype), cells.to(pos.dtype)
