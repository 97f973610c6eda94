"""The edges of many molecules that lie one after the other, with where those of each begin."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.dispatch import use_cpu_kernels
from .distance import edge_lengths
from .search import neighbors, periodic_neighbors

# Pairs of atoms within molecules that fit into a few MB.
_MAX_CANDIDATES = 1 << 22
# Edges measured at once: bounds the memory of the gathered [E, 3] positions.
_EDGES_AT_ONCE = 1 << 22


class MoleculeEdges(NamedTuple):
    """Edges of several molecules.

    Attributes:
        edge_index: Edges between all of their atoms, ``[2, E]``.
        edge_weight: Their lengths, ``[E]``.
        starts: Where the edges of each molecule begin, ``[B + 1]`` from 0 to E.
        edge_shift: Images that they lead to, ``[E, 3]``, if there are cells.
    """

    edge_index: Tensor
    edge_weight: Tensor
    starts: Tensor
    edge_shift: Tensor | None = None


def molecule_edges(
    pos: Tensor, r: float, ptr: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None
) -> MoleculeEdges:
    r"""What :class:`RadiusGraph` stores for each of several molecules, in one pass.

    Args:
        pos: Positions of all atoms on the CPU, ``[N, D]``, finite.
        r: Radius in the unit of ``pos``.
        ptr: Where each of B molecules begins, ``[B + 1]`` from 0 to N.
        cell: Lattice vectors in rows, ``[B, 3, 3]``; those of molecules do not matter.
        pbc: Along which of them a system repeats, ``[B, 3]``; all if ``None``.
    """
    pos = pos.detach()
    periodic = cell is not None and (pbc is None or bool(pbc.any()))
    if not periodic and pos.size(1) == 3 and use_cpu_kernels(pos) and _are_small(ptr):
        from ..ops import geometry_kernels

        arrays = geometry_kernels.molecules_within(pos.contiguous().numpy(), ptr.numpy(), float(r))
        edge_index, squared, starts = map(torch.from_numpy, arrays)
        shift = None if cell is None else pos.new_zeros(squared.numel(), 3)
        # Not a root of Numba's: PyTorch's may differ in the last bit.
        return MoleculeEdges(edge_index, squared.sqrt(), starts, shift)
    batch = torch.arange(ptr.numel() - 1).repeat_interleave(ptr.diff())
    shift = None
    if cell is None:
        edge_index = neighbors(pos, r, batch)
    else:
        edge_index, shift = periodic_neighbors(pos, r, batch, cell, pbc)
    lengths = [
        edge_lengths(pos, edge_index[:, at], None if shift is None else shift[at], cell, batch)
        for at in _parts(edge_index.size(1))
    ]
    # Edges are sorted by target: those of a molecule end where the next one's atoms begin.
    starts = torch.searchsorted(edge_index[1].contiguous(), ptr)
    return MoleculeEdges(edge_index, torch.cat(lengths), starts, shift)


def _parts(count: int) -> list[slice]:
    return [slice(at, at + _EDGES_AT_ONCE) for at in range(0, max(count, 1), _EDGES_AT_ONCE)]


def _are_small(ptr: Tensor) -> bool:
    bound = int(ptr[-1]) ** 2
    return bound <= _MAX_CANDIDATES or int(ptr.diff().square().sum()) <= _MAX_CANDIDATES
