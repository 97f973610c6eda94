r"""The properties of QM9: their names, order, units and atom references."""

import operator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from ..data.units import HARTREE
from .collated import Slices, collate
from .molecules import InMemoryMolecules

# Columns of an xyz file: GHz (A B C), Debye, Bohr^3, Hartree (homo lumo gap), Bohr^2,
# Hartree (zpve U0 U H G), cal/mol/K.
FILE_COLUMNS = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("U0", "U", "H", "G", "Cv"),
)
# Energies of free atoms in Hartree, from the file atomref.txt that accompanies QM9. PyG's numbers
# in eV are these times the Hartree of 2014, 8e-9 off from the one its labels are converted by;
# here both are the same, so that atomization energies are exact.
_ATOMS = (1, 6, 7, 8, 9)
_ATOM_REFERENCES = {
    "U0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "U": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "H": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "G": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
}
_MAX_ATOMIC_NUMBER = 100


@dataclass(frozen=True)
class RawMolecules:
    r"""B molecules with N atoms together, in the numbers and units of the files.

    Attributes:
        index: Number in the GDB-9 data base, from 1, ``[B]``.
        num_atoms: ``[B]``.
        z: Atomic numbers, ``[N]``.
        pos: Positions in angstrom, ``[N, 3]``.
        properties: In the order and units of ``FILE_COLUMNS``, ``[B, 15]`` float64.
        smiles: As in GDB-17, ``B`` strings.
    """

    index: np.ndarray
    num_atoms: np.ndarray
    z: np.ndarray
    pos: np.ndarray
    properties: np.ndarray
    smiles: list[str]

    def take(self, rows: np.ndarray) -> "RawMolecules":
        """The molecules in the given rows, in that order."""
        num_atoms = self.num_atoms[rows].astype(np.int64)
        old_starts = np.cumsum(self.num_atoms, dtype=np.int64) - self.num_atoms
        new_starts = np.cumsum(num_atoms) - num_atoms
        shift = np.repeat(old_starts[rows] - new_starts, num_atoms)
        atoms = np.arange(num_atoms.sum()) + shift
        return RawMolecules(
            self.index[rows],
            self.num_atoms[rows],
            self.z[atoms],
            self.pos[atoms],
            self.properties[rows],
            [self.smiles[row] for row in rows],
        )


class QM9Properties(InMemoryMolecules):
    r"""What the data sets of QM9 molecules share: names, units and references of the targets.

    Attributes:
        target_names: Names of the 19 columns of ``y``, in the order of
            :class:`torch_geometric.datasets.QM9`.
        published_units: Unit of each of them, and of the positions.
    """

    target_names: ClassVar[tuple[str, ...]] = (
        *("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv"),
        *("U0_atom", "U_atom", "H_atom", "G_atom", "A", "B", "C"),
    )
    published_units: ClassVar[dict[str, str]] = {
        "pos": "Ang",
        **dict.fromkeys(target_names, "eV"),
        "mu": "Debye",
        "alpha": "Bohr^3",
        "r2": "Bohr^2",
        "Cv": "cal/mol/K",
        "A": "GHz",
        "B": "GHz",
        "C": "GHz",
    }

    @classmethod
    def target_index(cls, target: int | str) -> int:
        r"""Column of a target in ``y``.

        Args:
            target: One of ``target_names``, or the column itself.

        Raises:
            ValueError: If there is no such target.
            TypeError: If it is neither a name nor a whole number.
        """
        valid = ", ".join(f"{name} ({i})" for i, name in enumerate(cls.target_names))
        if isinstance(target, str):
            if target not in cls.target_names:
                raise ValueError(f"unknown target '{target}': QM9 has {valid}")
            return cls.target_names.index(target)
        try:
            index = operator.index(target)
        except TypeError as error:
            raise TypeError(
                f"'target' must be a name or a column (got {target!r}): QM9 has {valid}"
            ) from error
        if not 0 <= index < len(cls.target_names):
            raise ValueError(f"unknown target {index}: QM9 has {valid}")
        return index

    @classmethod
    def atomref(cls, target: int | str) -> Tensor | None:
        r"""Energies of the free atoms, to be subtracted from those of the molecules.

        Args:
            target: Name or column of a target.

        Returns:
            ``[101, 1]`` float64 in eV, the row being the atomic number, zero for elements that
            QM9 does not have; ``None`` if the target is not U0, U, H or G.

        Raises:
            ValueError: If there is no such target.
        """
        name = cls.target_names[cls.target_index(target)]
        return _reference(name).unsqueeze(1) if name in _ATOM_REFERENCES else None

    @classmethod
    def _collate_raw(cls, raw: RawMolecules) -> tuple[Data, Slices]:
        """Molecules in the units of ``published_units``, ready for ``InMemoryDataset``."""
        num_atoms = torch.from_numpy(raw.num_atoms.astype(np.int64))
        index = torch.from_numpy(raw.index.astype(np.int64))
        z = torch.from_numpy(raw.z.astype(np.int64))
        return collate(
            num_atoms,
            {"z": z, "pos": torch.from_numpy(raw.pos.astype(np.float32))},
            {
                "y": cls._labels(torch.from_numpy(raw.properties), z, num_atoms),
                "idx": index - 1,
                "name": [f"gdb_{i}" for i in index.tolist()],
                "smiles": raw.smiles,
            },
        )

    @classmethod
    def _labels(cls, properties: Tensor, z: Tensor, num_atoms: Tensor) -> Tensor:
        """``[B, 15]`` as in the files to ``[B, 19]`` as in ``target_names``."""
        columns = dict(zip(FILE_COLUMNS, properties.unbind(dim=1)))
        for name in FILE_COLUMNS:
            if cls.published_units[name] == "eV":
                columns[name] = HARTREE * columns[name]
        molecule = torch.arange(num_atoms.numel()).repeat_interleave(num_atoms)
        for name in _ATOM_REFERENCES:
            free_atoms = torch.zeros_like(columns[name])
            free_atoms.index_add_(0, molecule, _reference(name)[z])
            columns[f"{name}_atom"] = columns[name] - free_atoms
        return torch.stack([columns[name] for name in cls.target_names], dim=1)


def _reference(name: str) -> Tensor:
    """Energies of the free atoms in eV, by atomic number: ``[101]``."""
    reference = torch.zeros(_MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
    values = torch.tensor(_ATOM_REFERENCES[name], dtype=torch.float64)
    reference[list(_ATOMS)] = HARTREE * values
    return reference
