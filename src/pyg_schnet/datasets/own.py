r"""The user's own molecules as a data set."""

import sqlite3
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from ..data.ase import read_frames
from ..data.flat import FlatMolecules, LabelNames, label_names
from ..data.smiles import from_smiles
from ..storage import CorruptFileError
from .arrays import kept, read_arrays
from .collated import collate
from .data_objects import collate_objects
from .label_units import all_units, given_units, model_units
from .molecules import InMemoryMolecules, check_cutoff, check_energy_unit
from .npz import open_npz
from .xyz_lines import locate, stopped_at

if TYPE_CHECKING:
    from ase import Atoms

# Failures of SMILES that an error or warning lists.
_SHOWN = 5


class MoleculeDataset(InMemoryMolecules):
    r"""Molecules of your own, from files, ``ase.Atoms``, arrays, SMILES or ``Data`` objects.

    Every molecule of N atoms has ``z`` ``[N]`` int64 and ``pos`` ``[N, 3]`` float32 in angstrom,
    and the labels asked for: ``energy`` ``[1]`` float64, ``force`` ``[N, 3]`` and ``stress``
    ``[1, 3, 3]`` float32, others under names of your choice, ``[1, ...]`` float64 or ``[N, ...]``
    float32. If any is periodic, all have ``cell`` ``[1, 3, 3]`` and ``pbc`` ``[1, 3]``, zero and
    False where they are not. ``dataset.units`` has the unit of each. Tensors of ``Data`` objects
    keep the dtypes they have, but ``z``.

    The other constructors are :meth:`from_file`, :meth:`from_ase`, :meth:`from_arrays` and
    :meth:`from_smiles`; nothing is written to the disk.

    Args:
        molecules: ``Data`` objects with ``z`` and ``pos``, all with the same fields.
        units: Unit of each field that has one; ``pos`` is in angstrom unless it says otherwise,
            and units of ``force`` and ``stress`` follow from those of ``energy`` and ``pos``.
            Positions, cells and distances are converted to angstrom, forces and stress to the
            unit of energy per angstrom; other labels keep theirs.
        energy: Unit of energy to convert all labels to, such as ``"eV"``.
        cutoff: Radius in angstrom of the graphs that the molecules come with; see
            :class:`~pyg_schnet.datasets.QM9`.
        transform: Applied to a molecule at each access.

    Raises:
        ValueError: If molecules lack ``z`` or ``pos``, have different fields, or if their
            positions, numbers, cells or units make no sense.

    >>> from pyg_schnet.data import from_smiles
    >>> dataset = MoleculeDataset([from_smiles("C"), from_smiles("CO")], cutoff=5.0)
    >>> dataset, dataset[1].num_edges
    (MoleculeDataset(2), 30)
    """

    def __init__(
        self,
        molecules: Iterable[Data] | FlatMolecules,
        *,
        units: Mapping[str, str] | None = None,
        energy: str | None = None,
        cutoff: float | None = None,
        transform: Callable | None = None,
    ):
        _check_options(energy, cutoff)
        super().__init__(None, transform)
        if isinstance(molecules, FlatMolecules):
            data, slices = collate(molecules.num_atoms, molecules.atoms, molecules.molecules)
        else:
            data, slices = collate_objects(molecules)
        self._hold(data, slices, all_units(data, given_units(units)))
        # Edges come last: the cutoff is in angstrom.
        converted = self._in_units(model_units(self.units))
        self._hold(converted._data, slices, converted.units, energy=energy, cutoff=cutoff)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        labels: LabelNames | None = None,
        units: Mapping[str, str] | None = None,
        keep: Any = None,
        **options: Any,
    ) -> Self:
        r"""Reads a file: ``.npz`` as :meth:`from_arrays`, all others through ASE.

        ASE reads extended XYZ, its own data bases (``.db``, ``.json``), trajectories and the
        output of many programs. Of molecules of 9 atoms, one core of a server reads 7,000 a second
        from extended XYZ, 3,000 from a data base, and more than 300,000 from ``.npz``.

        Args:
            path: File; all its frames are read.
            labels: See :meth:`from_ase` and :meth:`from_arrays`.
            units: As there.
            keep: As there.
            **options: ``energy``, ``cutoff`` and ``transform``, see :class:`MoleculeDataset`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, or its content makes no sense.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file '{path}'")
        _check_options(**options)
        try:
            if path.suffix == ".npz":
                with open_npz(path) as arrays:
                    return cls.from_arrays(arrays, labels=labels, units=units, keep=keep, **options)
            frames = read_by_ase(path)
            return cls.from_ase(frames, labels=labels, units=units, keep=keep, **options)
        except CorruptFileError:
            raise  # it names the file
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error

    @classmethod
    def from_ase(
        cls,
        frames: Sequence["Atoms"],
        *,
        labels: LabelNames | None = None,
        units: Mapping[str, str] | None = None,
        keep: Any = None,
        **options: Any,
    ) -> Self:
        r"""Makes a data set of ``ase.Atoms``.

        Args:
            frames: Molecules, periodic structures, or both.
            labels: Fields, each with the name it has in the results of the calculator, ``info`` or
                ``arrays``, such as ``{"energy": "REF_energy", "force": "REF_forces"}``; see
                :func:`~pyg_schnet.data.from_ase`. Without it, those of ``energy``, ``forces`` and
                ``stress`` that there are.
            units: Units of labels that are not energies, and of what is not in ASE's eV and
                angstrom.
            keep: Which frames: a mask ``[B]`` or their numbers.
            **options: ``energy``, ``cutoff`` and ``transform``, see :class:`MoleculeDataset`.

        Raises:
            ImportError: If ASE is not installed.
            ValueError: If a frame lacks a label or has one of the wrong shape; names the frame.

        >>> from ase.build import molecule
        >>> dataset = MoleculeDataset.from_ase([molecule("H2O"), molecule("CH4")])
        >>> dataset[1].z.tolist()
        [6, 1, 1, 1, 1]
        """
        if keep is not None:
            frames = [frames[i] for i in kept(keep, len(frames)).tolist()]
        units = given_units(units, {"energy": "eV"})
        return cls(read_frames(frames, labels), units=units, **options)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        *,
        labels: LabelNames | None = None,
        units: Mapping[str, str] | None = None,
        keep: Any = None,
        **options: Any,
    ) -> Self:
        r"""Makes a data set of named arrays, without an object per molecule.

        Three layouts are understood:

        - frames of one composition: ``z`` ``[n]`` and ``R`` ``[B, n, 3]``, as sGDML and MD17 have
          them; or padded with zeros, ``z`` ``[B, n]``;
        - ragged: ``n_atoms`` ``[B]``, ``z`` ``[N]`` and ``R`` ``[N, 3]``, molecule after molecule.

        Other names of these are ``nuclear_charges`` or ``atomic_numbers``, ``coords``, ``pos``
        or ``positions``, and ``num_atoms``. Periodic structures have ``cell``, ``[3, 3]`` or
        ``[B, 3, 3]``, and maybe ``pbc``. ``smiles`` are taken along.

        Args:
            arrays: Arrays by name.
            labels: Fields, each with the name of its array, such as ``{"energy": "U0"}``; or names
                that stay, such as ``["homo"]``. Without it ``E`` or ``energies`` and ``F`` or
                ``forces``. Arrays of B rows are labels of molecules; ``force`` and, in the ragged
                layout, arrays of N rows are labels of atoms.
            units: Unit of each field, such as ``{"energy": "kcal/mol"}``; needed for energies
                and forces, unless the arrays have ``e_unit``.
            keep: Which molecules: a mask ``[B]`` or their numbers.
            **options: ``energy``, ``cutoff`` and ``transform``, see :class:`MoleculeDataset`.

        Raises:
            ValueError: If arrays are missing or have the wrong shape; lists those that there are.

        >>> import numpy as np
        >>> dataset = MoleculeDataset.from_arrays(
        ...     {"z": np.array([1, 1]), "R": np.eye(3)[None, :2], "E": np.array([-1.0])},
        ...     units={"energy": "Hartree"},
        ...     energy="eV",
        ... )
        >>> dataset.energy
        tensor([-27.2114], dtype=torch.float64)
        """
        given_units(units)
        molecules = read_arrays(arrays, labels, keep)
        known = {"energy": "e_unit", "pos": "r_unit"}
        stated = {
            field: str(np.asarray(arrays[key]).astype(str))
            for field, key in known.items()
            if key in arrays
        }
        return cls(molecules, units=given_units(units, stated), **options)

    @classmethod
    def from_smiles(
        cls,
        smiles: Sequence[str],
        *,
        values: Mapping[str, Any] | None = None,
        num_conformers: int = 1,
        seed: int = 0,
        optimize: str | None = "mmff",
        skip_failures: bool = False,
        units: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Self:
        r"""Makes a data set of SMILES, with coordinates from RDKit.

        Args:
            smiles: One molecule each.
            values: Labels: by name, one number for each of the SMILES.
            num_conformers: Conformers of each; ``idx`` ``[1]`` is the number of the SMILES of a
                molecule, by which conformers must be split into training and test sets.
            seed: See :func:`~pyg_schnet.data.from_smiles`.
            optimize: Likewise.
            skip_failures: Leave out SMILES that fail, with a warning that lists them.
            units: Unit of each of ``values``.
            **options: ``energy``, ``cutoff`` and ``transform``, see :class:`MoleculeDataset`.

        Raises:
            ValueError: If there is no structure for some SMILES; lists them.

        >>> dataset = MoleculeDataset.from_smiles(["C", "CO"], values={"logp": [1.1, -0.8]})
        >>> dataset[1].smiles, dataset[1].logp.item()
        ('CO', -0.8)
        """
        if isinstance(smiles, str):
            raise TypeError(f"'smiles' must be a list: use ['{smiles}']")
        _check_options(**options)
        columns = {name: np.asarray(value) for name, value in (values or {}).items()}
        for name in label_names(list(columns)):
            values_ = columns[name]
            if values_.shape[:1] != (len(smiles),) or values_.dtype.kind not in "fiub":
                raise ValueError(
                    f"'{name}' must have {len(smiles)} numbers, one for each of the SMILES (got "
                    f"{values_.dtype} of shape {list(values_.shape)})"
                )
            columns[name] = values_.astype(np.float64) if values_.dtype.kind == "f" else values_
        molecules: list[Data] = []
        failures: list[str] = []
        for i, text in enumerate(tqdm(smiles, desc="SMILES", disable=not sys.stderr.isatty())):
            try:
                made = from_smiles(
                    text, num_conformers=num_conformers, seed=seed, optimize=optimize
                )
            except ValueError as error:
                failures.append(f"{i}: {error}")
                continue
            for molecule in made if isinstance(made, list) else [made]:
                molecule.idx = torch.tensor([i])
                for name, value in columns.items():
                    molecule[name] = torch.as_tensor(value[i : i + 1])
                molecules.append(molecule)
        if failures:
            message = f"{len(failures)} of {len(smiles)} SMILES have no structure:\n" + "\n".join(
                failures[:_SHOWN] + ["..."] * (len(failures) > _SHOWN)
            )
            if not skip_failures:
                raise ValueError(f"{message}\nCorrect them, or pass skip_failures=True")
            warnings.warn(f"{message}\nThey are left out", stacklevel=2)
        return cls(molecules, units=units, **options)


def _check_options(
    energy: str | None = None, cutoff: float | None = None, transform: Callable | None = None
) -> None:
    """Complains about what makes no sense, before any long work."""
    check_cutoff(cutoff)
    check_energy_unit(energy)


def read_by_ase(path: Path) -> list["Atoms"]:
    """All frames of a file, in any format that ASE reads.

    Raises:
        ImportError: If ASE is not installed.
        ValueError: If it cannot be read.
    """
    frames = frames_by_ase(path)
    return list(tqdm(frames, desc=path.name, unit="frame", disable=not sys.stderr.isatty()))


def frames_by_ase(path: Path) -> Generator["Atoms", None, None]:
    """Frames of a file one by one, as :func:`read_by_ase` reads them."""
    try:
        from ase.db import connect
        from ase.io import iread
        from ase.io.formats import filetype
    except ImportError as error:
        raise ImportError(
            f"reading '{path}' needs the package ase: pip install pyg-schnet[ase]"
        ) from error
    frames: Iterable[Atoms]
    read = 0
    try:
        kind = filetype(str(path))
        if kind == "db":
            _check_database(path)
        if kind in ("db", "json"):
            # iread forgets the columns of the user.
            rows = connect(str(path)).select()
            frames = (row.toatoms(add_additional_information=True) for row in rows)
        else:
            frames = iread(str(path), index=":", do_not_split_by_at_sign=True)
        for atoms in frames:
            yield atoms
            read += 1
    except Exception as error:  # every format of ASE fails in its own way
        where = locate(path, read) if _is_xyz(path) else ""
        raise ValueError(
            f"ASE cannot read it{f', {where}' if where else ''} ({type(error).__name__}: {error})"
        ) from error
    if _is_xyz(path) and (line := stopped_at(path, read)) is not None:
        raise ValueError(
            f"line {line} is blank, where ASE stops reading, behind frame {read - 1}, counted from "
            "0, but more follows: remove that line"
        )


def _is_xyz(path: Path) -> bool:
    return path.suffix.lower() in (".xyz", ".extxyz")


def _check_database(path: Path) -> None:
    """Makes sure that ASE will not turn a foreign file into a data base of its own."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        query = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'systems'"
        if database.execute(query).fetchone() == (0,):
            raise ValueError("this SQLite file is no data base of ASE: it has no table 'systems'")
