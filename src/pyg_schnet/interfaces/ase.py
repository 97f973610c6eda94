r"""A calculator for ASE (`Larsen et al. 2017 <https://doi.org/10.1088/1361-648X/aa680e>`_)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

try:
    from ase import Atoms
    from ase.calculators.calculator import (
        CalculationFailed,
        Calculator,
        PropertyNotImplementedError,
        all_changes,
    )
    from ase.outputs import Properties
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError("this needs the package ase: pip install pyg-schnet[ase]") from error

from ..data.units import convert
from ..graph import NeighborList
from ..nn import Ensemble, SchNet
from ..nn.contacts import Contacts, Domain, check_domain
from ..nn.ensemble import evaluated
from ..nn.system import System
from ..training.saved import load_model
from .models import (
    SMALL,
    check_target,
    energy_unit,
    finest_dtype,
    members,
    prepared,
    takes_edges,
)

_PROPERTIES = ("energy", "free_energy", "energies", "forces", "stress")


class SchNetCalculator(Calculator):
    r"""Energies, forces and stress of a trained model, in the units of ASE.

    Everything is computed at once: ``energy`` and ``free_energy`` (the same) in eV, ``energies`` of
    the atoms in eV, which sum to the energy, ``forces`` in eV/Ang and, if the system is periodic
    and has three lattice vectors, ``stress`` in eV/Ang^3 (xx, yy, zz, yz, xz, xy; positive under
    tension). An :class:`~pyg_schnet.Ensemble` gives means, and the standard deviations
    ``energy_std``, ``forces_std``, ``energies_std`` and ``stress_std``, in ``results`` or by
    ``get_property``.

    Positions stay in double precision, so that distances do; neighbours of large and periodic
    systems are searched again only when an atom has moved by more than half the skin.

    Args:
        model: A model that predicts energies, or an ensemble. It is copied, and may be trained on.
        units: Unit of its energies, such as ``"kcal/mol"``, if the model does not say.
        device: Where to compute; where the model is if ``None``.
        dtype: ``torch.float32`` or ``torch.float64``; that of the model if ``None``. Double
            precision evaluates filters without tables, which takes several times as long.
        skin: How far beyond the cutoff to search neighbours, in angstrom; 0 searches in each step.
        domain: What to do about atoms closer than 0.9 of the closest in the training data (of a
            model that does not know these, than half the sum of covalent radii), see
            :class:`~pyg_schnet.nn.contacts.Contacts`, and about compositions that are no
            combination of those in it: ``"warn"`` (once; once of each composition), ``"raise"`` or
            ``"ignore"``. Species that the model was not trained on, coincident atoms, and distances
            beyond the range of filters without envelope are always errors.
        **kwargs: Arguments of ASE's ``Calculator``.

    Raises:
        TypeError: If this is no model.
        ValueError: If the model does not predict energies, or its unit is unknown.

    >>> from ase.build import molecule
    >>> atoms = molecule("CH3CH2OH")
    >>> atoms.calc = SchNetCalculator(SchNet(32, 32, 2, units="kcal/mol"))
    >>> atoms.get_forces().shape
    (9, 3)
    """

    implemented_properties = [*_PROPERTIES]  # noqa: RUF012 - ASE wants a list

    def __init__(
        self,
        model: SchNet | Ensemble,
        *,
        units: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        skin: float = 1.0,
        domain: Domain = "warn",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not isinstance(model, SchNet | Ensemble):
            raise TypeError(f"expected a SchNet or an Ensemble (got {type(model).__name__})")
        check_target(model)
        if not 0 <= skin < math.inf:
            raise ValueError(f"'skin' must be finite and not negative (got {skin})")
        self._factor = convert(1.0, energy_unit(model, units, "SchNetCalculator"), "eV")
        self.model: SchNet | Ensemble = prepared(model, device, dtype)
        self._averages = members(self.model)[0].config["readout"] == "mean"
        self._contacts = Contacts(members(self.model), domain)
        self._neighbors = None
        if skin > 0 and all(map(takes_edges, members(self.model))):
            self._neighbors = NeighborList(self.model.cutoff, skin)
        if isinstance(model, Ensemble):
            self.implemented_properties = [
                *_PROPERTIES,
                *("energy_std", "forces_std", "energies_std", "stress_std"),
            ]

    @property
    def domain(self) -> Domain:
        """What to do about atoms that are too close, and about unknown compositions."""
        return self._contacts.domain

    @domain.setter
    def domain(self, domain: Domain) -> None:
        self._contacts.domain = check_domain(domain)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | Sequence[str | Path], **kwargs: Any
    ) -> "SchNetCalculator":
        """Makes a calculator of a trained model.

        Args:
            path: File that ``model.save`` or training wrote, or directory of a run, whose best
                model is taken; a list of them makes an ensemble.
            **kwargs: Arguments of the class.

        Raises:
            FileNotFoundError: If there is no such file.
            CorruptFileError: If it is damaged or holds something else.
        """
        if isinstance(path, str | Path):
            return cls(load_model(path), **kwargs)
        return cls(Ensemble([load_model(one) for one in path]), **kwargs)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What has changed since the last calculation, exactly; ``tol`` is not used.

        The comparison that ASE makes, twice in every step, takes as long as the forces of a small
        molecule.
        """
        then = self.atoms
        if then is None:
            return list(all_changes)
        compared = {
            "positions": (then.positions, atoms.positions),
            "numbers": (then.numbers, atoms.numbers),
            "cell": (then.cell.array, atoms.cell.array),
            "pbc": (then.pbc, atoms.pbc),
        }
        return [name for name, (old, new) in compared.items() if not np.array_equal(old, new)]

    def export_properties(self) -> Properties:
        """Those results that ASE knows."""
        return Properties({k: v for k, v in self.results.items() if not k.endswith("_std")})

    @torch.inference_mode(False)  # whose tensors autograd refuses
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Computes everything; see ASE.

        Raises:
            ValueError: If the model refuses the structure, or with ``domain="raise"`` if atoms
                are too close or their composition unknown.
            PropertyNotImplementedError: If a stress is asked for that does not exist.
            CalculationFailed: If a result is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}  # none of an earlier structure, should this one fail
        atoms = cast(Atoms, self.atoms)
        periodic, with_stress = bool(atoms.pbc.any()), _has_stress(atoms)
        if not with_stress and any(name.startswith("stress") for name in properties):
            raise PropertyNotImplementedError(
                "stress needs a periodic system with three lattice vectors "
                f"(got pbc {atoms.pbc.tolist()} and cell {atoms.cell.array.tolist()})"
            )
        device = members(self.model)[0].device
        numbers = atoms.numbers.astype(np.int64)
        if len(numbers) == 0 or not (numbers > 0).all():  # ASE cannot print all of these
            met = f"got {numbers.min()}" if len(numbers) else "there are no atoms"
            raise ValueError(f"expected atoms with atomic numbers of at least 1 ({met})")
        z = torch.from_numpy(numbers).to(device)
        pos = torch.from_numpy(atoms.positions).to(device, finest_dtype(device))
        cell = pbc = None
        if periodic:
            cell = torch.from_numpy(atoms.cell.array).to(device, finest_dtype(device)).unsqueeze(0)
            pbc = torch.from_numpy(atoms.pbc).to(device).unsqueeze(0)
        edges = self._edges(pos, cell, pbc)
        system = System(z, pos, None, *edges, cell, pbc, 1)
        found = evaluated(self.model, system, with_stress)
        result = {name: value.detach().cpu().numpy() for name, value in found.items()}
        results = self._converted(result)
        self._contacts.check(system)
        self.results = results

    def _edges(
        self, pos: Tensor, cell: Tensor | None, pbc: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Neighbours and their images, or ``None`` to leave the search to the model."""
        if self._neighbors is None or (cell is None and len(pos) <= SMALL):
            return None, None
        if cell is None:
            return self._neighbors(pos), None
        return self._neighbors(pos, None, cell, pbc)

    def _converted(self, result: dict[str, np.ndarray]) -> dict[str, Any]:
        """Arrays in the units of ASE."""
        results: dict[str, Any] = {}
        for name, value in result.items():
            array: Any = self._factor * value.astype(np.float64)
            if not np.isfinite(array).all():
                raise CalculationFailed(
                    f"the model gives '{name}' that is not finite: its weights may be damaged, or "
                    "atoms too close together"
                )
            kind = name.removesuffix("_std")
            if kind == "energy":
                array = float(array[0])
            elif kind == "energies" and self._averages:
                array = array / len(array)
            elif kind == "stress":
                array = full_3x3_to_voigt_6_stress(array[0])
            results[name] = array
        results["free_energy"] = results["energy"]
        return results


def _has_stress(atoms: Atoms) -> bool:
    return bool(atoms.pbc.any() and atoms.cell.rank == 3)
