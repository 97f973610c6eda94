r"""Functions of a distance: Gaussian and Bessel bases, cutoff envelopes; the shifted softplus."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import shifted_softplus

# Gaussians far from their centre are denormal numbers, which cost a CPU up to five times as much.
_NEGLIGIBLE = 1e-30
_LOWEST = -70.0  # less than its logarithm


class ShiftedSoftplus(nn.Module):
    r"""Shifted softplus, the activation of SchNet.

    .. math::
        \mathrm{ssp}(x) = \ln\left(\tfrac{1}{2} e^x + \tfrac{1}{2}\right)
                        = \mathrm{softplus}(x) - \ln 2

    It is smooth to all orders, as forces and their training need, and zero at zero.

    Shapes: any shape to the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Applies the activation elementwise."""
        return shifted_softplus(x)


class GaussianSmearing(nn.Module):
    r"""Expands distances in Gaussians on evenly spaced centres.

    .. math::
        e_k(d) = \exp\left(-\gamma (d - \mu_k)^2\right)

    Args:
        start: First centre, in angstrom.
        stop: Last centre, in angstrom.
        num_gaussians: Number K of centres.
        gamma: Inverse squared width in :math:`\mathrm{A}^{-2}`; 10 in the paper. ``None`` takes
            PyG's rule: the standard deviation is the spacing, :math:`\gamma = 1 / (2 \Delta^2)`.

    Shapes: distances ``[E]`` to ``[E, K]``.

    Raises:
        ValueError: If the centres do not ascend or ``gamma`` is not positive.

    >>> GaussianSmearing(0.0, 29.9, 300, gamma=10.0)
    GaussianSmearing(start=0, stop=29.9, num_gaussians=300, gamma=10)
    """

    offset: Tensor

    def __init__(
        self,
        start: float = 0.0,
        stop: float = 5.0,
        num_gaussians: int = 50,
        gamma: float | None = None,
    ):
        super().__init__()
        if num_gaussians < 2 or not stop > start:
            raise ValueError(
                "the centres must ascend: expected 'stop' > 'start' and at least two Gaussians "
                f"(got start={start}, stop={stop}, num_gaussians={num_gaussians})"
            )
        if gamma is None:
            gamma = 0.5 * ((num_gaussians - 1) / (stop - start)) ** 2
        if not 0.0 < gamma < math.inf:
            raise ValueError(f"'gamma' must be positive and finite (got {gamma})")
        self.start, self.stop, self.num_gaussians = start, stop, num_gaussians
        self.gamma = gamma
        self.register_buffer("offset", torch.linspace(start, stop, num_gaussians))  # [K]

    @property
    def length_scale(self) -> float:
        """Width of the Gaussians in angstrom, the finest structure that they can make."""
        return (2.0 * self.gamma) ** -0.5

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluates all Gaussians at all distances."""
        difference = distance.unsqueeze(-1) - self.offset  # [E, K]
        exponent = (-self.gamma * difference.square()).clamp(min=_LOWEST)
        return F.threshold(exponent.exp(), _NEGLIGIBLE, 0.0)

    def count_below(self, distance: float) -> int:
        """How many Gaussians, the first ones, are not zero everywhere below a distance."""
        reach = distance + math.sqrt(-_LOWEST / self.gamma) - self.start
        steps = (self.num_gaussians - 1) / (self.stop - self.start) * reach
        return max(1, min(self.num_gaussians, math.ceil(steps) + 1))

    def extra_repr(self) -> str:
        """Settings as printed in the representation."""
        return (
            f"start={self.start:g}, stop={self.stop:g}, "
            f"num_gaussians={self.num_gaussians}, gamma={self.gamma:g}"
        )


class GaussianBasis(nn.Module):
    r"""Expands distances in Gaussians, each with a centre and width of its own.

    .. math::
        e_k(d) = \exp\left(-\frac{(d - \mu_k)^2}{2 \sigma_k^2}\right)

    For centres that are not evenly spaced, such as those that other programs trained; others are
    faster in a :class:`GaussianSmearing`. Nothing in it is trained.

    Args:
        centers: Centres :math:`\mu_k` ``[K]`` in angstrom.
        widths: Standard deviations :math:`\sigma_k` ``[K]`` in angstrom.

    Shapes: distances ``[E]`` to ``[E, K]``.

    Raises:
        ValueError: If shapes differ or a width is not positive.

    >>> GaussianBasis(torch.zeros(3), torch.tensor([1.0, 2.0, 4.0]))
    GaussianBasis(num_gaussians=3)
    """

    center: Tensor
    width: Tensor

    def __init__(self, centers: Tensor, widths: Tensor):
        super().__init__()
        if centers.dim() != 1 or centers.shape != widths.shape or not (widths > 0).all():
            raise ValueError(
                "expected 'centers' [K] and positive 'widths' [K] "
                f"(got {list(centers.shape)} and {list(widths.shape)}, widths {widths.tolist()})"
            )
        dtype = torch.get_default_dtype()
        self.register_buffer("center", centers.detach().to(dtype))
        self.register_buffer("width", widths.detach().to(dtype))

    @property
    def length_scale(self) -> float:
        """The smallest width in angstrom, the finest structure that they can make."""
        return float(self.width.min())

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluates all Gaussians at all distances."""
        scaled = (distance.unsqueeze(-1) - self.center) / self.width  # [E, K]
        exponent = (-0.5 * scaled.square()).clamp(min=_LOWEST)
        return F.threshold(exponent.exp(), _NEGLIGIBLE, 0.0)

    def extra_repr(self) -> str:
        """Settings as printed in the representation."""
        return f"num_gaussians={self.center.numel()}"


class BesselBasis(nn.Module):
    r"""Expands distances in spherical Bessel functions, as `DimeNet
    <https://arxiv.org/abs/2003.03123>`_ does.

    .. math::
        e_n(d) = \sqrt{\frac{2}{r_c}} \, \frac{\sin(n \pi d / r_c)}{d}, \quad n = 1 \dots K

    They are orthonormal in the sphere of the cutoff, so fewer are needed than Gaussians, and zero
    on it; a filter made of them is not, and wants an envelope. Frequencies are not trained.

    Args:
        num_radial: Number K of functions.
        cutoff: Radius :math:`r_c` in angstrom.

    Shapes: distances ``[E]`` to ``[E, K]``.

    Raises:
        ValueError: If there are no functions, or the cutoff is not positive and finite.

    >>> BesselBasis(16, 5.0)
    BesselBasis(num_radial=16, cutoff=5)
    """

    order: Tensor

    def __init__(self, num_radial: int, cutoff: float):
        super().__init__()
        if num_radial < 1:
            raise ValueError(f"'num_radial' must be at least 1 (got {num_radial})")
        self.num_radial = num_radial
        self.cutoff = _positive(cutoff)
        self.register_buffer("order", torch.arange(1.0, num_radial + 1))  # [K]

    @property
    def length_scale(self) -> float:
        """Inverse of the highest wave number in angstrom, the finest structure they can make."""
        return self.cutoff / (math.pi * self.num_radial)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluates all functions at all distances."""
        wave_number = math.pi / self.cutoff * self.order
        x = distance.unsqueeze(-1) * wave_number  # [E, K]
        # torch.sinc has no second derivative at zero: sin(x) / x by its series there.
        near = x.abs() < 0.01
        beyond = torch.where(near, 1.0, x)
        series = 1.0 - x.square() / 6.0 * (1.0 - x.square() / 20.0)
        sinc = torch.where(near, series, torch.sin(beyond) / beyond)
        return math.sqrt(2.0 / self.cutoff) * wave_number * sinc

    def extra_repr(self) -> str:
        """Settings as printed in the representation."""
        return f"num_radial={self.num_radial}, cutoff={self.cutoff:g}"


class CosineEnvelope(nn.Module):
    r"""Cosine cutoff, as in PyG and SchNetPack, and zero beyond.

    .. math::
        f(d) = \tfrac{1}{2} \left(\cos \frac{\pi d}{r_c} + 1\right) \; \text{for} \; d < r_c,
        \quad 0 \; \text{otherwise}

    The mask matters: the cosine alone rises again beyond the cutoff. First derivatives are
    continuous, second ones jump at the cutoff.

    Args:
        cutoff: Radius :math:`r_c` in angstrom.

    Shapes: distances ``[E]`` to ``[E]``.
    """

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = _positive(cutoff)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluates the envelope."""
        inside = distance < self.cutoff
        u = torch.where(inside, distance, self.cutoff) / self.cutoff  # an infinite distance is fine
        return 0.5 * (torch.cos(math.pi * u) + 1.0) * inside

    def slope(self, distance: float) -> float:
        """Derivative at a distance."""
        u = min(distance / self.cutoff, 1.0)
        return -0.5 * math.pi / self.cutoff * math.sin(math.pi * u)

    def extra_repr(self) -> str:
        """Settings as printed in the representation."""
        return f"cutoff={self.cutoff:g}"


class PolynomialEnvelope(nn.Module):
    r"""Polynomial cutoff of `DimeNet <https://arxiv.org/abs/2003.03123>`_, zero beyond the radius.

    .. math::
        f(d) = 1 - \tfrac{(p+1)(p+2)}{2} u^p + p(p+2) u^{p+1} - \tfrac{p(p+1)}{2} u^{p+2},
        \quad u = d / r_c

    Twice continuously differentiable, so that Hessians are continuous too.

    Args:
        cutoff: Radius :math:`r_c` in angstrom.
        p: Order of the leading term, at least 3; higher stays near one for longer.

    Shapes: distances ``[E]`` to ``[E]``.
    """

    def __init__(self, cutoff: float, p: int = 6):
        super().__init__()
        self.cutoff = _positive(cutoff)
        if p < 3:
            raise ValueError(f"'p' must be at least 3 (got {p})")
        self.p = p

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluates the envelope."""
        inside = distance < self.cutoff
        p, u = self.p, torch.where(inside, distance, self.cutoff) / self.cutoff
        series = (p + 1) * (p + 2) / 2 - p * (p + 2) * u + p * (p + 1) / 2 * u.square()
        return (1.0 - u**p * series) * inside

    def slope(self, distance: float) -> float:
        """Derivative at a distance."""
        p, u = self.p, min(distance / self.cutoff, 1.0)
        return -0.5 * p * (p + 1) * (p + 2) / self.cutoff * u ** (p - 1) * (1.0 - u) ** 2

    def extra_repr(self) -> str:
        """Settings as printed in the representation."""
        return f"cutoff={self.cutoff:g}, p={self.p}"


def _positive(cutoff: float) -> float:
    if not (0.0 < cutoff < math.inf):
        raise ValueError(f"'cutoff' must be positive and finite (got {cutoff})")
    return float(cutoff)
