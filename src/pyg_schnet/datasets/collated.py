r"""Many molecules in one set of tensors, as PyG's ``InMemoryDataset`` keeps them.

The atoms of all molecules lie one after the other, and ``slices`` says where each molecule
starts. All functions work on these tensors as a whole; :func:`split` alone makes one object per
molecule.
"""

import copy
import os
import uuid
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.separate import separate

from ..graph import RadiusGraph, check_atoms, molecule_edges

# PyG keeps a lone molecule as itself, with no slices.
Slices = dict[str, Tensor] | None


def collate(
    num_atoms: Tensor,
    atoms: Mapping[str, Tensor],
    molecules: Mapping[str, Tensor | list[str]],
) -> tuple[Data, Slices]:
    r"""Arranges flat tensors of B molecules for an ``InMemoryDataset``.

    Args:
        num_atoms: Atoms of each molecule, ``[B]``.
        atoms: Tensors with one row per atom, ``[N, ...]`` with ``N = num_atoms.sum()``.
        molecules: Tensors with one row per molecule, ``[B, ...]``, or B strings.

    Returns:
        ``data`` and ``slices`` as ``InMemoryDataset.collate`` gives them for a list of molecules.

    Raises:
        ValueError: If there are no molecules, or if an entry has the wrong number of rows.

    >>> import torch
    >>> data, slices = collate(
    ...     torch.tensor([1, 2]), {"z": torch.tensor([2, 1, 1])}, {"name": ["He", "H2"]}
    ... )
    >>> slices
    {'z': tensor([0, 1, 3]), 'name': tensor([0, 1, 2])}
    """
    size = num_atoms.numel()
    if size == 0:
        raise ValueError("there are no molecules to collate")
    total = int(num_atoms.sum())
    rows = dict.fromkeys(atoms, total) | dict.fromkeys(molecules, size)
    entries: dict[str, Tensor | list[str]] = {**atoms, **molecules}
    for key, value in entries.items():
        if len(value) != rows[key]:
            raise ValueError(f"'{key}' has {len(value)} rows, but {rows[key]} are needed")
    if size == 1:
        return Data(**{k: v if isinstance(v, Tensor) else v[0] for k, v in entries.items()}), None
    by_atom = _offsets(num_atoms)
    by_molecule = torch.arange(size + 1)
    slices = dict.fromkeys(atoms, by_atom) | dict.fromkeys(molecules, by_molecule)
    return Data(**entries), slices


def add_edges(data: Data, slices: Slices, cutoff: float) -> tuple[Data, Slices]:
    r"""Adds the radius graph of every molecule.

    The result is what :class:`~pyg_schnet.graph.RadiusGraph` gives for each molecule, but comes
    from one pass over all atoms.

    Args:
        data: Collated molecules with ``pos`` ``[N, 3]``; not changed.
        slices: Where each molecule starts.
        cutoff: Radius in the unit of ``pos``.

    Returns:
        ``data`` and ``slices`` with ``edge_index`` ``[2, E]`` (indices within the molecule), the
        distances ``edge_weight`` ``[E]`` and the radius ``cutoff`` ``[B]`` besides.

    Raises:
        ValueError: If there are edges already, or if ``cutoff`` is not positive.
    """
    if data.edge_index is not None:
        raise ValueError(
            "the molecules have an 'edge_index' already, from pre_transform: leave out either "
            "that or 'cutoff'"
        )
    if slices is None:
        return RadiusGraph(cutoff)(data), None
    starts = slices["pos"]  # [B + 1]
    check_atoms(data.pos, cutoff, None)
    cell, pbc = data.get("cell"), data.get("pbc")
    edge_index, edge_weight, edge_starts, edge_shift = molecule_edges(
        data.pos, cutoff, starts, cell, pbc
    )
    edge_index -= starts[:-1].repeat_interleave(edge_starts.diff())
    data = copy.copy(data)
    data.edge_index, data.edge_weight = edge_index, edge_weight
    size = starts.numel() - 1
    data.cutoff = torch.full((size,), float(cutoff))
    added = dict.fromkeys(("edge_index", "edge_weight"), edge_starts)
    if edge_shift is not None:
        data.edge_shift = edge_shift
        added["edge_shift"] = edge_starts
    return data, {**slices, **added, "cutoff": torch.arange(size + 1)}


def gather(value: Tensor, starts: Tensor, molecules: Tensor) -> Tensor:
    r"""The rows of some molecules, one after the other.

    Args:
        value: Rows of all molecules, ``[N, ...]``.
        starts: Where each of them starts, and where the last one ends, ``[B + 1]``.
        molecules: Which ones, ``[M]`` int64; one may come twice.

    >>> gather(torch.tensor([10, 20, 21, 30]), torch.tensor([0, 1, 3, 4]), torch.tensor([2, 1]))
    tensor([30, 20, 21])
    """
    counts = starts.diff()[molecules]
    new_starts = counts.cumsum(0) - counts
    shift = (starts[molecules] - new_starts).repeat_interleave(counts)
    return value[(torch.arange(shift.numel()) + shift).to(value.device)]


def split(data: Data, slices: Slices) -> Iterator[Data]:
    """Yields the molecules one by one."""
    if slices is None:
        yield data
        return
    for i in range(next(iter(slices.values())).numel() - 1):
        yield separate(Data, data, i, slices, decrement=False)


def save(data: Data, slices: Slices, path: str) -> None:
    r"""Saves collated molecules in the format of ``InMemoryDataset.load``, entirely or not at all.

    They are written to a temporary file beside ``path`` that then takes its place, so that an
    interruption leaves no half of a file behind, nor do two processes write into one.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        torch.save((data.to_dict(), slices, data.__class__), temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _offsets(counts: Tensor) -> Tensor:
    """Running sum from zero: ``[B]`` to ``[B + 1]``."""
    return torch.cat([counts.new_zeros(1, dtype=torch.long), counts.cumsum(0)])
