r"""Filters sampled on radial knots and interpolated by a cubic B-spline.

A filter :math:`W(d) \in \mathbb{R}^F` is a function of one distance. On equally spaced knots
:math:`r_m = r_0 + m h` it is

.. math::
    W(d) \approx \sum_{m=0}^{3} B_m(u)\, T_{k+m}, \qquad
    \frac{d - r_0}{h} = k + u, \quad k \in \mathbb{Z},\ u \in [0, 1),

twice continuously differentiable, local, and linear in the coefficients :math:`T`. The error falls
as :math:`h^4` up to both ends if the slopes there are exact (a clamped spline).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .dispatch import use_cpu_kernels

# A cubic has three derivatives; those above vanish.
MAX_ORDER = 3
# Powers of z = sqrt(3) - 2 below 1e-17 contribute nothing in float64.
_REACH = 30


@dataclass(frozen=True)
class Knots:
    r"""Equally spaced knots :math:`r_m = r_0 + m h`, from m = 0 to the number of intervals.

    Distances below ``start`` or beyond the last knot get a filter of zero. That is exact where the
    filter vanishes from its last knot on (``vanishes``); elsewhere :meth:`EdgePlan.build` reports
    or refuses such distances.

    Args:
        start: First knot; distances and knots share one unit.
        spacing: Distance h between knots.
        intervals: Number of intervals; there is one knot more.
        vanishes: Whether the filter is zero at and beyond the last knot, as with an envelope.
    """

    start: float
    spacing: float
    intervals: int
    vanishes: bool

    @classmethod
    def spanning(
        cls,
        length_scale: float,
        stop: float,
        start: float = 0.0,
        vanishes: bool = True,
        fineness: float = 10.0,
    ) -> "Knots":
        r"""Knots from ``start`` to ``stop`` that resolve structure of size ``length_scale``.

        The spacing is the largest one not above ``length_scale / fineness`` that puts a knot at
        ``stop``. For Gaussians :math:`e^{-\gamma (d - \mu)^2}` the width is
        :math:`1 / \sqrt{2\gamma}`; ten knots in it leave an error of 1e-6 of the largest
        :math:`|W|`.

        Args:
            length_scale: Width of the filter's basis functions.
            stop: Cutoff, or end of the filter's range.
            start: Smallest distance at which the filter is smooth.
            vanishes: Whether the filter is zero from ``stop`` on.
            fineness: Knots per length scale.

        Raises:
            ValueError: If lengths are not positive and finite, or ``stop`` is not beyond ``start``.
        """
        for name, value in (("length_scale", length_scale), ("fineness", fineness)):
            if not 0 < value < math.inf:
                raise ValueError(f"'{name}' must be positive and finite (got {value})")
        if not (0 <= start < stop < math.inf):
            raise ValueError(f"need 0 <= start < stop < inf (got start={start}, stop={stop})")
        # The slack keeps 5.0 / 0.02 at 250 intervals, whatever its rounding.
        intervals = max(1, math.ceil((stop - start) / length_scale * fineness - 1e-9))
        return cls(float(start), (stop - start) / intervals, intervals, vanishes)

    @property
    def stop(self) -> float:
        """The last knot."""
        return self.start + self.spacing * self.intervals

    @property
    def rows(self) -> int:
        """Number K of rows of the coefficient table: one per knot and two for the ends."""
        return self.intervals + 3

    @property
    def limit(self) -> float:
        """Distances count while (d - start) / spacing is below this number."""
        # Without an envelope d = stop still counts, whichever way its quotient is rounded.
        return float(self.intervals) if self.vanishes else self.intervals + 1e-3

    def covering(self, distance: float, step: float = 2.0) -> "Knots":
        r"""The first knots of these, enough for distances up to ``distance``.

        Args:
            distance: Largest distance needed.
            step: The reach is rounded up to multiples of this length, so that tables of different
                batches have few different sizes.

        Returns:
            Knots of the same spacing; these very knots if all of them are needed.
        """
        reach = step * math.ceil(max(distance - self.start, 0.0) / step)
        intervals = math.ceil(reach / self.spacing - 1e-9)
        if intervals >= self.intervals:
            return self
        return replace(self, intervals=max(1, intervals), vanishes=False)

    def halved(self) -> "Knots":
        """Knots over the same range with half the spacing."""
        return replace(self, spacing=self.spacing / 2, intervals=2 * self.intervals)

    def positions(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """The knots, ``[intervals + 1]``."""
        steps = torch.arange(self.intervals + 1, dtype=torch.float64, device="cpu")
        positions = self.start + self.spacing * steps
        # Rounding must not move the last knot off the cutoff, where the envelope ends.
        return positions.to(dtype=dtype or torch.get_default_dtype(), device=device)


def spline_table(values: Tensor, slopes: Tensor, spacing: float) -> Tensor:
    r"""Coefficients of the clamped cubic B-spline through ``values``.

    Solves :math:`\tfrac16 (T_{m} + 4 T_{m+1} + T_{m+2}) = W(r_m)` with
    :math:`(T_2 - T_0) / 2h = W'(r_0)` and the same at the last knot: a tridiagonal system, in
    O(K F). Linear in ``values`` and ``slopes``, and differentiable in them any number of times.

    Args:
        values: Filter at the knots, ``[n + 1, F]``.
        slopes: Derivative of the filter at the first and at the last knot, ``[2, F]``, per unit
            of length.
        spacing: Distance h between knots.

    Returns:
        Table of coefficients, ``[n + 3, F]``.

    Raises:
        ValueError: If shapes do not match.
    """
    if values.dim() != 2 or values.size(0) < 2:
        raise ValueError(f"'values' must have shape [n + 1, F], n > 0 (got {list(values.shape)})")
    if slopes.shape != (2, values.size(1)):
        raise ValueError(
            f"'slopes' must have shape [2, {values.size(1)}] like the values "
            f"(got {list(slopes.shape)})"
        )
    if use_cpu_kernels(values):
        return _SplineTable.apply(values, slopes, spacing)
    return _solve_clamped(values, slopes, spacing)


def sampled_table(samples: Tensor, envelope: Tensor, stencils: Tensor, spacing: float) -> Tensor:
    r"""Coefficients of the clamped cubic B-spline through samples times an envelope.

    What :func:`spline_table` makes of ``samples[3:-3] * envelope``, with slopes at the ends by
    finite differences of seven samples each; in one step, on the CPU.

    Args:
        samples: At the knots and at three more beyond each end, ``[n + 7, F]``.
        envelope: At the knots, ``[n + 1]``; no gradient is computed for it.
        stencils: Weights that turn the first and the last seven samples into slopes, ``[2, 7]``;
            no gradient is computed for them either.
        spacing: Distance h between knots.

    Returns:
        Table of coefficients, ``[n + 3, F]``, differentiable in ``samples`` any number of times.

    Raises:
        ValueError: If shapes do not match.
    """
    rows = samples.size(0) - 6
    if rows < 2 or envelope.shape != (rows,) or stencils.shape != (2, 7):
        raise ValueError(
            "need 'samples' [n + 7, F] with n > 0, 'envelope' [n + 1] and 'stencils' [2, 7] (got "
            f"{list(samples.shape)}, {list(envelope.shape)} and {list(stencils.shape)})"
        )
    if use_cpu_kernels(samples):
        return _SampledTable.apply(samples, envelope, stencils, spacing)
    slopes = torch.stack([stencils[0] @ samples[:7], stencils[1] @ samples[-7:]])
    return _solve_clamped(samples[3:-3] * envelope.unsqueeze(1), slopes, spacing)


def locate(distances: Tensor, knots: Knots) -> tuple[Tensor, Tensor, Tensor]:
    r"""Interval and position within it.

    Args:
        distances: Distances d, ``[E]``.
        knots: The knots.

    Returns:
        First row k of the four taps ``[E]`` (int64), offset u in the interval ``[E]``, and
        whether d lies between the first and the last knot ``[E]``.
    """
    scaled = (distances - knots.start) * (1.0 / knots.spacing)
    inside = (scaled >= 0) & (scaled < knots.limit)
    index = scaled.detach().nan_to_num(0.0).long().clamp(0, knots.intervals - 1)
    return index, scaled - index, inside


def spline_basis(offset: Tensor, spacing: float, order: int = 0) -> Tensor:
    r"""The four cubic B-splines that overlap an interval, or their derivatives.

    Args:
        offset: Position u in the interval, ``[E]``, from 0 to 1.
        spacing: Distance h between knots.
        order: Derivative with respect to the distance; zero above the third.

    Returns:
        :math:`B_m^{(k)}(u) / h^k`, ``[E, 4]``.
    """
    u = offset
    one = torch.ones_like(u)
    if order == 0:
        v = 1 - u
        taps = [
            v * v * v / 6,
            (4 - 3 * u * u * (1 + v)) / 6,
            (4 - 3 * v * v * (1 + u)) / 6,
            u * u * u / 6,
        ]
    elif order == 1:
        taps = [-(1 - u) * (1 - u) / 2, (3 * u - 4) * u / 2, (1 + 2 * u - 3 * u * u) / 2, u * u / 2]
    elif order == 2:
        taps = [1 - u, 3 * u - 2, 1 - 3 * u, u]
    elif order == MAX_ORDER:
        taps = [-one, 3 * one, -3 * one, one]
    else:
        return offset.new_zeros(offset.size(0), 4)
    return torch.stack(taps, dim=-1) * spacing**-order


def _solve_clamped(values: Tensor, slopes: Tensor, spacing: float) -> Tensor:
    # Each end row with its ghost coefficient eliminated: (4 T_1 + 2 T_2) / 6 = W_0 + h W'_0 / 3.
    ends = torch.stack([slopes[0], -slopes[1]]) * (2 * spacing)  # [2, F]
    right = torch.cat([6 * values[:1] + ends[:1], 6 * values[1:-1], 6 * values[-1:] + ends[1:]])
    inner = _invert_mirrored(right)
    return torch.cat([inner[1:2] - ends[:1], inner, inner[-2:-1] - ends[1:]])


def _solve_clamped_transposed(grad: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    inner = grad[1:-1].clone()
    inner[1] += grad[0]
    inner[-2] += grad[-1]
    # The matrix is D^-1 S with S symmetric and D = diag(1/2, 1, ..., 1, 1/2).
    inner[0] *= 2
    inner[-1] *= 2
    right = _invert_mirrored(inner)
    right[0] /= 2
    right[-1] /= 2
    ends = torch.stack([right[0] - grad[0], grad[-1] - right[-1]])
    return 6 * right, 2 * spacing * ends


def _invert_mirrored(right: Tensor) -> Tensor:
    r"""Solves :math:`c_{i-1} + 4 c_i + c_{i+1} = b_i` with c and b mirrored at both ends.

    The inverse of the endless matrix is the filter :math:`z^{|i-j|} / 2\sqrt3`, z = sqrt(3) - 2,
    which has died away after thirty steps.
    """
    last = right.size(0) - 1
    if torch.compiler.is_compiling():  # compilers stumble over the remainder
        steps = range(-_REACH, last + _REACH + 1)
        places = [last - abs(step % (2 * last) - last) for step in steps]
        mirrored = torch.tensor(places, device=right.device)
    else:  # nothing is copied from the host, which a CUDA graph could not hold
        along = torch.arange(-_REACH, last + _REACH + 1, device=right.device)
        mirrored = last - (along % (2 * last) - last).abs()
    lags = torch.arange(-_REACH, _REACH + 1, dtype=right.dtype, device=right.device).abs()
    kernel = (-1.0) ** lags * (2 - math.sqrt(3)) ** lags / math.sqrt(12)
    # Not a convolution: on GPUs those round to the ten bits of TF32 unless they are told not to.
    return right.index_select(0, mirrored).unfold(0, lags.numel(), 1) @ kernel


class _SplineTable(torch.autograd.Function):
    """The solve, on the CPU kernel."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Tensor, spacing: float) -> Tensor:
        from . import cpu_table

        ctx.spacing = spacing
        return cpu_table.solve(values, slopes, spacing)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_SplineTableTransposed.apply(grad, ctx.spacing), None)


class _SplineTableTransposed(torch.autograd.Function):
    """Its transpose: the map is linear, so each is the other's derivative."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
        from . import cpu_table

        ctx.spacing = spacing
        return cpu_table.solve_transposed(grad, spacing)

    @staticmethod
    def backward(ctx: Any, values: Tensor, slopes: Tensor) -> tuple[Tensor | None, ...]:
        return _SplineTable.apply(values, slopes, ctx.spacing), None


class _SampledTable(torch.autograd.Function):
    """:func:`sampled_table` on the CPU kernel."""

    @staticmethod
    def forward(
        ctx: Any, samples: Tensor, envelope: Tensor, stencils: Tensor, spacing: float
    ) -> Tensor:
        from . import cpu_table

        ctx.constants = envelope, stencils, spacing
        return cpu_table.solve_samples(samples, *ctx.constants)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _SampledTableTransposed.apply(grad, *ctx.constants), None, None, None


class _SampledTableTransposed(torch.autograd.Function):
    """Its transpose, of which it is the derivative in turn."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, envelope: Tensor, stencils: Tensor, spacing: float
    ) -> Tensor:
        from . import cpu_table

        ctx.constants = envelope, stencils, spacing
        return cpu_table.solve_samples_transposed(grad, *ctx.constants)

    @staticmethod
    def backward(ctx: Any, samples: Tensor) -> tuple[Tensor | None, ...]:
        return _SampledTable.apply(samples, *ctx.constants), None, None, None
