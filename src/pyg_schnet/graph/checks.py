"""Checks of what goes into the neighbour search."""

import math

import torch
from torch import Tensor


def check_tensor(name: str, value: object) -> None:
    """Refuses arrays and lists, of which it would be unclear where results belong.

    Raises:
        TypeError: If this is no tensor.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(f"'{name}' must be a tensor (got {kind}): use torch.as_tensor({name})")


def check_atoms(pos: Tensor, r: float, batch: Tensor | None) -> None:
    """Checks positions, radius and the assignment of atoms to systems.

    Args:
        pos: Positions, ``[N, D]``.
        r: Radius.
        batch: System of each atom, ``[N]``, or ``None``.

    Raises:
        TypeError: If a tensor holds the wrong kind of numbers.
        ValueError: If anything else is wrong.
    """
    check_positions(pos)
    if not r > 0:
        raise ValueError(f"'r' must be positive (got {r})")
    if batch is not None:
        check_batch(batch, pos.size(0))


def check_positions(pos: Tensor) -> None:
    """Checks positions ``[N, D]``.

    Raises:
        TypeError: If they are no tensor of floating-point numbers.
        ValueError: If they have another shape, or one of them is not finite, or so large that the
            square of a distance is not.
    """
    check_tensor("pos", pos)
    if not pos.is_floating_point():
        raise TypeError(f"'pos' must hold floating-point numbers (got {pos.dtype})")
    if pos.dim() != 2:
        raise ValueError(f"'pos' must have shape [N, D] (got {list(pos.shape)})")
    if pos.numel() == 0:
        return
    pos = pos.detach()
    # The difference of two coordinates is at most twice the larger one. Shorter numbers are not
    # held to this: what is far away from the origin in them need not be large.
    most = torch.finfo(pos.dtype).max / (4 * pos.size(1)) if pos.element_size() > 2 else math.inf
    flat = pos.reshape(-1)
    if float(torch.dot(flat, flat)) < most:  # NaN is not
        return
    largest = math.sqrt(most)
    good = (pos.abs() < largest).all(dim=-1)
    if good.all():
        return
    atom = int((~good).nonzero()[0])
    met = f"(got {pos[atom].tolist()} for atom {atom})"
    if not pos[atom].isfinite().all():
        raise ValueError(f"positions must be finite {met}")
    raise ValueError(
        f"coordinates in {pos.dtype} must be below {largest:.1e} A, for squares of distances {met}"
    )


def check_batch(batch: Tensor, num_atoms: int) -> None:
    """Checks the assignment of atoms to systems, ``[N]``.

    Raises:
        TypeError: If it holds no integers.
        ValueError: If it is not sorted, negative, or of another length.
    """
    check_tensor("batch", batch)
    if batch.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"'batch' must hold integers, int64 (got {batch.dtype})")
    if batch.shape != (num_atoms,):
        raise ValueError(
            f"'batch' must have one entry per atom, [{num_atoms}] (got {list(batch.shape)})"
        )
    if num_atoms == 0 or bool((batch[0] >= 0) & (batch[1:] >= batch[:-1]).all()):
        return
    if (batch.diff() < 0).any():
        raise ValueError(
            "'batch' must be sorted, so that molecules are contiguous: reorder the atoms by "
            "'order = batch.argsort(stable=True)' first"
        )
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
    cells, periodic = shape_cells(pos, batch, cell, pbc)
    num_systems = cells.size(0)
    if not math.isfinite(r) and bool(periodic.any()):
        raise ValueError(
            f"'r' must be finite for periodic systems (got {r}): every atom has infinitely many "
            "images; a model without envelope has no cutoff and suits molecules only"
        )
    sound = cells.isfinite().all()
    if batch is not None and batch.numel() > 0:
        sound &= batch[-1] < num_systems
    if bool(sound):  # one look for both: on a GPU it waits
        return cells, periodic
    _check_count(batch, num_systems)
    system = int((~cells.isfinite().flatten(1).all(dim=1)).nonzero()[0])
    raise ValueError(
        f"lattice vectors must be finite (got {cells[system].tolist()} for system {system})"
    )


def shape_cells(
    pos: Tensor, batch: Tensor | None, cell: Tensor, pbc: Tensor | bool | None
) -> tuple[Tensor, Tensor]:
    """What :func:`unify_cells` returns, without a look at values, for which a GPU would wait.

    Raises:
        TypeError: If ``cell`` or ``pbc`` hold the wrong kind of numbers.
        ValueError: If shapes do not match.
    """
    check_tensor("cell", cell)
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
    if pbc is None or isinstance(pbc, bool):
        periodic = torch.full((), pbc is None or pbc, device=pos.device)  # copies nothing there
    else:
        periodic = torch.as_tensor(pbc, device=pos.device)
    if periodic.dtype != torch.bool:
        raise TypeError(f"'pbc' must hold bools (got {periodic.dtype}): use pbc.bool()")
    if periodic.shape not in ((), (3,), (num_systems, 3)):
        _check_count(batch, num_systems)  # if there are too few cells, these are to blame
        raise ValueError(
            f"'pbc' must be a bool, or have shape [3] or [{num_systems}, 3] "
            f"(got {list(periodic.shape)})"
        )
    return cells.to(pos.device, pos.dtype), periodic.expand(num_systems, 3)


def _check_count(batch: Tensor | None, num_systems: int) -> None:
    if batch is not None and batch.numel() > 0 and int(batch[-1]) >= num_systems:
        raise ValueError(
            f"'cell' must have one row per system (got {num_systems} cells for "
            f"{int(batch[-1]) + 1} systems in 'batch')"
        )
