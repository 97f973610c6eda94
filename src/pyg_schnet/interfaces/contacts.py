r"""Atoms so close together that no training set has anything like it."""

from torch import Tensor

from ..graph import NeighborList, edge_lengths

# Sums of covalent radii are lengths of single bonds. The shortest bond there is, that of N2, has
# 0.77 of it; half is a collision. At 300 K no pair comes that close.
_FRACTION = 0.5


class Contacts:
    r"""Finds pairs of atoms closer than half the sum of their covalent radii.

    The radii are those of `Cordero et al. 2008 <https://doi.org/10.1039/b801115j>`_. A kept
    neighbour list makes it cheap along a trajectory.

    Args:
        radii: Covalent radius of each atomic number, in angstrom.

    >>> import torch
    >>> from ase.data import covalent_radii
    >>> contacts = Contacts(torch.from_numpy(covalent_radii))
    >>> contacts(torch.tensor([1, 8]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]]))
    'atoms 0 (Z = 1) and 1 (Z = 8) are 0.400 A apart, less than half the sum of their covalent ...'
    """

    def __init__(self, radii: Tensor):
        self._radii = _FRACTION * radii
        self._neighbors: NeighborList | None = None

    def __call__(
        self, z: Tensor, pos: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> str | None:
        """Describes the closest such pair.

        Args:
            z: Atomic numbers ``[N]``.
            pos: Positions ``[N, 3]``.
            cell: Lattice vectors in rows ``[1, 3, 3]``, of a periodic system.
            pbc: Along which of them it repeats, ``[1, 3]``.

        Returns:
            A sentence, or ``None`` if there is no such pair.
        """
        radii = self._radii.to(pos)[z]  # [N]
        longest = 2.0 * float(radii.max())
        if self._neighbors is None or self._neighbors.cutoff != longest:
            self._neighbors = NeighborList(longest)
        if cell is None:
            edge_index, edge_shift = self._neighbors(pos), None
        else:
            edge_index, edge_shift = self._neighbors(pos, None, cell, pbc)
        if edge_index.numel() == 0:
            return None
        lengths = edge_lengths(pos, edge_index, edge_shift, cell)
        lack = radii[edge_index].sum(dim=0) - lengths
        worst = int(lack.argmax())
        if lack[worst] <= 0:
            return None
        i, j = sorted(edge_index[:, worst].tolist())
        length, bound = float(lengths[worst]), float(lengths[worst] + lack[worst])
        return (
            f"atoms {i} (Z = {int(z[i])}) and {j} (Z = {int(z[j])}) are {length:.3f} A apart, less "
            f"than half the sum of their covalent radii ({bound:.3f} A): no model has learned "
            "anything about that"
        )
