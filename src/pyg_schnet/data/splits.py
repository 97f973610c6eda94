r"""Splits of a data set."""

import json
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Dataset

from ..storage import write_atomically


def random_split(
    dataset: Dataset, sizes: list[int], seed: int = 0, file: str | Path | None = None
) -> list[Dataset]:
    r"""Splits a data set at random, the same way for the same seed.

    Molecules of QM9 are independent, so a random split is a fair test. Frames of a trajectory or
    conformations of the same molecule are not: split those by frame or molecule.

    Args:
        dataset: Data set to split; the parts are views of it.
        sizes: Number of molecules of each part; one of them may be -1 for all the rest.
        seed: Seed of the shuffle.
        file: JSON file that keeps the indices of the parts.

    Returns:
        One view per size, without a common molecule.

    Raises:
        TypeError: If sizes are not whole numbers.
        ValueError: If there are not enough molecules.

    >>> from torch_geometric.datasets import FakeDataset
    >>> [len(part) for part in random_split(FakeDataset(num_graphs=10), [7, -1], seed=1)]
    [7, 3]
    """
    sizes = list(sizes)
    if not all(isinstance(size, int) for size in sizes):
        raise TypeError(f"sizes are whole numbers of molecules (got {sizes})")
    fixed = sum(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise ValueError(f"sizes must not be negative, but for one -1 (got {sizes})")
    if fixed > len(dataset):
        raise ValueError(f"cannot take {fixed} of {len(dataset)} molecules (sizes {sizes})")
    sizes = [len(dataset) - fixed if size == -1 else size for size in sizes]
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    parts = list(order[: sum(sizes)].split(sizes))
    if file is not None:
        content: dict[str, Any] = {
            "seed": seed,
            "num_molecules": len(dataset),
            "parts": [part.tolist() for part in parts],
        }
        write_atomically(file, json.dumps(content).encode())
    return [dataset.index_select(part) for part in parts]


def load_split(dataset: Dataset, file: str | Path) -> list[Dataset]:
    """The parts of a data set that :func:`random_split` made and saved.

    Args:
        dataset: The same data set.
        file: Its JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no split, or one of another number of molecules.
    """
    try:
        saved = json.loads(Path(file).read_text())
        parts, size = saved["parts"], saved["num_molecules"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{file}' holds no split ({type(error).__name__}: {error}): make it by random_split"
        ) from error
    if size != len(dataset):
        raise ValueError(f"'{file}' splits {size} molecules, the data set has {len(dataset)}")
    return [dataset.index_select(part) for part in parts]
