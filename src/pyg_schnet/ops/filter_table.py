r"""A filter network of two dense layers on radial knots, and the spline through it, in one step.

Autograd would keep a dozen nodes for what a training step does in each interaction block: their
bookkeeping takes longer than the arithmetic of a few hundred knots.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from .dispatch import kernels_for, use_cpu_kernels
from .softplus import shifted_softplus
from .table import sampled_table


@dataclass(frozen=True)
class Samples:
    r"""What a table needs beside the weights of the filter network.

    Attributes:
        basis: Basis functions at the knots and at three more beyond each end, ``[n + 7, G]``.
            There may be fewer of them than the network has inputs, if the last ones vanish.
        envelope: Envelope at the knots, ``[n + 1]``.
        stencils: Weights that turn the first and the last seven samples into slopes, ``[2, 7]``.
        spacing: Distance between knots.
    """

    basis: Tensor
    envelope: Tensor
    stencils: Tensor
    spacing: float


def filter_table(
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    samples: Samples,
    num_activations: int,
) -> Tensor:
    r"""Spline coefficients of the filters :math:`A_2\,\mathrm{ssp}(A_1 b(d) + b_1) + b_2`.

    Args:
        weight_1: ``[F, G']`` with G' of at least G.
        bias_1: ``[F]``.
        weight_2: ``[F, F]``.
        bias_2: ``[F]``.
        samples: Where the network is evaluated.
        num_activations: 2 for a shifted softplus behind the second layer too.

    Returns:
        Table ``[n + 3, F]``, differentiable in weights and biases any number of times.
    """
    if use_cpu_kernels(weight_1):
        return _FilterTable.apply(weight_1, bias_1, weight_2, bias_2, samples, num_activations)
    return _composed(weight_1, bias_1, weight_2, bias_2, samples, num_activations)


def _composed(
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    samples: Samples,
    num_activations: int,
) -> Tensor:
    hidden = linear(samples.basis, weight_1[:, : samples.basis.size(1)], bias_1)
    w = linear(shifted_softplus(hidden), weight_2, bias_2)  # [n + 7, F]
    if num_activations == 2:
        w = shifted_softplus(w)
    return sampled_table(w, samples.envelope, samples.stencils, samples.spacing)


class _FilterTable(torch.autograd.Function):
    """:func:`_composed` on the CPU, its derivative written out."""

    @staticmethod
    def forward(
        ctx: Any,
        weight_1: Tensor,
        bias_1: Tensor,
        weight_2: Tensor,
        bias_2: Tensor,
        samples: Samples,
        num_activations: int,
    ) -> Tensor:
        from . import cpu_table

        activate = kernels_for(weight_1).softplus_and_slope
        basis = samples.basis
        hidden, slope_1 = activate(linear(basis, weight_1[:, : basis.size(1)], bias_1))
        w, slope_2 = linear(hidden, weight_2, bias_2), None
        if num_activations == 2:
            w, slope_2 = activate(w)
        ctx.save_for_backward(weight_1, bias_1, weight_2, bias_2, hidden, slope_1, slope_2)
        ctx.constants = samples, num_activations
        return cpu_table.solve_samples(w, samples.envelope, samples.stencils, samples.spacing)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from . import cpu_table

        w1, b1, w2, b2, hidden, slope_1, slope_2 = ctx.saved_tensors
        samples, num_activations = ctx.constants
        if torch.is_grad_enabled():
            weights = (w1, b1, w2, b2)
            table = _composed(w1, b1, w2, b2, samples, num_activations)
            wanted = [w for w in weights if w.requires_grad]
            grads = iter(torch.autograd.grad(table, wanted, grad, create_graph=True))
            return (*(next(grads) if w.requires_grad else None for w in weights), None, None)
        by_w = cpu_table.solve_samples_transposed(
            grad, samples.envelope, samples.stencils, samples.spacing
        )
        if slope_2 is not None:
            by_w *= slope_2
        by_hidden = (by_w @ w2).mul_(slope_1)
        by_weight_1 = torch.zeros_like(w1)
        by_weight_1[:, : samples.basis.size(1)] = by_hidden.t() @ samples.basis
        by_weight_2 = by_w.t() @ hidden
        return by_weight_1, by_hidden.sum(0), by_weight_2, by_w.sum(0), None, None
