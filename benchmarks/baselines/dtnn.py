r"""DTNN: the deep tensor neural network, which SchNet followed."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from baselines.common import Baseline
from pyg_schnet.nn import GaussianSmearing
from pyg_schnet.nn.dense import Dense

# Centres of Gaussians: from -1 angstrom, as far apart as they are wide; k runs to 20 / 0.2.
_FIRST, _SPACING, _NUM_GAUSSIANS = -1.0, 0.2, 101


class DTNN(Baseline):
    r"""The network of `"Quantum-chemical insights from deep tensor neural networks"
    <https://doi.org/10.1038/ncomms13890>`_ (Schütt et al., Nature Communications 8, 13890, 2017).

    1. Embed atomic numbers as coefficients :math:`\mathbf{c}_i`.
    2. Refine them in T passes of the same interaction, :class:`TensorInteraction`.
    3. Read out :math:`E_i = \mathbf{a}^\top \tanh(A \mathbf{c}_i + \mathbf{b}) + b`, half as wide
       as the coefficients, and sum.

    Widths and initial weights are those of the paper's "Methods" and of the released code for QM9:
    30 coefficients, drawn from a normal distribution of variance :math:`1 / \sqrt{30}`; 60 factors;
    Gaussians of width 0.2 A from -1 A every 0.2 A; matrices before outputs are zero at first.

    Args:
        hidden_channels: Coefficients of an atom.
        num_factors: Factors of the tensor.
        num_passes: Passes T; the paper has 2 and 3, and 3 in its best results for QM9.
        **settings: See :class:`Baseline`.

    >>> from baselines.dtnn import DTNN
    >>> sum(parameter.numel() for parameter in DTNN().parameters())
    13291
    """

    shown: ClassVar[tuple[str, ...]] = ("hidden_channels", "num_factors", "num_passes")

    def __init__(
        self,
        hidden_channels: int = 30,
        num_factors: int = 60,
        num_passes: int = 3,
        **settings: Any,
    ):
        own = {"num_factors": num_factors, "num_passes": num_passes}
        super().__init__(own, hidden_channels=hidden_channels, **settings)
        last = _FIRST + (_NUM_GAUSSIANS - 1) * _SPACING
        self.smearing = GaussianSmearing(_FIRST, last, _NUM_GAUSSIANS)
        self.interaction = TensorInteraction(hidden_channels, num_factors, _NUM_GAUSSIANS)
        self.readout.act = nn.Tanh()
        self._initialize()

    def reset_parameters(self) -> None:
        """Draws new weights; offsets and known species stay."""
        super().reset_parameters()
        self.interaction.reset_parameters()
        self._initialize()

    def _initialize(self) -> None:
        with torch.no_grad():
            self.embedding.weight.normal_(std=self.embedding.embedding_dim**-0.25)
            self.embedding.weight[0] = 0.0
            self.readout.lin2.weight.zero_()

    def refine(
        self, x: Tensor, edge_index: Tensor, distance: Tensor, batch: Tensor, batch_size: int
    ) -> Tensor:
        """Passes over the molecules."""
        filters = self.interaction.filters(self.smearing(distance))  # [E, K], the same in all
        for _ in range(self.config["num_passes"]):
            x = x + self.interaction(x, edge_index, filters)
        return x


class TensorInteraction(MessagePassing):
    r"""A low-rank tensor product of neighbours and distances.

    .. math::
        \mathbf{v}_i = \sum_{j \neq i} \tanh\left( W^{fc} \left(
        (W^{cf} \mathbf{c}_j + \mathbf{b}^{f_1}) \circ (W^{df} \hat{\mathbf{d}}_{ij}
        + \mathbf{b}^{f_2}) \right) \right)

    Args:
        channels: Coefficients of an atom.
        num_factors: Rank of the tensor.
        num_gaussians: Size of the distances :math:`\hat{\mathbf{d}}`.

    Shapes: coefficients ``[N, F]``, edges ``[2, E]`` and filters ``[E, K]`` to ``[N, F]``.
    """

    def __init__(self, channels: int, num_factors: int, num_gaussians: int):
        super().__init__(aggr="sum")
        self.from_features = Dense(channels, num_factors)
        self.filters = Dense(num_gaussians, num_factors)
        self.to_features = Dense(num_factors, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights; what is added to the coefficients is zero at first."""
        self.from_features.reset_parameters()
        self.filters.reset_parameters()
        nn.init.zeros_(self.to_features.weight)

    def forward(self, x: Tensor, edge_index: Tensor, filters: Tensor) -> Tensor:
        """What the neighbours add to the coefficients."""
        # propagate_type: (x: Tensor, filters: Tensor)
        return self.propagate(edge_index, x=self.from_features(x), filters=filters)

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:
        """What one neighbour adds."""
        return self.to_features(x_j * filters).tanh()
