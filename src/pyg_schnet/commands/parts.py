r"""Who is trained on, who validates, who tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch_geometric.data import InMemoryDataset

from ..data.splits import load_split, random_split
from .flags import UsageError
from .sources import DataSettings, Source


@dataclass(frozen=True)
class Parts:
    """The parts of the data of a run.

    Attributes:
        train: Molecules to train on.
        val: Molecules to validate with.
        tests: Molecules to test with, by name; none if they are used up.
    """

    train: InMemoryDataset
    val: InMemoryDataset
    tests: Mapping[str, InMemoryDataset]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of molecules of each."""
        tests = {name: len(test) for name, test in self.tests.items()}
        return {"train": len(self.train), "validation": len(self.val), **tests}

    def __str__(self) -> str:
        tests = " and ".join(
            f"{len(test):,} to test" + ("" if name == "test" else f" ({name})")
            for name, test in self.tests.items()
        )
        return (
            f"{len(self.train):,} molecules to train on, {len(self.val):,} to validate, "
            f"{tests or 'none to test'}"
        )


def split(
    source: Source, settings: DataSettings, seed: int, directory: Path | None, *, saved: bool
) -> Parts:
    r"""Splits molecules at random, or as they come where they come in parts.

    What is drawn is kept in ``split*.json``, so that it stays the same whatever becomes of the
    random numbers of PyTorch.

    Args:
        source: Molecules.
        settings: How many.
        seed: Seed, unless the settings have one of their own.
        directory: Where to keep the numbers of the molecules; nowhere if ``None``.
        saved: Take the split that is kept there, in place of a new one.

    Raises:
        UsageError: If there are not enough molecules.
        FileNotFoundError: If the saved split is missing.
    """
    seed = settings.split_seed if settings.split_seed is not None else seed

    def draw(name: str, pool: InMemoryDataset, sizes: list[int]) -> list[InMemoryDataset]:
        file = None if directory is None else directory / f"{name}.json"
        if saved and file is not None:
            return load_split(pool, file)
        wanted = sum(size for size in sizes if size > 0)
        if wanted > len(pool):
            raise UsageError(
                f"there are {len(pool):,} molecules to split, and {' + '.join(map(str, sizes))} "
                "asked for: give smaller --num-train, --num-val or --num-test"
            )
        return random_split(pool, sizes, seed, file)

    num_train = settings.num_train or source.num_train
    num_val = settings.num_val or source.num_val
    num_test = -1 if settings.num_test is None else settings.num_test
    val, tests = source.val, dict(source.tests)
    if source.val is not None:
        train = source.pool
        if num_train is not None:
            train = draw("split", source.pool, [num_train])[0]
        if num_val is not None:
            val = draw("split_validation", source.val, [num_val])[0]
    else:
        sizes = [num_train or -1, num_val or 0] + ([] if tests else [num_test])
        train, val, *rest = draw("split", source.pool, sizes)
        tests |= dict(zip(["test"], rest))
    if source.tests and num_test >= 0:
        tests = {
            name: draw(f"split_{name}", test, [num_test])[0] for name, test in source.tests.items()
        }
    assert val is not None  # for mypy: drawn, where it does not come separately
    return Parts(train, val, {name: test for name, test in tests.items() if len(test) > 0})
