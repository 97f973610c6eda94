r"""Labels of molecules: how they are read, and what a model takes from those of a training set."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch_geometric.data import Data, Dataset

from ..data.statistics import (
    atom_references,
    composition,
    per_atom_statistics,
    target_statistics,
)
from ..nn import SchNet
from ..nn.readout import AtomwiseReadout

Molecules: TypeAlias = Dataset | Sequence[Data]
LabelReader = Callable[[Data], Tensor]


def label_reader(dataset: Molecules, label: str | int) -> LabelReader:
    """A function that reads a label from a molecule or batch of the data set.

    Args:
        dataset: Molecules, not empty.
        label: The name of a field, or the name or number of a column of ``y``.

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
    if not isinstance(value, Tensor | float | int):
        raise ValueError(
            f"the data have no number or tensor '{name}' (got {type(value).__name__}; the fields "
            f"are {sorted(first.keys())})"
        )
    width = torch.as_tensor(value).numel()
    if column is None and width != 1:
        raise ValueError(
            f"'{name}' holds {width} values per molecule, not one; name a column of it by number"
        )
    if column is not None and not 0 <= column < width:
        raise ValueError(f"'y' has columns 0 to {width - 1} (got {column})")

    def read(data: Data) -> Tensor:
        return torch.as_tensor(data[name]).reshape(-1, width)[:, column or 0].double()

    return read


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
    """Unit of a label, if the data set knows it."""
    named = _origin(dataset)
    units = getattr(named, "units", None)
    if not isinstance(units, dict):
        return None
    if hasattr(named, "target_names") and label not in units:
        label = named.target_names[named.target_index(label)]
    return units.get(label)


@dataclass(frozen=True)
class Labelled:
    """What training takes from a data set, read once.

    Attributes:
        z: Atomic numbers of all molecules ``[N]``.
        sizes: Atoms of each molecule ``[M]``.
        labels: Labels ``[M]`` in float64, NaN where missing.
    """

    z: Tensor
    sizes: Tensor
    labels: Tensor

    @classmethod
    def read(cls, dataset: Molecules, label: str | int, name: str = "data") -> "Labelled":
        """Reads a data set.

        Args:
            dataset: Molecules.
            label: See :func:`label_reader`.
            name: What to call the data set in errors.

        Raises:
            ValueError: If it is empty, has no such label, or only missing or infinite ones.
        """
        if len(dataset) == 0:
            raise ValueError(f"the {name} set is empty")
        read = label_reader(dataset, label)
        molecules = [(data.z, read(data)) for data in dataset]
        labels = torch.cat([value for _, value in molecules])
        if labels.isnan().all():
            raise ValueError(f"the {name} set has no label '{label}': all are missing (NaN)")
        if labels.isinf().any():
            first = int(labels.isinf().nonzero()[0])
            raise ValueError(f"molecule {first} of the {name} set has the label {labels[first]}")
        return cls(
            torch.cat([z for z, _ in molecules]),
            torch.tensor([z.numel() for z, _ in molecules]),
            labels,
        )

    @property
    def counts(self) -> Tensor:
        """Compositions ``[M, 101]``."""
        batch = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
        return composition(self.z, batch, len(self.sizes))

    @property
    def fingerprint(self) -> int:
        """A checksum by which other data are told from these."""
        value = 0
        for tensor in (self.z.long(), self.sizes, self.labels):
            value = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, value)
        return value


def fit_offsets(model: SchNet, data: Labelled, force_scale: float | None = None) -> None:
    """Sets the offsets of a model from a training set.

    Sums over atoms get atom references by least squares and the standard deviation per atom of
    what is left; means over atoms get mean and standard deviation of the label.

    Args:
        model: Model to set; a dipole moment has no offsets.
        data: Training set.
        force_scale: Root mean square of the components of the forces, in place of the standard
            deviation where forces are trained: energies along a trajectory differ by much less than
            atoms pull at each other.
    """
    if not isinstance(model.readout, AtomwiseReadout):
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


def learn_species(model: SchNet, z: Tensor) -> None:
    """Tells a model which species it is trained on, beside those it already was."""
    species = torch.zeros_like(model.species)
    species[0] = True
    species[z.long().to(species.device)] = True
    fresh = bool(model.species.all())
    model.species.copy_(species if fresh else model.species | species)


def _origin(dataset: Any) -> Any:
    """The data set behind views such as ``torch.utils.data.Subset``."""
    while not hasattr(dataset, "target_index") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset
