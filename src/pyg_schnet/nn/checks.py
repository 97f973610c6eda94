r"""Checks of what goes into the network: bad input must never give a wrong number in silence."""

import math

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES


def check_atoms(
    z: Tensor, pos: Tensor, batch: Tensor | None, batch_size: int | None = None
) -> None:
    """Checks atomic numbers, positions and their assignment to molecules.

    Args:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, D]``.
        batch: Molecule of each atom ``[N]`` or ``None``.
        batch_size: Number of molecules, if it is known.

    Raises:
        TypeError: If a tensor has the wrong kind of numbers.
        ValueError: If anything else is wrong; the message names the atom and the value.
    """
    if z.is_floating_point() or z.dtype == torch.bool:
        raise TypeError(f"'z' must hold integers, the atomic numbers (got {z.dtype})")
    if z.dim() != 1:
        raise ValueError(f"'z' must have shape [N] (got {list(z.shape)})")
    if not pos.is_floating_point():
        raise TypeError(f"'pos' must hold floating-point numbers (got {pos.dtype})")
    if pos.dim() != 2 or pos.size(0) != z.size(0):
        raise ValueError(
            f"'pos' must have one row per atom, [{z.size(0)}, D] (got {list(pos.shape)})"
        )
    if batch is not None and batch.shape != z.shape:
        raise ValueError(
            f"'batch' must have one entry per atom, [{z.size(0)}] (got {list(batch.shape)})"
        )
    if batch is not None and (batch.is_floating_point() or batch.dtype == torch.bool):
        raise TypeError(f"'batch' must hold integers (got {batch.dtype})")
    if z.numel() == 0:
        return
    # What is not finite shows in the sum; so may an overflow, hence the second look.
    if not (math.isfinite(float(pos.detach().sum())) or bool(pos.detach().isfinite().all())):
        atom = int((~pos.detach().isfinite().all(dim=-1)).nonzero()[0])
        raise ValueError(
            f"positions must be finite (got {pos[atom].detach().tolist()} for atom {atom})"
        )
    low, high = z.aminmax()
    if int(low) < 0 or int(high) >= NUM_SPECIES:
        atom = int(((z < 0) | (z >= NUM_SPECIES)).nonzero()[0])
        raise ValueError(f"atomic numbers must be 1 to 100 (got {int(z[atom])} for atom {atom})")
    if batch is None:
        return
    if bool((batch.diff() < 0).any()):
        raise ValueError(
            "'batch' must be sorted, so that molecules are contiguous: reorder the atoms by "
            "'order = batch.argsort(stable=True)' first"
        )
    if int(batch[0]) < 0 or (batch_size is not None and int(batch[-1]) >= batch_size):
        raise ValueError(
            f"'batch' must number the molecules from 0 to batch_size - 1 (got {int(batch[0])} to "
            f"{int(batch[-1])}, batch_size {batch_size})"
        )


def check_edges(edge_index: Tensor, batch: Tensor) -> None:
    """Checks edges that were given and not searched.

    Args:
        edge_index: Edges ``[2, E]``.
        batch: Molecule of each atom ``[N]``.

    Raises:
        TypeError: If they are no integers.
        ValueError: If an index is out of range or an edge joins two molecules.
    """
    if edge_index.dtype != torch.long:
        raise TypeError(f"'edge_index' must be int64 (got {edge_index.dtype})")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"'edge_index' must have shape [2, E] (got {list(edge_index.shape)})")
    if edge_index.numel() == 0:
        return
    low, high = (int(bound) for bound in edge_index.aminmax())
    if low < 0 or high >= batch.numel():
        raise ValueError(
            f"'edge_index' must hold atoms from 0 to {batch.numel() - 1} (got {low} to {high})"
        )
    apart = batch.index_select(0, edge_index[0]) != batch.index_select(0, edge_index[1])
    if apart.any():
        j, i = edge_index[:, int(apart.nonzero()[0])].tolist()
        raise ValueError(f"an edge joins atoms {j} and {i}, which belong to different molecules")


def check_species(z: Tensor, species: Tensor) -> None:
    """Refuses atoms of a kind that the model has never seen.

    Args:
        z: Atomic numbers ``[N]``, 0 to 100.
        species: Which of them the model knows, bool ``[101]``.

    Raises:
        ValueError: Naming the first such atom.
    """
    if not (known := species[z.long()]).all():
        atom = int((~known).nonzero()[0])
        raise ValueError(
            f"the model was not trained on atomic number {int(z[atom])} (atom {atom}), only on "
            f"{species[1:].nonzero().flatten().add(1).tolist()}; its output would mean nothing"
        )


def check_distances(edge_index: Tensor, edge_weight: Tensor) -> None:
    """Refuses atoms at the same place, where a force has no direction.

    Raises:
        ValueError: Naming the first such pair.
    """
    if not (apart := edge_weight.detach() > 0).all():
        edge = int((~apart).nonzero()[0])
        j, i = edge_index[:, edge].tolist()
        raise ValueError(
            f"atoms {i} and {j} are at the same place (distance {float(edge_weight[edge]):g} A): "
            "check the structure for duplicated atoms, or self-loops in 'edge_index'"
        )


def check_interaction_graph(edge_weight: Tensor, pos: Tensor) -> None:
    """Refuses distances that forget the positions, which would give zero forces.

    Raises:
        ValueError: If ``pos`` requires gradients and ``edge_weight`` does not carry them.
    """
    if pos.requires_grad and edge_weight.numel() > 0 and not edge_weight.requires_grad:
        raise ValueError(
            "'interaction_graph' returned distances without gradients, so forces would be zero; "
            "compute them from 'pos' by differentiable operations, as pyg_schnet.edge_lengths does"
        )
