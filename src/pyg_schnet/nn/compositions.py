r"""Compositions whose energies the training data leave open."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES
from ..data.statistics import composition

if TYPE_CHECKING:
    from .schnet import SchNet
    from .system import System

#: Relative size of what counts as nothing: the projectors are rounded to single precision.
NOTHING = 1e-5


class Compositions:
    r"""Finds molecules whose composition is no combination of those that networks were trained on.

    Energies are sums over atoms, and training on ethanol alone tells what two C, six H and one O
    sum to, but not what each of them has: how the network splits the energy among them is an
    accident, and the energy of methanol, which depends on it, is one too. It tells the energies of
    :math:`\mathrm{C_{2k} H_{6k} O_k}` only. A composition :math:`\mathbf{n}`, the numbers of atoms
    by species, is out of reach if :math:`\mathbf{P} \mathbf{n} \neq 0` for the projector
    :math:`\mathbf{P}` (``model.unseen``) of any of the networks. Forces, derivatives of the energy
    of one composition, do not depend on it.

    Args:
        members: The networks.

    >>> from pyg_schnet import SchNet
    >>> from pyg_schnet.nn.system import System
    >>> compositions = Compositions([SchNet.from_pretrained("md17-ethanol")])
    >>> compositions.find(System(torch.tensor([6, 1, 1, 1, 1]), torch.randn(5, 3)))
    {0: 'CH4'}
    """

    def __init__(self, members: Sequence["SchNet"]):
        self._members = members
        self._said: set[str] = set()
        self._last: tuple[Tensor, Tensor | None, dict[int, str]] | None = None

    def find(self, system: "System") -> dict[int, str]:
        """The formula of each molecule with such a composition, by its number.

        Args:
            system: Atoms that a network has accepted.
        """
        if self._unseen is None:
            return {}
        z, batch = system.z, system.batch
        if self._last is None or not (_same(z, self._last[0]) and _same(batch, self._last[1])):
            found = self._search(system, self._unseen)
            self._last = (z.clone(), None if batch is None else batch.clone(), found)
        return self._last[2]

    def news(self, system: "System") -> dict[int, str]:
        """The same without compositions that this has given before, the first of each only."""
        news = {}
        for molecule, formula in self.find(system).items():
            if formula not in self._said:
                self._said.add(formula)
                news[molecule] = formula
        return news

    def sentence(self, formula: str, others: int = 0) -> str:
        """What is to be said of such a composition, and of the number of others at hand."""
        more = f" (like {others} more of this batch)" if others else ""
        target = self._members[0].target
        forces = "; its forces are not affected by that" if target == "energy" else ""
        return (
            f"the composition {formula}{more} is no combination of those in training, so its "
            f"{target} may be off by any amount{forces}: train on other compositions too, or "
            "compare predictions of this composition only"
        )

    @cached_property
    def _unseen(self) -> Tensor | None:
        """The projectors of all networks, one below the other ``[101 K, 101]``, unless zero."""
        unseen = [member.unseen for member in self._members if bool(member.unseen.any())]
        return torch.cat(unseen).cpu().double() if unseen else None

    @staticmethod
    def _search(system: "System", unseen: Tensor) -> dict[int, str]:
        z, batch, batch_size = system.z.long().cpu(), system.batch, system.batch_size
        batch = torch.zeros_like(z) if batch is None else batch.cpu()
        if batch_size is None:
            batch_size = int(batch[-1]) + 1 if batch.numel() > 0 else 0
        counts = composition(z, batch, batch_size)  # [B, 101]
        out = (counts @ unseen.T).norm(dim=1) > NOTHING * counts.norm(dim=1)
        return {
            molecule: _formula(counts[molecule]) for molecule in out.nonzero().flatten().tolist()
        }


def _same(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.device == two.device and torch.equal(one, two)


def _formula(counts: Tensor) -> str:
    """In the order of Hill: carbon, hydrogen, and others by their symbols."""
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()
    numbers = counts.long().tolist()
    symbols = {table.GetElementSymbol(z): numbers[z] for z in range(1, NUM_SPECIES) if numbers[z]}
    first = ["C", "H"] if "C" in symbols else []
    ordered = [s for s in first if s in symbols] + sorted(symbols.keys() - first)
    return "".join(s if symbols[s] == 1 else f"{s}{symbols[s]}" for s in ordered)
