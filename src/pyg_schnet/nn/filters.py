r"""Filter-generating networks: from interatomic distances to filters."""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..ops import Knots, Samples, filter_table, transforming
from .dense import Dense
from .radial import CosineEnvelope, GaussianSmearing, PolynomialEnvelope, ShiftedSoftplus
from .settings import RemembersSettings

ENVELOPES = ("cosine", "polynomial", "none")
# Central difference of sixth order, for the slope of a smooth function sampled on knots.
_STENCIL = torch.tensor([-1.0, 9.0, -45.0, 0.0, 45.0, -9.0, 1.0], dtype=torch.float64) / 60.0


class RadialFilter(RemembersSettings):
    r"""A filter-generating network on any basis of the distance.

    .. math::
        W(d) = f(d) \; \sigma_2\left( A_2 \, \mathrm{ssp}(A_1 e(d) + b_1) + b_2 \right)

    with basis functions :math:`e(d)`, an envelope :math:`f`, and :math:`\sigma_2` either the
    identity (one activation, as in PyG and SchNetPack) or the shifted softplus (two, as in the
    paper).

    1. Expand the distance in the basis.
    2. Two dense layers with one or two activations.
    3. Multiply by the envelope, so that the filter goes to zero at the cutoff.

    Args:
        num_filters: Number F of filters.
        basis: Module from distances ``[E]`` to ``[E, K]``, such as :class:`BesselBasis`. If it
            states its ``length_scale``, the width of its finest structure in angstrom, filters
            are evaluated on radial knots (and from its ``d_min`` on, 0 if it states none), else on
            every edge; see :mod:`pyg_schnet.nn.tables`.
        cutoff: Range of the filter in angstrom. With an envelope the filter is zero beyond;
            without one it is not defined there.
        envelope: ``"cosine"``, ``"polynomial"`` or ``"none"``.
        num_activations: 1 or 2.

    Shapes: distances ``[E]`` to filters ``[E, F]``.

    Raises:
        ValueError: On unknown settings, and in ``forward`` for a distance beyond the range of a
            filter without envelope.

    >>> from pyg_schnet.nn import BesselBasis, SchNet, SchNetConv
    >>> bessel = RadialFilter(64, BesselBasis(16, 5.0), cutoff=5.0)
    >>> bessel
    RadialFilter(64, BesselBasis(num_radial=16, cutoff=5), cutoff=5, envelope=cosine, ...)
    >>> conv = SchNetConv(64, 64, filter=bessel)

    In a network, where each block has filters of its own:

    >>> SchNet(64, 64, 3, cutoff=5.0, filter=lambda: RadialFilter(64, BesselBasis(16, 5.0), 5.0))
    SchNet(hidden_channels=64, num_filters=64, num_interactions=3, filter=RadialFilter, cutoff=5)
    """

    def __init__(
        self,
        num_filters: int,
        basis: nn.Module,
        cutoff: float = 10.0,
        *,
        envelope: str = "cosine",
        num_activations: int = 1,
    ):
        super().__init__()
        if envelope not in ENVELOPES:
            raise ValueError(f"'envelope' must be one of {ENVELOPES} (got '{envelope}')")
        _check_cutoff(cutoff)
        if num_filters < 1:
            raise ValueError(f"'num_filters' must be at least 1 (got {num_filters})")
        if num_activations not in (1, 2):
            raise ValueError(f"'num_activations' must be 1 or 2 (got {num_activations})")
        self.num_filters = num_filters
        self.cutoff = float(cutoff)
        self.num_activations = num_activations
        self.basis = basis
        self.lin1 = Dense(_size_of(basis), num_filters)
        self.lin2 = Dense(num_filters, num_filters)
        self.act = ShiftedSoftplus()
        # What makes tables possible, see tables.py.
        self.d_min = getattr(basis, "d_min", 0.0)
        self.d_max = self.cutoff
        self.vanishes = envelope != "none"
        self._cached_samples: tuple[Any, Samples] | None = None
        self.envelope_name = envelope
        self.envelope: CosineEnvelope | PolynomialEnvelope | None = None
        if envelope == "cosine":
            self.envelope = CosineEnvelope(cutoff)
        elif envelope == "polynomial":
            self.envelope = PolynomialEnvelope(cutoff)

    @property
    def length_scale(self) -> float:
        """The finest structure that the filter can have, in angstrom, if the basis states it."""
        return self.basis.length_scale  # type: ignore[return-value] # a float, not a submodule

    def settings(self) -> dict[str, Any]:
        """What the meaning of the weights depends on, beside their shapes."""
        return {
            "cutoff": self.cutoff,
            **self._settings_of_basis(),
            "envelope": "none" if self.envelope is None else str(self.envelope),
            "num_activations": self.num_activations,
        }

    def _settings_of_basis(self) -> dict[str, Any]:
        return {"basis": str(self.basis)}

    def reset_parameters(self) -> None:
        """Draws new weights (Glorot uniform) and sets the biases to zero."""
        if hasattr(self.basis, "reset_parameters"):
            self.basis.reset_parameters()  # type: ignore[operator] # untyped in modules
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluates the filters at the given distances."""
        if self.envelope is None and not torch.compiler.is_compiling():
            self._check_range(distance)
        w = self.basis(distance)  # [E, K]
        w = self.lin2(self.act(self.lin1(w)))  # [E, F]
        if self.num_activations == 2:
            w = self.act(w)
        if self.envelope is not None:
            w = w * self.envelope(distance).unsqueeze(-1)
        return w

    def table(self, knots: Knots) -> Tensor:
        r"""The filter on radial knots, from basis functions that are evaluated only once.

        Args:
            knots: Knots within the range of the filter.

        Returns:
            Spline coefficients ``[K, F]``, see :func:`~pyg_schnet.ops.spline_table`, with end
            slopes to :math:`O(h^6)`; differentiable in the weights. Layers are not called, and
            the basis is taken as constant and smooth beyond both ends: see :func:`.tables.table_of`
            for all other networks.
        """
        first, second = self.lin1, self.lin2
        return filter_table(
            *(first.weight, first.bias, second.weight, second.bias),
            self.samples(knots),
            self.num_activations,
        )

    @property
    def has_constant_basis(self) -> bool:
        """Whether nothing in the basis is trained, neither parameters nor buffers."""
        return not any(tensor.requires_grad for tensor in self._state_of_basis())

    def _state_of_basis(self) -> tuple[Any, ...]:
        # Straight from the dictionaries: this is asked at every step.
        return (*self.basis._buffers.values(), *self.basis._parameters.values())

    def samples(self, knots: Knots) -> Samples:
        """What a table needs that does not depend on the weights, kept for the next call."""
        weight = self.lin1.weight
        if torch.compiler.is_compiling():
            return self._compute_samples(knots, weight)
        versions = (tensor._version for tensor in self._state_of_basis())
        basis = (self.basis, self.basis.length_scale, *versions)
        key = (knots, weight.dtype, weight.device, basis, self.envelope)
        cached = self._cached_samples  # read once: other threads may replace it
        if cached is None or cached[0] != key:
            with torch.no_grad():
                cached = (key, self._compute_samples(knots, weight))
            if not transforming():  # whose tensors nobody may keep
                self._cached_samples = cached
        return cached[1]

    def _compute_samples(self, knots: Knots, weight: Tensor) -> Samples:
        steps = torch.arange(-3, knots.intervals + 4, dtype=torch.float64)
        basis = self.basis((knots.start + knots.spacing * steps).to(weight))
        if isinstance(self.basis, GaussianSmearing):
            # Gaussians beyond the last knot are left out: they are zero.
            basis = basis[:, : self.basis.count_below(knots.stop + 3 * knots.spacing)]
        basis = basis.contiguous()
        stencils = (_STENCIL / knots.spacing).to(weight).repeat(2, 1)  # [2, 7]
        if self.envelope is None:
            ones = weight.new_ones(knots.intervals + 1)
            return Samples(basis, ones, stencils, knots.spacing)
        envelope = self.envelope(knots.positions(weight.dtype, weight.device))  # [n + 1]
        slopes = [self.envelope.slope(end) for end in (knots.start, knots.stop)]
        product_rule = weight.new_tensor(slopes).unsqueeze(1) * (torch.arange(7) == 3).to(weight)
        stencils = stencils * envelope[[0, -1]].unsqueeze(1) + product_rule
        return Samples(basis, envelope, stencils, knots.spacing)

    def _apply(self, fn: Callable, recurse: bool = True) -> Self:
        self._cached_samples = None
        return super()._apply(fn, recurse)

    def _check_range(self, distance: Tensor) -> None:
        if distance.numel() > 0 and (largest := float(distance.detach().max())) > self.cutoff:
            raise ValueError(
                f"a distance of {largest:.4g} A is beyond the range of the filter "
                f"({self.cutoff:g} A), which has no envelope; use a larger cutoff"
            )

    def __repr__(self) -> str:
        envelope = "none" if self.envelope is None else type(self.envelope).__name__
        return (
            f"{type(self).__name__}({self.num_filters}, {self._basis_repr()}, "
            f"cutoff={self.cutoff:g}, envelope={envelope.removesuffix('Envelope').lower()}, "
            f"num_activations={self.num_activations})"
        )

    def _basis_repr(self) -> str:
        return str(self.basis)


class GaussianFilter(RadialFilter):
    r"""The filter-generating network of `"SchNet: A Continuous-filter Convolutional Neural
    Network for Modeling Quantum Interactions" <https://arxiv.org/abs/1706.08566>`_: a
    :class:`RadialFilter` on Gaussians.

    Args:
        num_filters: Number F of filters.
        num_gaussians: Number of Gaussians.
        cutoff: Range of the filter in angstrom. With an envelope the filter is zero beyond;
            without one it is not defined there.
        gamma: Inverse squared width of the Gaussians, see :class:`GaussianSmearing`.
        gaussian_range: First and last centre; ``(0, cutoff)`` if ``None``.
        envelope: ``"cosine"``, ``"polynomial"`` or ``"none"``.
        num_activations: 1 or 2.

    Shapes: distances ``[E]`` to filters ``[E, F]``.

    Raises:
        ValueError: On unknown settings, and in ``forward`` for a distance beyond the range of a
            filter without envelope.

    >>> GaussianFilter(64)
    GaussianFilter(64, num_gaussians=50, cutoff=10, envelope=cosine, num_activations=1)
    """

    basis: GaussianSmearing

    def __init__(
        self,
        num_filters: int,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        *,
        gamma: float | None = None,
        gaussian_range: tuple[float, float] | None = None,
        envelope: str = "cosine",
        num_activations: int = 1,
    ):
        _check_cutoff(cutoff)  # before the basis speaks of its centres
        basis = GaussianSmearing(*(gaussian_range or (0.0, cutoff)), num_gaussians, gamma)
        super().__init__(
            num_filters, basis, cutoff, envelope=envelope, num_activations=num_activations
        )

    def _settings_of_basis(self) -> dict[str, Any]:
        ends = (self.basis.start, self.basis.stop)
        return {
            "gaussians": [float(f"{end:.6g}") for end in ends],
            "gamma": float(self.basis.gamma),
        }

    def _basis_repr(self) -> str:
        return f"num_gaussians={self.basis.num_gaussians}"


def _check_cutoff(cutoff: float) -> None:
    if not 0.0 < cutoff < math.inf:
        raise ValueError(f"'cutoff' must be positive and finite (got {cutoff})")


def _size_of(basis: nn.Module) -> int:
    state = next(chain(basis.parameters(), basis.buffers()), torch.empty(0))
    with torch.no_grad():
        values = basis(torch.ones(1, dtype=state.dtype, device=state.device))
    if values.dim() != 2 or values.size(0) != 1:
        raise ValueError(
            "'basis' must turn distances [E] into basis functions [E, K] "
            f"(got {list(values.shape)} for a single distance)"
        )
    return values.size(1)
