r"""Labels of molecules: how they are read, and what a model takes from those of a training set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Subset
from torch_geometric.data import Data, Dataset, InMemoryDataset

from ..data.slicer import UnsliceableError, plain_tensors
from ..data.statistics import (
    atom_references,
    composition,
    per_atom_statistics,
    target_statistics,
)
from ..datasets.collated import gather
from ..nn import SchNet
from ..nn.readout import AtomwiseReadout
from .fingerprint import Fingerprint, holds_still

Molecules: TypeAlias = Dataset | Sequence[Data]


@dataclass(frozen=True)
class LabelReader:
    """Reads a label from a molecule or batch: ``Data`` or ``Batch`` to ``[B]`` in float64.

    Attributes:
        name: Name of the field.
        width: Numbers per molecule in it; none where the molecules lack it, as NaN then says.
        column: Which of them.
    """

    name: str
    width: int = 1
    column: int = 0

    def __call__(self, data: Data) -> Tensor:
        """Labels of the molecules in ``data``."""
        if self.width == 0:
            return torch.full((getattr(data, "num_graphs", 1),), torch.nan, dtype=torch.float64)
        return torch.as_tensor(data[self.name]).reshape(-1, self.width)[:, self.column].double()


def label_reader(
    dataset: Molecules, label: str | int, *, energy_optional: bool = False
) -> LabelReader:
    """A function that reads a label from a molecule or batch of the data set.

    Args:
        dataset: Molecules, not empty.
        label: The name of a field, or the name or number of a column of ``y``.
        energy_optional: Whether the label ``"energy"`` may be absent, as of data with forces alone;
            it is NaN then.

    Returns:
        A function from ``Data`` or ``Batch`` to labels ``[B]`` in float64.

    Raises:
        ValueError: If the data set is empty or has no such label.
    """
    if len(dataset) == 0:
        raise ValueError("the data set is empty")
    first = dataset[0]
    column: int | None = None
    named = _origin(dataset)
    if hasattr(named, "target_index") and first.get(str(label)) is None:
        column = named.target_index(label)
    elif not isinstance(label, str):
        column = int(label)
    name = "y" if column is not None else str(label)
    value = first.get(name)
    if value is None and name == "energy" and energy_optional:
        return LabelReader(name, width=0)
    if not isinstance(value, Tensor | float | int):
        raise ValueError(
            f"the data have no number or tensor '{name}' (got {type(value).__name__}; the fields "
            f"are {sorted(first.keys())}){_without_energies(first) or _other_names(name)}"
        )
    width = torch.as_tensor(value).numel()
    if column is None and width != 1:
        raise ValueError(
            f"'{name}' holds {width} values per molecule, not one; name a column of it by number"
        )
    if column is not None and not 0 <= column < width:
        raise ValueError(f"'y' has columns 0 to {width - 1} (got {column})")
    return LabelReader(name, width, column or 0)


def _without_energies(data: Data) -> str:
    """What can be done without a label."""
    if data.get("force") is None:
        return ""
    return (
        ". Forces alone can be learnt, with energy_weight=0 (--energy-weight 0) and a "
        "force_weight, and compared, with forces=True"
    )


def _other_names(name: str) -> str:
    """Where a label may be that a file has."""
    if name not in ("energy", "force", "stress"):
        return ""
    return (
        f". One that a file has under another name is read by MoleculeDataset.from_file(..., "
        f"labels={{'{name}': NAME}})"
    )


def check_units(model: SchNet, dataset: Molecules, label: str | int, per: str = "") -> None:
    """Compares the unit of a label with that of a model, where both are known.

    Args:
        model: The model.
        dataset: Molecules with labels.
        label: The label.
        per: What the unit of the label adds to that of the model, such as ``"/Ang"``.

    Raises:
        ValueError: If they differ.
    """
    units = label_units(dataset, label)
    if units is not None and model.units is not None and units != model.units + per:
        raise ValueError(
            f"the labels '{label}' are in {units}, the model is in {model.units + per}: convert "
            "the labels, or set 'model.units'"
        )


def label_units(dataset: Molecules, label: str | int) -> str | None:
    """Unit of a label, if the data set knows it; that of the energy follows from the forces."""
    named = _origin(dataset)
    units = getattr(named, "units", None)
    if not isinstance(units, dict):
        return None
    if hasattr(named, "target_names") and label not in units:
        label = named.target_names[named.target_index(label)]
    if label == "energy" and label not in units:
        force = units.get("force", "")
        return force.removesuffix("/Ang") if force.endswith("/Ang") else None
    return units.get(label)


@dataclass(frozen=True)
class Labelled:
    """What training takes from a data set, read once.

    Attributes:
        z: Atomic numbers of all molecules ``[N]``.
        sizes: Atoms of each molecule ``[M]``.
        labels: Labels ``[M]`` in float64, NaN where missing.
        fingerprint: A checksum by which other data are told from these: of species, labels,
            positions, forces, stress and cells, in their order.
    """

    z: Tensor
    sizes: Tensor
    labels: Tensor
    fingerprint: int

    @classmethod
    def read(
        cls, dataset: Molecules, label: str | int, name: str = "data", *, required: bool = True
    ) -> "Labelled":
        """Reads a data set, in one step where PyG keeps it in memory and nothing transforms it.

        Args:
            dataset: Molecules.
            label: See :func:`label_reader`.
            name: What to call the data set in errors.
            required: Whether a label must be known; else all may be missing, and the energy absent.

        Raises:
            ValueError: If it is empty, has no such label, or only missing or infinite ones, or if a
                molecule has more than one.
        """
        if len(dataset) == 0:
            raise ValueError(f"the {name} set is empty")
        read = label_reader(dataset, label, energy_optional=not required)
        found = _read_collated(dataset, read) or _read_one_by_one(dataset, read, name)
        z, sizes, labels, fingerprint = found
        if required and labels.isnan().all():
            raise ValueError(
                f"the {name} set has no label '{label}': all are missing (NaN)"
                f"{_without_energies(dataset[0])}"
            )
        if labels.isinf().any():
            first = int(labels.isinf().nonzero()[0])
            raise ValueError(f"molecule {first} of the {name} set has the label {labels[first]}")
        for part, values in (("z", z.long()), ("sizes", sizes), ("labels", labels)):
            fingerprint.add(part, values)
        return cls(z, sizes, labels, fingerprint.value)

    @property
    def known(self) -> bool:
        """Whether any label is known."""
        return not bool(self.labels.isnan().all())

    @property
    def counts(self) -> Tensor:
        """Compositions ``[M, 101]``."""
        batch = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
        return composition(self.z, batch, len(self.sizes))


_Found: TypeAlias = tuple[Tensor, Tensor, Tensor, Fingerprint]


def _read_one_by_one(dataset: Molecules, read: LabelReader, name: str) -> _Found:
    """Atomic numbers ``[N]``, atoms ``[M]``, labels ``[M]`` and geometry of any molecules."""
    z, labels, fingerprint = [], [], Fingerprint()
    whole = holds_still(dataset)
    for i, data in enumerate(dataset):
        value = data.get(read.name)
        count = 0 if value is None else torch.as_tensor(value).numel()
        if count != read.width:
            raise ValueError(
                f"'{read.name}' must hold as many numbers in every molecule: {read.width} in "
                f"molecule 0 of the {name} set, {count} in molecule {i}"
            )
        z.append(data.z)
        labels.append(read(data))
        if whole:
            fingerprint.add_fields(data.get)
    sizes = torch.tensor([one.numel() for one in z])
    return torch.cat(z), sizes, torch.cat(labels), fingerprint


def _read_collated(dataset: Any, read: LabelReader) -> _Found | None:
    """The same from the tensors that hold all molecules, if these are what the molecules hold."""
    dataset = _as_view(dataset)
    if not isinstance(dataset, InMemoryDataset):
        return None
    try:
        data, slices = plain_tensors(dataset)
    except UnsliceableError:
        return None
    molecules = None
    if dataset._indices is not None:
        molecules = torch.as_tensor(list(dataset._indices))

    def rows(name: str) -> Any:
        """What all molecules have under a name, one after the other."""
        value = data[name] if name in slices else None
        if molecules is None or not isinstance(value, Tensor):
            return value
        return gather(value, slices[name], molecules)

    z = rows("z")
    labels = _collated_labels(data, slices, read)
    if labels is None or not isinstance(z, Tensor):
        return None
    sizes = slices["z"].diff()
    if molecules is not None:
        sizes, labels = sizes[molecules], labels[molecules]
    fingerprint = Fingerprint()
    fingerprint.add_fields(rows)
    return z, sizes, labels, fingerprint


def _collated_labels(data: Data, slices: dict[str, Tensor], read: LabelReader) -> Tensor | None:
    """Labels of all molecules that are stored, if each has as many as the first."""
    if read.width == 0:
        absent = read.name not in slices and "z" in slices
        return torch.full((slices["z"].numel() - 1,), torch.nan).double() if absent else None
    values = data[read.name] if read.name in slices else None
    if not isinstance(values, Tensor):
        return None
    rows = slices[read.name].diff()
    same = values.numel() == len(rows) * read.width and bool((rows == rows[0]).all())
    if not same or data.__cat_dim__(read.name, values) != 0:
        return None
    return read(data)


def _as_view(dataset: Any) -> Any:
    """A subset by PyTorch as one by PyG, where there is one."""
    if type(dataset) is Subset:
        whole = _as_view(dataset.dataset)
        if isinstance(whole, InMemoryDataset):
            return whole[list(dataset.indices)]
    return dataset


def fit_offsets(model: SchNet, data: Labelled, force_scale: float | None = None) -> None:
    """Sets the offsets of a model from a training set.

    Sums over atoms get atom references by least squares and the standard deviation per atom of
    what is left; means over atoms get mean and standard deviation of the label. Without any labels
    there is a scale alone: energies are then known but for a constant.

    Args:
        model: Model to set; a dipole moment has no offsets.
        data: Training set.
        force_scale: Root mean square of the components of the forces, in place of the standard
            deviation where forces are trained: energies along a trajectory differ by much less than
            atoms pull at each other.
    """
    if not isinstance(model.readout, AtomwiseReadout):
        return
    if not data.known:
        model.readout.offsets.set(std=1.0 if force_scale is None else force_scale)
        return
    references, size = None, data.labels.abs()
    if model.readout.reduce == "mean":
        statistics = target_statistics(data.labels)
    else:
        counts = data.counts
        references = atom_references(counts, data.labels)
        statistics = per_atom_statistics(counts, data.labels, references)
        size = size / data.sizes
    # A perfect fit leaves rounding errors, which are nothing to scale by.
    negligible = 1e-10 * size[~size.isnan()].max().item()
    std = statistics.std if statistics.std > negligible else 1.0
    std = std if force_scale is None else force_scale
    model.readout.offsets.set(statistics.mean, std, references)


def _origin(dataset: Any) -> Any:
    """The data set behind views such as ``torch.utils.data.Subset``."""
    while not hasattr(dataset, "target_index") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset
