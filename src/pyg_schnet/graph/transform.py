r"""The neighbour search as a transform of ``Data`` objects."""

import torch
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from .distance import edge_lengths
from .search import radius_graph


class RadiusGraph(BaseTransform):
    r"""Stores the radius graph of a molecule or a periodic system in its ``Data`` object.

    Sets ``edge_index`` ``[2, E]``, the distances ``edge_weight`` ``[E]`` and, unless neighbours may
    have been dropped, the radius itself as ``cutoff`` ``[1]``, by which a model notices edges too
    short for it. Where the data have a ``cell``, also ``edge_shift`` ``[E, 3]``; ``cell`` and
    ``pbc`` are then brought to the shapes ``[1, 3, 3]`` and ``[1, 3]`` by which PyG can batch them.
    A system without periodicity can join such a batch by a ``cell`` of zeros with ``pbc`` false.

    Args:
        r: Radius in the unit of ``pos``.
        max_num_neighbors: See :func:`radius_graph`.
        backend: See :func:`radius_graph`.

    >>> import torch
    >>> from torch_geometric.data import Data
    >>> salt = Data(z=torch.tensor([11, 17]), pos=torch.tensor([[0.0, 0, 0], [2.8, 0, 0]]))
    >>> salt.cell = torch.tensor([[2.8, 2.8, 0.0], [2.8, 0, 2.8], [0, 2.8, 2.8]])
    >>> RadiusGraph(3.0)(salt)
    Data(pos=[2, 3], z=[2], cell=[1, 3, 3], pbc=[1, 3], edge_index=[2, 12], ...)
    """

    def __init__(self, r: float, max_num_neighbors: int | None = None, backend: str = "auto"):
        if not r > 0:
            raise ValueError(f"'r' must be positive (got {r})")
        self.r = r
        self.max_num_neighbors = max_num_neighbors
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Adds edges to ``data``, which needs ``pos`` and may have ``batch``, ``cell``, ``pbc``."""
        if data.pos is None:
            raise ValueError("RadiusGraph needs positions, but 'data.pos' is None")
        if data.edge_attr is not None:
            raise ValueError(
                "RadiusGraph would replace 'edge_index' and leave 'edge_attr' behind: chemical "
                "bonds belong in 'bond_index' and 'bond_attr'"
            )
        cell, pbc, limit = data.get("cell"), data.get("pbc"), self.max_num_neighbors
        shifts = None
        if cell is None:
            edges = radius_graph(
                data.pos, self.r, data.batch, None, pbc, limit, backend=self.backend
            )
            lengths = edge_lengths(data.pos, edges)
        else:
            edges, shifts = radius_graph(
                data.pos, self.r, data.batch, cell, pbc, limit, backend=self.backend
            )
            data.cell = cell.view(-1, 3, 3)
            periodic = torch.as_tensor(True if pbc is None else pbc)
            data.pbc = periodic.expand(data.cell.size(0), 3).clone()
            lengths = edge_lengths(data.pos, edges, shifts, data.cell, data.batch)
        for stale in ("edge_shift", "cutoff"):
            if stale in data:
                del data[stale]
        data.edge_index, data.edge_weight = edges, lengths
        if shifts is not None:
            data.edge_shift = shifts
        if limit is None or int(torch.bincount(edges[1], minlength=1).max()) < limit:
            num_graphs = 1 if data.batch is None else num_molecules(data)
            data.cutoff = torch.full((num_graphs,), float(self.r))
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(r={self.r})"


def num_molecules(data: Data) -> int:
    """Number of molecules of a batch, also of one that was put together by hand."""
    if isinstance(data, Batch):
        return data.num_graphs
    if data.batch is None:
        return 1
    return int(data.batch.max()) + 1 if data.batch.numel() > 0 else 0
