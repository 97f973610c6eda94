r"""Neighbours by a cell list, in time linear in the number of atoms: best for large systems."""

import numpy as np
import torch
from torch import Tensor

from ..ops import dispatch
from .lattice import Lattice, completed
from .pairs import images_within, in_order


def linear_pairs(pos: Tensor, r: float, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of one system, open or periodic.

    The search itself, by vesin, runs on the CPU in double precision with a slightly larger radius.
    Which pairs count is decided afterwards, by distances in the arithmetic of the model.
    """
    from vesin import NeighborList  # not above: it imports ASE where that is installed

    along = (lattice.dual != 0).any(dim=1)  # [1, 3]
    box = completed(lattice.vectors.double(), along)[0].cpu().numpy()
    search = NeighborList(
        cutoff=float(lattice.radius[0]),
        full_list=False,
        n_threads=1 if dispatch.forked else torch.get_num_threads(),
    )
    pairs, images = search.compute(
        pos.double().cpu().numpy(), box, along[0].cpu().numpy(), "PS", copy=False
    )
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
