r"""The activation of SchNet."""

import math
from typing import Any

import torch
from torch import Tensor

from .dispatch import batched, use_cpu_kernels

_LN_2 = math.log(2.0)


def shifted_softplus(x: Tensor) -> Tensor:
    r"""Shifted softplus :math:`\text{ssp}(x) = \ln(\tfrac12 e^x + \tfrac12)`, element by element.

    Zero at zero, smooth, linear for large x. On the CPU in float32 value and derivative come from
    one fused kernel, accurate to 1e-6; elsewhere from PyTorch. Differentiable any number of times.

    Args:
        x: Any tensor of floating point.

    Returns:
        A tensor of the same shape.

    >>> import torch
    >>> shifted_softplus(torch.tensor([0.0, 100.0]))
    tensor([ 0.0000, 99.3069])
    """
    if x.dtype == torch.float32 and use_cpu_kernels(x) and x.numel() > 0:
        return _ShiftedSoftplus.apply(x)
    # The default threshold of 20 would cost float64 half of its digits.
    return torch.nn.functional.softplus(x, threshold=40.0) - _LN_2


class _ShiftedSoftplus(torch.autograd.Function):
    """Keeps the derivative, which the forward pass has at hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from . import cpu_softplus

        value, slope = cpu_softplus.shifted_softplus(x, ctx.needs_input_grad[0])
        if slope is not None:
            ctx.save_for_backward(x, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Slope.apply(grad, x, slope)
        return grad * slope


class _Slope(torch.autograd.Function):
    """The derivative of shifted softplus times a cotangent."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(g, x, slope)
        return g * slope

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        g, x, slope = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(h):
            slope = torch.sigmoid(x)
            return h * slope, h * g * slope * (1 - slope), None
        from . import cpu_softplus

        return (*cpu_softplus.slope_backward(h, g, slope), None)
