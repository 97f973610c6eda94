r"""Checks of what goes into the network: bad input must never give a wrong number in silence."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES
from ..graph.checks import check_batch, check_positions, check_tensor
from ..ops.geometry import are_sound


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
    check_tensor("z", z)
    if z.is_floating_point() or z.is_complex() or z.dtype == torch.bool:
        raise TypeError(f"'z' must hold integers, the atomic numbers (got {z.dtype})")
    if z.dim() != 1:
        raise ValueError(f"'z' must have shape [N] (got {list(z.shape)})")
    check_positions(pos)
    if pos.size(0) != z.size(0):
        raise ValueError(
            f"'pos' must have one row per atom, [{z.size(0)}, D] (got {list(pos.shape)})"
        )
    if batch is not None:
        check_batch(batch, z.size(0))
    if z.numel() == 0:
        return
    low, high = z.aminmax()
    if int(low) < 0 or int(high) >= NUM_SPECIES:
        atom = int(((z < 0) | (z >= NUM_SPECIES)).nonzero()[0])
        raise ValueError(f"atomic numbers must be 1 to 100 (got {int(z[atom])} for atom {atom})")
    if batch is not None and batch_size is not None and int(batch[-1]) >= batch_size:
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
    check_tensor("edge_index", edge_index)
    if edge_index.dtype != torch.long:
        raise TypeError(f"'edge_index' must be int64 (got {edge_index.dtype})")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"'edge_index' must have shape [2, E] (got {list(edge_index.shape)})")
    if edge_index.numel() == 0 or are_sound(edge_index, batch):
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


def check_shifts(edge_shift: Tensor, edge_index: Tensor, batch: Tensor, periodic: Tensor) -> None:
    """Checks the images that given edges lead to.

    Args:
        edge_shift: Lattice vectors by which the source of each edge is displaced, ``[E, 3]``.
        edge_index: Edges ``[2, E]``.
        batch: System of each atom ``[N]``.
        periodic: Along which directions each system repeats, ``[B, 3]``.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If there is not one row per edge, or a row is no image of its system.
    """
    check_tensor("edge_shift", edge_shift)
    if edge_shift.dtype == torch.bool or edge_shift.is_complex():
        raise TypeError(f"'edge_shift' must hold numbers (got {edge_shift.dtype})")
    if edge_shift.shape != (edge_index.size(1), 3):
        raise ValueError(
            f"'edge_shift' must have shape [{edge_index.size(1)}, 3], a row per edge "
            f"(got {list(edge_shift.shape)})"
        )
    whole = edge_shift == edge_shift.round()  # NaN is not
    if not whole.all():
        edge = int((~whole).any(dim=1).nonzero()[0])
        raise ValueError(
            f"'edge_shift' must count lattice vectors, in whole numbers (got "
            f"{edge_shift[edge].tolist()} for edge {edge}): are these distances?"
        )
    if bool(periodic.all()):
        return
    outside = (edge_shift != 0) & ~periodic[batch[edge_index[0]]]
    if outside.any():
        edge = int(outside.any(dim=1).nonzero()[0])
        along = periodic[batch[edge_index[0, edge]]].tolist()
        raise ValueError(
            f"edge {edge} leads along a direction that is not periodic (got 'edge_shift' "
            f"{edge_shift[edge].tolist()} with 'pbc' {along})"
        )


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


def check_filters(filters: Sequence[Callable], cutoff: float, envelope: str) -> None:
    """Refuses filters that do not fit the neighbours of a network.

    Raises:
        ValueError: If blocks share one, or one reaches beyond the neighbours, where the energy
            would jump.
    """
    if len(set(map(id, filters))) < len(filters):
        raise ValueError(
            "'filter' must make a new filter at each call, since every block has its own: give a "
            "function such as 'lambda: RadialFilter(...)', which builds it"
        )
    for filter in filters:
        reach = getattr(filter, "d_max", 0.0)
        if envelope != "none" and math.isfinite(reach) and reach > cutoff * (1 + 1e-6):
            raise ValueError(
                f"the {type(filter).__name__} reaches to {reach:g} A, the neighbours to 'cutoff', "
                f"{cutoff:g} A: make them equal, or take all pairs by envelope='none'"
            )


def check_read(read: object) -> tuple[Tensor, Tensor]:
    """What a readout gave, which may be one of the user's own."""
    if not (isinstance(read, tuple) and len(read) == 2):
        raise TypeError(
            "a readout must return two tensors, the property [B, 1] and contributions of the atoms "
            f"[N] (got {type(read).__name__}); for heads of another kind there is "
            "model.features(data)"
        )
    return read


def check_edge_weight(edge_weight: Tensor | None) -> None:
    """Refuses distances of edges that are missing or no vector."""
    if edge_weight is None:
        raise ValueError(
            "SchNetConv needs the distances 'edge_weight' [E], or an 'edge_attr' for filters "
            "that do not take distances; pyg_schnet.RadiusGraph stores distances in the data"
        )
    if edge_weight.dim() != 1:
        raise ValueError(
            f"'edge_weight' must have shape [E] (got {list(edge_weight.shape)}); "
            "flatten the distances"
        )


def check_range(distances: Tensor) -> None:
    """Refuses distances that are negative or not finite."""
    if distances.numel() == 0:
        return
    least, most = distances.detach().aminmax()
    if not (least >= 0 and most < math.inf):
        raise ValueError(
            "'edge_weight' must hold distances: not negative, and finite "
            f"(got {float(least):g} to {float(most):g})"
        )


def longest(distances: Tensor) -> float:
    """The longest of some distances, which must be finite; 0 if there are none."""
    most = float(distances.detach().max()) if distances.numel() > 0 else 0.0
    if not most < math.inf:
        raise ValueError(f"distances must be finite (got {most:g}): check the positions")
    return most
