r"""Structures that a network has learnt nothing about: atoms too close, and compositions."""

import math
import warnings
from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES
from ..graph import NeighborList, edge_lengths, radius_graph
from .compositions import Compositions

if TYPE_CHECKING:
    from .schnet import SchNet
    from .system import System

#: What to do about a structure outside the domain of a model.
Domain: TypeAlias = Literal["warn", "raise", "ignore"]

# In 9,633 frames of each of eight molecules of MD17 no pair comes more than 6 % closer than the
# closest such pair in a thousand of them.
_OF_TRAINING = 0.9
# Sums of covalent radii are lengths of single bonds. The shortest bond there is, that of N2, has
# 0.77 of it; half is a collision. At 300 K no pair comes that close.
_OF_RADII = 0.5
# Up to so many atoms, all pairs are looked at in the time of a few operators.
_SMALL = 100


class Contacts:
    r"""Finds pairs of atoms closer than anything that networks were trained on.

    A pair of species z, w is too close at a distance below

    .. math::
        0.9 \min(d_{zw}, r_c)

    where :math:`d_{zw}` is the closest distance of the two in the training data (``model.closest``)
    and :math:`r_c` the cutoff: of a pair that training has not seen within the cutoff, the network
    knows nothing at any distance. Of several networks the largest bound counts. Models that do not
    know their training data have half the sum of the covalent radii of `Cordero et al. 2008
    <https://doi.org/10.1039/b801115j>`_ for all pairs.

    :meth:`check` looks for :class:`Compositions` that were not learnt, too.

    Args:
        members: The networks.
        domain: What to do about such pairs: ``"warn"``, ``"raise"`` or ``"ignore"``.
        keep: Whether structures follow one another, as in dynamics: a neighbour list is kept, and
            of several with such pairs only the first is a warning, as is that of a composition.

    Raises:
        ValueError: If ``domain`` is something else.

    >>> import torch
    >>> from pyg_schnet import SchNet
    >>> from pyg_schnet.nn.system import System
    >>> contacts = Contacts([SchNet(16, 16, 2)])
    >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]])
    >>> contacts.find(System(torch.tensor([1, 8]), pos))
    {0: 'atoms 0 (Z = 1) and 1 (Z = 8) are 0.400 A apart, less than half the sum of their ...'}
    """

    def __init__(self, members: Sequence["SchNet"], domain: Domain = "warn", *, keep: bool = True):
        self.domain = check_domain(domain)
        #: Finds molecules whose energy was not learnt.
        self.compositions = Compositions(members)
        self._said = False
        self._members = members
        self._keep = keep
        self._neighbors: NeighborList | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def check(self, system: "System", *, stacklevel: int = 1) -> None:
        """Warns or raises if there is such a pair, or a composition that was not learnt.

        Args:
            system: Atoms that a network has accepted.
            stacklevel: How many callers up the user is.

        Raises:
            ValueError: With ``domain="raise"``.
        """
        if self.domain == "ignore":
            return
        if self.domain == "raise" or not self._said:
            found = self.find(system)
            if found:
                self._say(system, *next(iter(found.items())), "this is said once", stacklevel + 1)
                self._said = True
        look = self.compositions.find if self.domain == "raise" else self.compositions.news
        unlearnt = look(system)
        if unlearnt:
            molecule, formula = next(iter(unlearnt.items()))
            message = self.compositions.sentence(formula, len(set(unlearnt.values())) - 1)
            once = "this is said once of each composition"
            self._say(system, molecule, message, once, stacklevel + 1)

    def _say(
        self, system: "System", molecule: int, message: str, once: str, stacklevel: int
    ) -> None:
        if system.batch is not None and int(system.batch[-1]) > 0:
            message = f"in molecule {molecule} {message}"
        if self.domain == "raise":
            raise ValueError(message)
        warnings.warn(f"{message} ({once})" if self._keep else message, stacklevel=stacklevel + 1)

    def find(self, system: "System") -> dict[int, str]:
        """Describes the worst such pair of each molecule.

        Args:
            system: As of :meth:`check`.

        Returns:
            A sentence for each molecule that has such a pair, by its number.
        """
        z, pos, batch, *_, cell, pbc, _ = system
        if z.numel() == 0:
            return {}
        z, pos = z.long(), pos.detach()
        alone = batch is None and cell is None
        if self._keep and alone and z.numel() <= _SMALL and self._is_clear(z, pos):
            return {}
        present, kind = z.unique(return_inverse=True)
        closest = self._closest(present)
        bounds = self._bounds(present, closest)
        edge_index, edge_shift = self._edges(float(bounds.max()), pos, batch, cell, pbc)
        if edge_index.numel() == 0:
            return {}
        lengths = edge_lengths(pos, edge_index, edge_shift, cell, batch)
        pair = kind[edge_index]
        lack = bounds[pair[0], pair[1]] - lengths  # [E]
        short = (lack > 0).nonzero().flatten()
        if short.numel() == 0:
            return {}
        lack, edge_index, lengths = lack[short], edge_index[:, short], lengths[short]
        molecules = torch.zeros_like(short) if batch is None else batch[edge_index[0]]
        found = {}
        for molecule in molecules.unique().tolist():
            own = (molecules == molecule).nonzero().flatten()
            worst = int(own[lack[own].argmax()])
            first = 0 if batch is None else int(torch.searchsorted(batch, molecule))
            i, j = (atom - first for atom in sorted(edge_index[:, worst].tolist()))
            one, two = pair[:, short[worst]].tolist()
            known = None if closest is None else float(closest[one, two])
            where = (
                f"atoms {i} (Z = {int(z[i + first])}) and {j} (Z = {int(z[j + first])}) are "
                f"{float(lengths[worst]):.3f} A apart"
            )
            found[molecule] = self._sentence(where, known, float(bounds[one, two]))
        return found

    def _is_clear(self, z: Tensor, pos: Tensor) -> bool:
        """Whether a small molecule has no such pair, in a tenth of the time of the search."""
        if self._last is None or not torch.equal(self._last[0], z):
            present, kind = z.unique(return_inverse=True)
            bounds = self._bounds(present, self._closest(present))[kind][:, kind]
            self._last = (z.clone(), bounds.fill_diagonal_(0.0).to(pos))
        distances = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
        return not bool((distances < self._last[1]).any())

    @cached_property
    def _known(self) -> list["SchNet"]:
        return [member for member in self._members if knows_training(member)]

    def _closest(self, species: Tensor) -> Tensor | None:
        """Closest distances that all networks have seen, ``[S, S]``, if any knows."""
        if not self._known:
            return None
        closest = [member.closest[species][:, species].double() for member in self._known]
        return torch.stack(closest).amax(dim=0)

    def _bounds(self, species: Tensor, closest: Tensor | None) -> Tensor:
        """Distances below which two species are too close, ``[S, S]``."""
        if closest is None:
            radii = _radii().to(species.device)[species]
            bounds = _OF_RADII * (radii.unsqueeze(0) + radii.unsqueeze(1))
        else:
            bounds = _OF_TRAINING * closest.clamp(max=self._members[0].cutoff)
        real = species > 0  # padding is nowhere
        return torch.where(real.unsqueeze(0) & real.unsqueeze(1), bounds, 0.0)

    def _edges(
        self,
        radius: float,
        pos: Tensor,
        batch: Tensor | None,
        cell: Tensor | None,
        pbc: Tensor | bool | None,
    ) -> tuple[Tensor, Tensor | None]:
        if radius == 0.0:
            return torch.empty(2, 0, dtype=torch.long, device=pos.device), None
        if not self._keep:
            if cell is None:
                return radius_graph(pos, radius, batch), None
            return radius_graph(pos, radius, batch, cell, pbc)
        if self._neighbors is None or self._neighbors.cutoff != radius:
            self._neighbors = NeighborList(radius)
        if cell is None:
            return self._neighbors(pos, batch), None
        return self._neighbors(pos, batch, cell, pbc)

    def _sentence(self, where: str, closest: float | None, bound: float) -> str:
        if closest is None:
            return (
                f"{where}, less than half the sum of their covalent radii ({bound:.3f} A): no "
                "model has learned anything about that"
            )
        if math.isinf(closest):
            return (
                f"{where}, but in the training data no such pair is within the cutoff "
                f"({self._members[0].cutoff:g} A): the model has learned nothing about it"
            )
        return (
            f"{where}, less than {_OF_TRAINING:g} of the closest such pair in the training data "
            f"({closest:.3f} A): the model has learned nothing about that"
        )


def check_domain(domain: str) -> Domain:
    """Refuses other words.

    Raises:
        ValueError: Naming them.
    """
    if domain not in ("warn", "raise", "ignore"):
        raise ValueError(f"'domain' must be 'warn', 'raise' or 'ignore' (got '{domain}')")
    return domain  # type: ignore[return-value] # mypy does not narrow by tuples


def knows_training(model: "SchNet") -> bool:
    """Whether a model knows the closest distances of the data that it was trained on."""
    return not bool(model.closest.isinf().all())


@cache
def _radii() -> Tensor:
    """Covalent radii in angstrom by atomic number, ``[101]``."""
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()
    radii = [0.0] + [table.GetRcovalent(z) for z in range(1, NUM_SPECIES)]
    return torch.tensor(radii, dtype=torch.float64)
