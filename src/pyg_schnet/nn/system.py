"""What a network is asked about: atoms, their molecules or cells, and maybe their edges."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..graph.checks import check_open, unify_cells
from . import checks

if TYPE_CHECKING:
    from .schnet import SchNet


class System(NamedTuple):
    """Molecules, periodic systems, or a batch of them, as given.

    Attributes:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, D]``.
        batch: System of each atom ``[N]``; all are one if ``None``.
        edge_index: Edges ``[2, E]``; found within the cutoff if ``None``.
        edge_shift: Lattice vectors by which the source of each edge is displaced, ``[E, 3]``.
        cell: Lattice vectors in rows, ``[B, 3, 3]`` or ``[3, 3]``; nothing is periodic if ``None``.
        pbc: Along which of them a system repeats: a bool, ``[3]`` or ``[B, 3]``; all if ``None``.
        batch_size: Number B of systems; counted if ``None``.
    """

    z: Tensor
    pos: Tensor
    batch: Tensor | None = None
    edge_index: Tensor | None = None
    edge_shift: Tensor | None = None
    cell: Tensor | None = None
    pbc: Tensor | bool | None = None
    batch_size: int | None = None


class CheckedSystem(NamedTuple):
    """The same with nothing left open but the edges.

    Attributes:
        z: Atomic numbers ``[N]`` int64.
        pos: Positions ``[N, D]``.
        batch: System of each atom ``[N]``.
        batch_size: Number B of systems.
        edge_index: Edges ``[2, E]``; found within the cutoff if ``None``.
        edge_shift: Lattice vectors by which the source of each edge is displaced, ``[E, 3]``.
        cell: Lattice vectors in rows, ``[B, 3, 3]``; nothing is periodic if ``None``.
        pbc: Along which of them a system repeats, ``[B, 3]``, if there are any.
    """

    z: Tensor
    pos: Tensor
    batch: Tensor
    batch_size: int
    edge_index: Tensor | None
    edge_shift: Tensor | None
    cell: Tensor | None
    pbc: Tensor | None


def reach(model: "SchNet") -> float:
    """Radius within which a model wants all neighbours."""
    return math.inf if model.envelope == "none" else model.cutoff


def check_system(model: "SchNet", system: System) -> CheckedSystem:
    """Checks what a model is given; while compiling, fills in only.

    Raises:
        TypeError: If a tensor has the wrong kind of numbers.
        ValueError: If anything else is wrong with the atoms, cells or edges.
    """
    z, pos, batch, edge_index, edge_shift, cell, pbc, batch_size = system
    compiling = torch.compiler.is_compiling()
    if not compiling:
        checks.check_atoms(z, pos, batch, batch_size)
        if model.refuse_unknown_species:
            checks.check_species(z, model.species)
    z = z.long()
    if batch is None:
        batch, batch_size = torch.zeros_like(z), batch_size or 1
    elif batch_size is None:
        batch_size = int(batch[-1]) + 1 if batch.numel() > 0 else 0
    if edge_shift is not None and (cell is None or edge_index is None):
        raise ValueError(
            "'edge_shift' needs the edges that it belongs to, 'edge_index', and the 'cell' whose "
            "vectors it counts (got None)"
        )
    if cell is None:
        if not compiling:
            check_open(pbc)
        periodic = None
    elif compiling:
        periodic = pbc if isinstance(pbc, Tensor) else None
    else:
        cell, periodic = _check_cells(model, system, batch, batch_size)
    if edge_index is not None and not compiling:
        checks.check_edges(edge_index, batch)
        if edge_shift is not None:
            assert periodic is not None
            checks.check_shifts(edge_shift, edge_index, batch, periodic)
    return CheckedSystem(z, pos, batch, batch_size, edge_index, edge_shift, cell, periodic)


def _check_cells(
    model: "SchNet", system: System, batch: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    assert system.cell is not None
    cell, periodic = unify_cells(system.pos, reach(model), batch, system.cell, system.pbc)
    if cell.size(0) != batch_size:
        raise ValueError(
            f"'cell' must have one row per system (got {cell.size(0)} for {batch_size} systems)"
        )
    if not bool(periodic.any()):
        return cell, periodic
    if model.config["dipole"]:
        raise ValueError("the dipole moment of a periodic system depends on the choice of origin")
    if system.edge_index is not None and system.edge_shift is None:
        raise ValueError(
            "edges of a periodic system need 'edge_shift', the images they lead to; "
            "pyg_schnet.radius_graph(..., cell=cell) returns both"
        )
    if system.edge_index is None and model.interaction_graph is not None:
        raise ValueError(
            "the 'interaction_graph' of this model is not told of periodic cells: give "
            "'edge_index' and 'edge_shift', or build the model without 'interaction_graph'"
        )
    return cell, periodic
