r"""Checksums by which other molecules are told from those of a run."""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What is trained on, beside species and labels.
_FIELDS = ("pos", "force", "stress", "cell", "pbc")


class Fingerprint:
    """A checksum of the values of named fields, however these are cut into molecules.

    It is the same in every process, and for the same molecules in the same order, be they a whole
    data set, a view of one or a list.

    >>> whole, parts = Fingerprint(), Fingerprint()
    >>> whole.add("pos", torch.arange(6.0).view(2, 3))
    >>> for row in torch.arange(6.0).view(2, 3):
    ...     parts.add("pos", row)
    >>> whole.value == parts.value
    True
    """

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Adds the next values of a field."""
        before = self._sums.get(name)
        if before is None:
            before = zlib.crc32(str(values.dtype).encode())
        content = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._sums[name] = zlib.crc32(content.numpy().data, before)

    def add_fields(self, values_of: Callable[[str], Any]) -> None:
        """Adds the positions of the next molecules and, where they have some, forces and cells.

        Args:
            values_of: From the name of a field to its values; ``None`` if there are none.
        """
        for name in _FIELDS:
            values = values_of(name)
            if isinstance(values, Tensor):
                self.add(name, values)

    @property
    def value(self) -> int:
        """The checksum of what was added."""
        return zlib.crc32(repr(sorted(self._sums.items())).encode())


def holds_still(dataset: Any) -> bool:
    """Whether molecules are the same each time they are looked at.

    Augmentation, such as random rotations, makes other positions and forces of the same molecules,
    by which they cannot be known again. So whatever has a transform is taken for that.
    """
    layer = dataset
    while layer is not None:
        if getattr(layer, "transform", None) is not None:
            return False
        layer = getattr(layer, "dataset", None)
    looks = [Fingerprint(), Fingerprint()]
    for look in looks:
        look.add_fields(dataset[0].get)
    return looks[0].value == looks[1].value
