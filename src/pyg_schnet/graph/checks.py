"""Checks of what goes into the neighbour search."""

import math

import torch
from torch import Tensor


def check_atoms(pos: Tensor, r: float, batch: Tensor | None) -> None:
    """Checks positions, radius and the assignment of atoms to systems.

    Args:
        pos: Positions, ``[N, D]``.
        r: Radius.
        batch: System of each atom, ``[N]``, or ``None``.

    Raises:
        TypeError: If positions are no floating-point numbers.
        ValueError: If anything else is wrong.
    """
    if not pos.is_floating_point():
        raise TypeError(f"'pos' must hold floating-point numbers (got {pos.dtype})")
    if pos.dim() != 2:
        raise ValueError(f"'pos' must have shape [N, D] (got {list(pos.shape)})")
    if not r > 0:
        raise ValueError(f"'r' must be positive (got {r})")
    finite = pos.isfinite().all(dim=-1)
    if not finite.all():
        atom = int((~finite).nonzero()[0])
        raise ValueError(f"positions must be finite (got {pos[atom].tolist()} for atom {atom})")
    if batch is None:
        return
    if batch.shape != pos.shape[:1]:
        raise ValueError(
            f"'batch' must have one entry per atom (got shape {list(batch.shape)} "
            f"for {pos.size(0)} atoms)"
        )
    if (batch.diff() < 0).any():
        raise ValueError(
            "'batch' must be sorted, so that molecules are contiguous: reorder the atoms by "
            "'order = batch.argsort(stable=True)' first"
        )
    if batch.numel() > 0 and batch[0] < 0:
        raise ValueError(f"'batch' must not be negative (got {int(batch[0])})")


def check_open(pbc: Tensor | bool | None) -> None:
    """Refuses periodic directions of a system without a cell.

    Raises:
        ValueError: If there are any.
    """
    if pbc is not None and bool(torch.as_tensor(pbc).any()):
        raise ValueError(
            "'pbc' asks for periodic directions, but there is no 'cell': give the lattice vectors "
            "in rows, [3, 3] or [B, 3, 3]"
        )


def unify_cells(
    pos: Tensor, r: float, batch: Tensor | None, cell: Tensor, pbc: Tensor | bool | None
) -> tuple[Tensor, Tensor]:
    """Brings cells and periodic directions to one shape, and checks them.

    Args:
        pos: Positions, ``[N, 3]``.
        r: Radius.
        batch: System of each atom, ``[N]``, or ``None``.
        cell: Lattice vectors in rows, ``[3, 3]`` or ``[B, 3, 3]``.
        pbc: Periodic directions: one bool, ``[3]`` or ``[B, 3]``; all if ``None``.

    Returns:
        Cells ``[B, 3, 3]`` in the dtype of ``pos``, and bools ``[B, 3]``.

    Raises:
        TypeError: If ``cell`` or ``pbc`` hold the wrong kind of numbers.
        ValueError: If shapes do not match, lattice vectors are not finite, or all pairs of a
            periodic system are asked for.
    """
    if not cell.is_floating_point():
        raise TypeError(f"'cell' must hold floating-point numbers (got {cell.dtype})")
    cells = cell.unsqueeze(0) if cell.dim() == 2 else cell
    if cells.dim() != 3 or cells.shape[1:] != (3, 3):
        raise ValueError(
            "'cell' must have shape [3, 3], or [B, 3, 3] for a batch: store it as [1, 3, 3] in "
            f"each Data (got {list(cell.shape)})"
        )
    if pos.size(1) != 3:
        raise ValueError(f"periodic systems need 'pos' of shape [N, 3] (got {list(pos.shape)})")
    num_systems = cells.size(0)
    if batch is None and num_systems != 1:
        raise ValueError(f"{num_systems} cells need 'batch', the system of each atom (got None)")
    if batch is not None and batch.numel() > 0 and int(batch[-1]) >= num_systems:
        raise ValueError(
            f"'cell' must have one row per system (got {num_systems} cells for "
            f"{int(batch[-1]) + 1} systems in 'batch')"
        )
    periodic = torch.as_tensor(True if pbc is None else pbc, device=pos.device)
    if periodic.dtype != torch.bool:
        raise TypeError(f"'pbc' must hold bools (got {periodic.dtype})")
    if periodic.shape not in ((), (3,), (num_systems, 3)):
        raise ValueError(
            f"'pbc' must be a bool, or have shape [3] or [{num_systems}, 3] "
            f"(got {list(periodic.shape)})"
        )
    periodic = periodic.expand(num_systems, 3)
    if not math.isfinite(r) and bool(periodic.any()):
        raise ValueError(
            f"'r' must be finite for periodic systems (got {r}): every atom has infinitely many "
            "images; a model without envelope has no cutoff and suits molecules only"
        )
    finite = cells.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        system = int((~finite).nonzero()[0])
        raise ValueError(
            f"lattice vectors must be finite (got {cells[system].tolist()} for system {system})"
        )
    return cells.to(pos.device, pos.dtype), periodic
