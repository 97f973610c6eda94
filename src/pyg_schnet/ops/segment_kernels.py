"""Loops over the rows that molecules occupy in collated tensors.

Molecule ``m`` owns the rows ``starts[m]`` to ``starts[m + 1]``; a batch is a choice of molecules.
"""

import numpy as np

from .compilation import kernel


@kernel
def locate(chosen: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the chosen molecules begin in the batch, and the row of each of its rows."""
    size = chosen.shape[0]
    ptr = np.empty(size + 1, np.int64)
    ptr[0] = 0
    for b in range(size):
        ptr[b + 1] = ptr[b] + starts[chosen[b] + 1] - starts[chosen[b]]
    rows = np.empty(ptr[size], np.int64)
    for b in range(size):
        shift = starts[chosen[b]] - ptr[b]
        for n in range(ptr[b], ptr[b + 1]):
            rows[n] = n + shift
    return ptr, rows


@kernel
def owners(ptr: np.ndarray) -> np.ndarray:
    """The molecule of each row of a batch."""
    size = ptr.shape[0] - 1
    owner = np.empty(ptr[size], np.int64)
    for b in range(size):
        for n in range(ptr[b], ptr[b + 1]):
            owner[n] = b
    return owner


@kernel
def shifted_columns(
    values: np.ndarray,
    chosen: np.ndarray,
    starts: np.ndarray,
    ptr: np.ndarray,
    increments: np.ndarray,
    out: np.ndarray,
) -> None:
    """Copies the columns of the chosen molecules, and adds to each its increment."""
    for r in range(values.shape[0]):
        for b in range(chosen.shape[0]):
            shift = starts[chosen[b]] - ptr[b]
            for e in range(ptr[b], ptr[b + 1]):
                out[r, e] = values[r, e + shift] + increments[b]
