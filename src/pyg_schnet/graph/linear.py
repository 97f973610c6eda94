r"""Neighbours by a cell list, in time linear in the number of atoms: best for large systems."""

import numpy as np
import torch
from torch import Tensor

from ..ops import dispatch
from .lattice import Lattice, completed
from .pairs import all_images, all_pairs, images_within, in_order

# Vesin refuses radii next to nothing.
_SHORTEST = 1e-3
# Of how many boxes vesin 0.6 makes larger ones, by one factor for all three axes. An axis that has
# few may end up with none, by which it then divides, and that ends the process.
_MOST_BOXES = 1e5
_FEWEST = 4.0
# By how much the radius may grow to make fewer boxes; the pairs grow by up to its cube.
_LARGEST_FACTOR = 4.0


def linear_pairs(pos: Tensor, r: float, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of one system, open or periodic.

    The search itself, by vesin, runs on the CPU in double precision with a slightly larger radius.
    Which pairs count is decided afterwards, by distances in the arithmetic of the model.
    """
    from vesin import NeighborList  # not above: it imports ASE where that is installed

    along = (lattice.dual != 0).any(dim=1)  # [1, 3]
    box = completed(lattice.vectors.double(), along)[0].cpu().numpy()
    periodic = along[0].cpu().numpy()
    places = pos.double().cpu().numpy()
    radius = _search_radius(places, max(float(lattice.radius[0]), _SHORTEST), box, periodic)
    if radius is None:
        if periodic.any():
            return all_images(pos, r, None, lattice)
        edges = all_pairs(pos, r, None)
        return edges, pos.new_zeros(edges.size(1), 3)
    search = NeighborList(
        cutoff=radius,
        full_list=False,
        n_threads=1 if dispatch.forked else torch.get_num_threads(),
    )
    pairs, images = search.compute(places, box, periodic, "PS", copy=False)
    pairs = pairs.view(np.int64)
    if dispatch.use_cpu_kernels(pos):
        from . import kernels

        half = kernels.half_list(
            pos.contiguous().numpy(), lattice.vectors.numpy(), pairs, images, float(r)
        )
        arrays = kernels.both_ways(*half, pos.size(0))
        return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
    second, first = torch.from_numpy(pairs).to(pos.device).T.flip(0)
    shift = torch.from_numpy(images).to(pos.device, pos.dtype)
    edges = torch.stack([torch.cat([second, first]), torch.cat([first, second])])
    shifts = torch.cat([shift, 0.0 - shift])
    edges, shifts = images_within(pos, r, None, lattice.vectors, edges, shifts)
    return in_order(pos, None, lattice.vectors, edges, shifts)


def _search_radius(
    pos: np.ndarray, radius: float, box: np.ndarray, periodic: np.ndarray
) -> float | None:
    """A radius, at least that wanted, at which vesin makes boxes along all axes.

    Args:
        pos: Positions ``[N, 3]``.
        radius: Radius that is wanted.
        box: Lattice vectors in rows, of length one along open directions.
        periodic: Periodic directions ``[3]``.

    Returns:
        The radius; ``None`` where that would be too large, as of an atom that flew off.
    """
    inverse = np.linalg.inv(box)
    with np.errstate(over="ignore"):  # to infinity, which is too large
        spread = np.ptp(pos @ inverse, axis=0)
        spans = np.where(periodic, 1.0, spread) / np.linalg.norm(inverse, axis=0)
        factor = 1.0
        while factor <= _LARGEST_FACTOR:
            boxes = np.maximum(spans / (factor * radius), 1.0)
            shrunk = boxes * (_MOST_BOXES / boxes.prod()) ** (1.0 / 3.0)
            if boxes.prod() <= _MOST_BOXES or shrunk.min() >= _FEWEST:
                return factor * radius
            factor *= 1.1
    return None
