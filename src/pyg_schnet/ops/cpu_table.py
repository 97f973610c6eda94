"""The tridiagonal system of :func:`spline_table` on the CPU."""

import numpy as np
from torch import Tensor

from .compilation import kernel
from .dispatch import batched


def solve(values: Tensor, slopes: Tensor, spacing: float) -> Tensor:
    """Coefficients ``[n + 3, F]`` from values ``[n + 1, F]`` and end slopes ``[2, F]``."""
    table = values.new_empty(values.size(0) + 2, values.size(1))
    _solve(_array(values), _array(slopes), 2 * spacing, table.numpy())
    return table


def solve_transposed(grad: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Gradients by values ``[n + 1, F]`` and slopes ``[2, F]`` from that by the table."""
    values = grad.new_empty(grad.size(0) - 2, grad.size(1))
    slopes = grad.new_empty(2, grad.size(1))
    _solve_transposed(_array(grad), 2 * spacing, values.numpy(), slopes.numpy())
    return values, slopes


def solve_samples(samples: Tensor, envelope: Tensor, stencils: Tensor, spacing: float) -> Tensor:
    """Coefficients ``[n + 3, F]`` from samples ``[n + 7, F]``, see :func:`.sampled_table`."""
    table = samples.new_empty(samples.size(0) - 4, samples.size(1))
    _solve_samples(_array(samples), _array(envelope), _array(stencils), 2 * spacing, table.numpy())
    return table


def solve_samples_transposed(
    grad: Tensor, envelope: Tensor, stencils: Tensor, spacing: float
) -> Tensor:
    """Gradient by the samples ``[n + 7, F]`` from that by the table."""
    samples = grad.new_empty(grad.size(0) + 4, grad.size(1))
    _solve_samples_transposed(
        _array(grad), _array(envelope), _array(stencils), 2 * spacing, samples.numpy()
    )
    return samples


def _array(tensor: Tensor) -> np.ndarray:
    if batched(tensor):
        raise RuntimeError(
            "gradients by the weights of filters cannot be batched by 'is_grads_batched' or "
            "'vectorize=True': compute them one by one, with torch.func, or with mode='exact'"
        )
    return tensor.detach().contiguous().numpy()


@kernel(error_model="numpy")
def _pivots(count: int, like: np.ndarray) -> np.ndarray:
    """Reciprocal pivots of the matrix with diagonal 2, 4, ..., 4, 2 beside ones."""
    pivots = np.empty(count, like.dtype)
    pivots[0] = 0.5
    for i in range(1, count):
        diagonal = 4.0 if i < count - 1 else 2.0
        pivots[i] = 1.0 / (diagonal - pivots[i - 1])
    return pivots


@kernel(error_model="numpy")
def _solve(values: np.ndarray, slopes: np.ndarray, step: float, table: np.ndarray) -> None:
    last, width = values.shape[0] - 1, values.shape[1]
    pivots = _pivots(last + 1, values)
    three, six, h = values.dtype.type(3), values.dtype.type(6), values.dtype.type(step)
    half = values.dtype.type(0.5)
    # The end rows are halved, which makes the matrix symmetric.
    for f in range(width):
        table[1, f] = (three * values[0, f] + half * h * slopes[0, f]) * pivots[0]
    for i in range(1, last):
        p = pivots[i]
        for f in range(width):
            table[i + 1, f] = (six * values[i, f] - table[i, f]) * p
    for f in range(width):
        right = three * values[last, f] - half * h * slopes[1, f]
        table[last + 1, f] = (right - table[last, f]) * pivots[last]
    for i in range(last - 1, -1, -1):
        p = pivots[i]
        for f in range(width):
            table[i + 1, f] -= p * table[i + 2, f]
    for f in range(width):
        table[0, f] = table[2, f] - h * slopes[0, f]
        table[last + 2, f] = table[last, f] + h * slopes[1, f]


@kernel(error_model="numpy")
def _solve_transposed(
    grad: np.ndarray, step: float, values: np.ndarray, slopes: np.ndarray
) -> None:
    last, width = values.shape[0] - 1, values.shape[1]
    pivots = _pivots(last + 1, grad)
    three, six, h = grad.dtype.type(3), grad.dtype.type(6), grad.dtype.type(step)
    half = grad.dtype.type(0.5)
    for i in range(last + 1):
        for f in range(width):
            values[i, f] = grad[i + 1, f]
    for f in range(width):
        values[1, f] += grad[0, f]
        values[last - 1, f] += grad[last + 2, f]
    for f in range(width):
        values[0, f] *= pivots[0]
    for i in range(1, last + 1):
        p = pivots[i]
        for f in range(width):
            values[i, f] = (values[i, f] - values[i - 1, f]) * p
    for i in range(last - 1, -1, -1):
        p = pivots[i]
        for f in range(width):
            values[i, f] -= p * values[i + 1, f]
    for f in range(width):
        slopes[0, f] = h * (half * values[0, f] - grad[0, f])
        slopes[1, f] = h * (grad[last + 2, f] - half * values[last, f])
        values[0, f] *= three
        values[last, f] *= three
    for i in range(1, last):
        for f in range(width):
            values[i, f] *= six


@kernel(error_model="numpy")
def _solve_samples(
    samples: np.ndarray, envelope: np.ndarray, stencils: np.ndarray, step: float, table: np.ndarray
) -> None:
    last, width = envelope.shape[0] - 1, samples.shape[1]
    values = np.empty((last + 1, width), samples.dtype)
    for i in range(last + 1):
        for f in range(width):
            values[i, f] = samples[i + 3, f] * envelope[i]
    slopes = np.zeros((2, width), samples.dtype)
    for k in range(7):
        for f in range(width):
            slopes[0, f] += stencils[0, k] * samples[k, f]
            slopes[1, f] += stencils[1, k] * samples[last + k, f]
    _solve(values, slopes, step, table)


@kernel(error_model="numpy")
def _solve_samples_transposed(
    grad: np.ndarray, envelope: np.ndarray, stencils: np.ndarray, step: float, samples: np.ndarray
) -> None:
    last, width = envelope.shape[0] - 1, grad.shape[1]
    samples[:3] = 0
    samples[last + 4 :] = 0
    slopes = np.empty((2, width), grad.dtype)
    _solve_transposed(grad, step, samples[3 : last + 4], slopes)
    for i in range(last + 1):
        for f in range(width):
            samples[i + 3, f] *= envelope[i]
    for k in range(7):
        for f in range(width):
            samples[k, f] += stencils[0, k] * slopes[0, f]
            samples[last + k, f] += stencils[1, k] * slopes[1, f]
