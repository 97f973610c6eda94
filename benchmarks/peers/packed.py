"""Cholesky factorization of a matrix of which only the lower triangle is kept: half the memory.

The triangle is a list of panels of columns, each from its diagonal block down: panel k has the
shape ``[rows, width]``, with fewer rows by the widths of all before it.
"""

from collections.abc import Iterable

import numpy as np
from scipy.linalg import solve_triangular


def factorize(panels: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Panels of the factor L of a symmetric positive definite matrix, in place of its own.

    Args:
        panels: Panels of the matrix, float64, the first with all rows; each may be made when those
            before it are done, and is written over.

    Raises:
        numpy.linalg.LinAlgError: If the matrix is not positive definite.
    """
    done: list[np.ndarray] = []
    for panel in panels:
        width = panel.shape[1]
        for left in done:
            beside = left[-len(panel) :]
            panel -= beside @ beside[:width].T
        diagonal = np.linalg.cholesky(panel[:width])
        panel[:width] = diagonal
        # Its transpose is ordered as LAPACK wants it, so this needs no copy.
        solved = solve_triangular(diagonal, panel[width:].T, lower=True, overwrite_b=True)
        panel[width:] = solved.T
        done.append(panel)
    return done


def solve(factor: list[np.ndarray], y: np.ndarray) -> np.ndarray:
    """The solution x ``[n]`` of L L^T x = y ``[n]``."""
    x = y.copy()
    for panel in factor:
        width = panel.shape[1]
        part, below = x[-len(panel) :][:width], x[-len(panel) :][width:]
        part[:] = solve_triangular(panel[:width], part, lower=True)
        below -= panel[width:] @ part
    for panel in reversed(factor):
        width = panel.shape[1]
        part, below = x[-len(panel) :][:width], x[-len(panel) :][width:]
        part -= panel[width:].T @ below
        part[:] = solve_triangular(panel[:width], part, lower=True, trans="T")
    return x


def bytes_needed(size: int, width: int) -> int:
    """Memory for a matrix of ``size`` rows in panels of ``width``, and for the work on them.

    Three panels are in work: with r rows left that is 3 r width beside a triangle that lacks
    r^2 / 2, which is the most, 4.5 width^2 beyond the triangle, where r is 3 width.
    """
    return 8 * (size * (size + width) // 2 + 5 * width**2)
