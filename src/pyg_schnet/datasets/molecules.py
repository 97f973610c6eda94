r"""What all data sets of molecules share: units, statistics, edges, files that are checked."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset

from ..data.statistics import TargetStatistics, target_statistics
from ..data.units import convert, exchange
from .collated import Slices, add_edges, gather, save, split
from .download import RemoteFile, by_hand, download

T = TypeVar("T")

# Floating-point fields that describe a molecule; all others are labels.
_INPUTS = frozenset({"pos", "cell", "x", "edge_weight", "edge_attr", "edge_shift", "cutoff"})
_INPUTS |= {"bond_attr"}


@dataclass(frozen=True)
class DatasetStatistics:
    r"""What a data set holds; ``print`` shows it as a table.

    Attributes:
        num_molecules: Number of molecules.
        num_atoms: Statistics of the number of atoms per molecule.
        elements: Number of atoms by atomic number, of all molecules together.
        labels: Statistics by name of the label; of the components, where it is a vector. Missing
            values (NaN) do not count.
        units: Unit by name of the label, where it is known.
    """

    num_molecules: int
    num_atoms: TargetStatistics
    elements: dict[int, int]
    labels: dict[str, TargetStatistics]
    units: dict[str, str]

    def __str__(self) -> str:
        rows = {"atoms": (self.num_atoms, "")}
        rows |= {name: (row, self.units.get(name, "")) for name, row in self.labels.items()}
        lines = [
            f"{self.num_molecules} molecules; atoms by atomic number: {self.elements}",
            f"{'':12}" + "".join(f"{name:>14}" for name in ("mean", "std", "min", "max")),
        ]
        for name, (row, unit) in rows.items():
            numbers = "".join(f"{x:14.6g}" for x in (row.mean, row.std, row.min, row.max))
            lines.append(f"{name:12}{numbers}  {unit}".rstrip())
        return "\n".join(lines)


class InMemoryMolecules(InMemoryDataset):
    r"""Base of the data sets: molecules that know the units of their labels.

    A data set with several properties in the columns of ``y`` names them in ``target_names``.

    Attributes:
        units: Unit of each field or target that has one, such as
            ``{"pos": "Ang", "energy": "eV", "force": "eV/Ang"}``.
    """

    # PyG sets these in __init__; mypy cannot see of which type.
    _data: Data
    slices: Slices

    units: dict[str, str]

    def convert_units(self, energy: str | None = None, length: str | None = None) -> Self:
        r"""Converts all energies, all lengths, and what is composed of them.

        Forces follow as energy over length, polarizabilities as powers of a length, and so on.
        What is neither (Debye, GHz, cal/mol/K) stays as it is.

        Args:
            energy: New unit of energy, such as ``"eV"``; see
                :func:`~pyg_schnet.data.units.convert`.
            length: New unit of length, such as ``"Bohr"``: positions and distances too.

        Returns:
            A converted copy, of the same molecules if this is a view; this one is not changed.
            Every field keeps its precision.

        Raises:
            ValueError: If a unit is unknown or not of that kind, or if there is nothing to convert.

        >>> from pyg_schnet.datasets import QM9Sample
        >>> dataset = QM9Sample()
        >>> dataset.convert_units(energy="kcal/mol").units["U0"]
        'kcal/mol'
        >>> dataset.units["U0"]
        'eV'
        """
        return self._in_units(_exchanged(self.units, energy, length))

    def _in_units(self, units: dict[str, str]) -> Self:
        """A copy with each field in the unit given for it."""
        converted = copy.copy(self)
        converted._data = copy.copy(self._data)
        converted._data_list = None
        converted.units = units
        names = self._columns()
        if names:
            converted._data.y = self._data.y.clone()
        for name, unit in units.items():
            if unit == self.units[name]:
                continue
            if name in names:
                column = converted._data.y[:, names.index(name)]
                column.copy_(convert(column, self.units[name], unit))
            elif name in self._data:
                value = self._data[name]
                # Whole numbers times a factor would be float32.
                value = value if value.is_floating_point() else value.double()
                converted._data[name] = convert(value, self.units[name], unit)
        return converted

    def statistics(self) -> DatasetStatistics:
        r"""Describes the molecules and labels of the data set, or of the view that it is.

        Raises:
            ValueError: If it is empty.

        >>> from pyg_schnet.datasets import QM9Sample
        >>> statistics = QM9Sample()[:2].statistics()  # CH4 and CH3OCH2CH3
        >>> statistics.num_atoms.max, statistics.elements
        (12.0, {1: 12, 6: 4, 8: 1})
        >>> print(f"{statistics.labels['U0'].mean:.1f} {statistics.units['U0']}")
        -3193.7 eV
        """
        if len(self) == 0:
            raise ValueError("the data set is empty, and has no statistics")
        counts = torch.bincount(self._field("z"))
        names = self._columns()
        labels: dict[str, Tensor] = {}
        for key, value in self._data.to_dict().items():
            if key in _INPUTS or not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            values = self._field(key)
            if key == "y" and names:
                labels |= dict(zip(names, values.unbind(dim=1), strict=True))
            else:
                labels[key] = values
        return DatasetStatistics(
            num_molecules=len(self),
            num_atoms=target_statistics(self._num_atoms().double()),
            elements={int(i): int(counts[i]) for i in counts.nonzero() if i > 0},
            labels={name: _statistics(values) for name, values in labels.items()},
            units={name: unit for name, unit in self.units.items() if name in labels},
        )

    def _hold(
        self,
        data: Data,
        slices: Slices,
        units: Mapping[str, str],
        *,
        energy: str | None = None,
        cutoff: float | None = None,
    ) -> None:
        """Takes collated molecules, in energy units and with edges as asked for."""
        self._data, self.slices, self.units = data, slices, dict(units)
        if cutoff is not None:
            self._data, self.slices = add_edges(data, slices, cutoff)
            self.units |= dict.fromkeys(("edge_weight", "cutoff"), units["pos"])
        if energy is not None:
            converted = self.convert_units(energy)
            self._data, self.units = converted._data, converted.units

    def _load_processed(self) -> tuple[Data, Slices]:
        """The processed file, refused if it is damaged."""
        path = self.processed_paths[0]
        try:
            self.load(path)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # unpickling nonsense fails in any way
            raise ValueError(f"'{path}' is damaged ({error}): pass 'force_reload=True'") from error
        return self._data, self.slices

    def _save_processed(self, data: Data, slices: Slices) -> None:
        """Writes the processed file, after ``pre_filter`` and ``pre_transform``."""
        if self.pre_filter is not None or self.pre_transform is not None:
            data, slices = self.collate(self._prepare(split(data, slices)))
        save(data, slices, self.processed_paths[0])

    def _prepare(self, molecules: Iterable[Data]) -> list[Data]:
        if self.pre_filter is not None:
            molecules = filter(self.pre_filter, molecules)
        if self.pre_transform is not None:
            molecules = map(self.pre_transform, molecules)
        prepared = list(molecules)
        if not prepared:
            raise ValueError("'pre_filter' leaves no molecule")
        return prepared

    @property
    def _is_processed(self) -> bool:
        """Whether the raw files are no longer needed."""
        return Path(self.processed_paths[0]).exists() and not self.force_reload

    def _fetch(self, file: RemoteFile, check: Callable[[Path], object] | None = None) -> Path:
        """Downloads a raw file that is not there."""
        path = Path(self.raw_dir, file.name)
        if not path.exists():
            download(file.urls, path, file.size, file.md5, check)
        return path

    def _read_raw(self, file: RemoteFile, read: Callable[[Path], T], path: Path | None = None) -> T:
        """Reads a raw file, or a part of it at ``path``; errors say what to do about it."""
        whole = Path(self.raw_dir, file.name)
        try:
            return read(path or whole)
        except ValueError as error:
            hint = by_hand(file.urls, whole, file.size, file.md5)
            raise ValueError(f"{error}\nDelete it to have it downloaded again. {hint}") from error

    def _columns(self) -> tuple[str, ...]:
        """Names of the columns of ``y``, if they have some."""
        names: tuple[str, ...] = getattr(self, "target_names", ())
        width = self._data.y.size(-1) if names and isinstance(self._data.y, Tensor) else 0
        if width not in (0, len(names)):
            raise ValueError(
                f"'y' has {width} columns, but {len(names)} names: a 'pre_transform' must not drop "
                "some, use 'targets' for that"
            )
        return names if width else ()

    def _field(self, name: str) -> Tensor:
        """A field of all molecules of the view, one after the other."""
        value = self._data[name]
        if self._indices is None or self.slices is None:
            return value
        return gather(value, self.slices[name], torch.as_tensor(list(self._indices)))

    def _num_atoms(self) -> Tensor:
        """Atoms of each molecule of the view, ``[B]``."""
        if self.slices is None:
            return torch.tensor([self._data.z.numel()])
        counts = self.slices["z"].diff()
        return counts if self._indices is None else counts[list(self._indices)]


def check_cutoff(cutoff: float | None) -> None:
    """Complains about a senseless cutoff, before any long work."""
    if cutoff is not None and not cutoff > 0:
        raise ValueError(f"'cutoff' must be positive (got {cutoff})")


def check_energy_unit(unit: str | None) -> None:
    """Complains about a unit that is none of energy, before any long work."""
    if unit is not None:
        convert(1.0, unit, "eV")


def _exchanged(units: Mapping[str, str], energy: str | None, length: str | None) -> dict[str, str]:
    """The units after a conversion, which must not be in vain."""
    if energy is None and length is None:
        raise ValueError("name a unit to convert to, such as energy='eV' or length='Bohr'")
    # Whether there is an energy to exchange shows where two different ones are put in its place.
    for kind, wanted, probes in (
        ("energy", energy, ("eV", "meV")),
        ("length", length, ("Ang", "Bohr")),
    ):
        one, other = ([exchange(unit, **{kind: x}) for unit in units.values()] for x in probes)
        if wanted is not None and one == other:
            raise ValueError(f"nothing here is in a unit of {kind} (got {dict(units)})")
    return {name: exchange(unit, energy, length) for name, unit in units.items()}


def _statistics(values: Tensor) -> TargetStatistics:
    values = values.flatten()
    if values.isnan().all():
        return TargetStatistics(*[float("nan")] * 4)
    return target_statistics(values)
