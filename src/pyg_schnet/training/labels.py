r"""Labels of molecules, and the offsets a model takes from them."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

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
    if hasattr(dataset, "target_index") and first.get(str(label)) is None:
        column = dataset.target_index(label)
    elif isinstance(label, int):
        column = label
    name = "y" if column is not None else str(label)
    value = first.get(name)
    if not isinstance(value, Tensor):
        raise ValueError(f"the data have no '{name}' (fields: {sorted(first.keys())})")
    width = value.numel()
    if column is None and width != 1:
        raise ValueError(
            f"'{name}' holds {width} values per molecule, not one; name a column of it by number"
        )
    if column is not None and not 0 <= column < width:
        raise ValueError(f"'y' has columns 0 to {width - 1} (got {column})")

    def read(data: Data) -> Tensor:
        return data[name].reshape(-1, width)[:, column or 0].double()

    return read


def fit_offsets(model: SchNet, dataset: Molecules, label: str | int) -> None:
    """Sets the offsets and the known species of a model from a training set.

    Sums over atoms get atom references by least squares and the standard deviation per atom of
    what is left; means over atoms get mean and standard deviation of the label.

    Args:
        model: Model to set; a dipole moment has no offsets.
        dataset: Training set.
        label: See :func:`label_reader`.

    Raises:
        ValueError: If no label is known.
    """
    read = label_reader(dataset, label)
    z, sizes, values = [], [], []
    for data in dataset:
        z.append(data.z)
        sizes.append(data.z.numel())
        values.append(read(data))
    atoms, labels = torch.cat(z), torch.cat(values)
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    if isinstance(model.readout, AtomwiseReadout):
        counts = composition(atoms, batch, len(sizes))
        references = None
        if model.readout.reduce == "mean":
            statistics = target_statistics(labels)
        else:
            references = atom_references(counts, labels)
            statistics = per_atom_statistics(counts, labels, references)
        # One molecule, or equal labels, leave nothing to scale by.
        std = statistics.std if statistics.std > 1e-12 * abs(statistics.mean) else 1.0
        model.readout.offsets.set(statistics.mean, std, references)


def learn_species(model: SchNet, dataset: Molecules) -> None:
    """Tells a model which species it is trained on, beside those it already was."""
    species = torch.zeros_like(model.species)
    species[0] = True
    for data in dataset:
        species[data.z.to(species.device)] = True
    fresh = bool(model.species.all())
    model.species.copy_(species if fresh else model.species | species)
