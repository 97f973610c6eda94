r"""Several networks of the same target: their mean, and how far they disagree."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from . import inference
from .contacts import Contacts, Domain
from .schnet import SchNet
from .system import System
from .unpack import unpack


class Ensemble(nn.Module):
    r"""Networks that were trained on the same target from different seeds or data.

    They agree where the training set has told them what to predict, and differ where it has not:
    the standard deviation over the K networks is a cheap, if not calibrated, measure of
    uncertainty (`Lakshminarayanan et al. 2017 <https://arxiv.org/abs/1612.01474>`_).

    .. math::
        \bar{E} = \frac{1}{K} \sum_k E_k, \qquad
        \sigma_E^2 = \frac{1}{K - 1} \sum_k (E_k - \bar{E})^2

    and so for every component of forces and stress. The mean of the forces is the force of the
    mean energy.

    Args:
        members: At least two networks with the same target, units, cutoff and species.

    Raises:
        TypeError: If a member is no :class:`SchNet`.
        ValueError: If there are fewer than two, one is there twice, or they do not fit together.

    >>> import torch
    >>> from torch_geometric.data import Data
    >>> from pyg_schnet import SchNet
    >>> ensemble = Ensemble([SchNet(16, 16, 2) for seed in range(3)])
    >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.randn(3, 3))
    >>> sorted(ensemble.predict(water))
    ['energy', 'energy_std', 'forces', 'forces_std']
    """

    def __init__(self, members: Sequence[SchNet]):
        super().__init__()
        members = list(members)
        for number, member in enumerate(members):
            if not isinstance(member, SchNet):
                raise TypeError(f"member {number} must be a SchNet (got {type(member).__name__})")
        if len(set(map(id, members))) < max(len(members), 2):
            raise ValueError(
                f"an ensemble needs two or more different networks (got {len(members)}, of which "
                f"{len(set(map(id, members)))} different): train some from other seeds"
            )
        first = _meaning(members[0])
        for number, member in enumerate(members[1:], start=1):
            for name, value in _meaning(member).items():
                if value != first[name]:
                    raise ValueError(
                        f"all members must have the same {name} (got {first[name]} in member 0 "
                        f"and {value} in member {number})"
                    )
        self._members = nn.ModuleList(members)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SchNet]:
        return iter(self._members)  # type: ignore[arg-type] # modules are untyped in lists

    def __getitem__(self, number: int) -> SchNet:
        return self._members[number]  # type: ignore[return-value] # as above

    @property
    def target(self) -> str:
        """What the networks predict."""
        return self[0].target

    @property
    def units(self) -> str | None:
        """Unit of the target."""
        return self[0].units

    @property
    def cutoff(self) -> float:
        """Range of the filters in angstrom."""
        return self[0].cutoff

    def freeze(self) -> "Ensemble":
        """Freezes all members, see :meth:`SchNet.freeze`."""
        self.eval()
        for member in self:
            member.freeze()
        return self

    def predict(
        self,
        data: Data,
        forces: bool = True,
        *,
        stress: bool = False,
        energies: bool = False,
        domain: Domain = "ignore",
    ) -> dict[str, Tensor]:
        r"""Predicts mean and standard deviation.

        Args:
            data: As for :meth:`SchNet.predict`, as the rest.
            forces: Whether to compute forces.
            stress: Whether to compute the stress.
            energies: Whether to return the atom-wise contributions.
            domain: As there; what counts is the closest distance that all members were trained on,
                and compositions that all of them know.

        Returns:
            What :meth:`SchNet.predict` returns, averaged over the members, and beside each entry
            its standard deviation, of the same shape, unit and dtype: ``"energy_std"`` ``[B]``,
            ``"forces_std"`` ``[N, D]``, and so on.
        """
        with torch.inference_mode(False):
            systems = [unpack(member, data) for member in self]
        contacts = Contacts(list(self), domain, keep=False)
        result = _combined(
            [
                inference.named(member, system, forces, stress, energies)
                for member, system in zip(self, systems)
            ]
        )
        contacts.check(systems[0], stacklevel=2)
        return result

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} x {self[0]!r})"


def evaluated(model: SchNet | Ensemble, system: System, stress: bool) -> dict[str, Tensor]:
    """Energy, forces and contributions of the atoms, and stress, of one system.

    Args:
        model: Network or ensemble, with energies as target.
        system: The system, on the device of the model.
        stress: Whether to compute the stress.
    """
    if isinstance(model, Ensemble):
        return _combined([inference.named(one, system, True, stress, True) for one in model])
    return inference.named(model, system, True, stress, True)


def _combined(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    combined = {}
    for name in results[0]:
        values = torch.stack([result[name] for result in results])
        combined[name] = values.mean(dim=0)
        combined[f"{name}_std"] = values.std(dim=0)
    return combined


def _meaning(member: SchNet) -> dict[str, Any]:
    """What the outputs of members must have in common to be averaged."""
    return {
        "target": member.target,
        "units": member.units,
        "readout": getattr(member.readout, "reduce", None),
        "cutoff": member.cutoff,
        "envelope": member.envelope,
        "species": member.species[1:].nonzero().flatten().add(1).tolist(),
        "dtype": member.dtype,
        "device": member.device,
    }
