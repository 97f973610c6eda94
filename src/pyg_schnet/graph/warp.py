r"""Neighbours by NVIDIA's nvalchemi-toolkit-ops, with kernels for GPUs; its own run on CPUs too."""

from typing import Any

import torch
from torch import Tensor

from .lattice import Lattice, bounds, by_system, completed, from_first, safe_radius, sizes_of
from .pairs import images_within, in_order


def warp_pairs(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice, periodic: bool
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of systems with cells or without.

    The search itself runs in double precision with a slightly larger radius. Which pairs count is
    decided afterwards, by distances in the arithmetic of the model.

    Args:
        pos: Positions, ``[N, 3]``.
        r: Radius, finite.
        batch: System of each atom, ``[N]``; all in the first one if ``None``.
        lattice: Cells of the systems.
        periodic: Whether any of them is.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        from nvalchemiops.torch.neighbors import NeighborOverflowError, neighbor_list
    except ImportError as error:
        raise ImportError(
            "backend='nvalchemi' needs the package nvalchemi-toolkit-ops: "
            "pip install pyg-schnet[gpu], or use backend='cells'"
        ) from error

    num_systems = lattice.radius.size(0)
    members = pos.new_zeros(pos.size(0), dtype=torch.long) if batch is None else batch.long()
    centred = from_first(pos, batch, num_systems)
    along = (lattice.dual != 0).any(dim=1)  # [B, 3]
    # Along open directions a box around the atoms, which must lie in it.
    vectors = completed(lattice.vectors.double(), along)
    heights = by_system(centred, vectors.mT, members)  # along unit vectors, where open
    low, high = bounds(heights, members, num_systems)
    low, size = torch.where(along, 0.0, low), torch.where(along, 1.0, high - low + r)
    place = centred - by_system(low, vectors, torch.arange(num_systems, device=pos.device))[members]
    options: dict[str, Any] = {}
    if num_systems > 1:
        starts = sizes_of(pos, batch, num_systems).cumsum(0)
        options["batch_idx"] = members.int()
        options["batch_ptr"] = torch.cat([starts.new_zeros(1), starts]).int()
    radius = float(safe_radius(centred, r, members, lattice).max())
    while True:
        try:
            pairs, _, images = neighbor_list(
                place,
                radius,
                cell=vectors * size.unsqueeze(2),
                pbc=along,
                # The other methods see pairs twice where atoms are outside of an open box, or
                # where the cell is left-handed (0.5.0).
                method="cell_list",
                return_neighbor_list=True,
                **options,
            )
            break
        except NeighborOverflowError as overflow:  # of what it takes for usual densities
            options["max_neighbors"] = overflow.num_neighbors
    edges, shifts = pairs.long().flip(0), images.to(pos.dtype)
    edges, shifts = images_within(pos, r, batch, lattice.vectors, edges, shifts)
    edges, shifts = in_order(pos, batch, lattice.vectors, edges, shifts)
    return edges, shifts if periodic else shifts[:0]
