r"""The interaction block of SchNet."""

from torch import Tensor, nn

from ..ops import EdgePlan
from .conv import SchNetConv
from .dense import Dense
from .radial import ShiftedSoftplus


class InteractionBlock(nn.Module):
    r"""One interaction of SchNet: convolution, activation, dense layer; the residual is added
    outside.

    .. math::
        \mathbf{v}_i = A_3 \, \mathrm{ssp}\left( \mathrm{SchNetConv}(\mathbf{x})_i \right)
        + \mathbf{b}_3

    Args:
        hidden_channels: Size F of the atom features.
        filter: Filter-generating network of this block.
        num_filters: Its number of filters.
        lin1_bias: See :class:`SchNetConv`.
        mode: See :class:`SchNetConv`.

    Shapes: features ``[N, F]``, edges ``[2, E]`` or a plan of them, distances ``[E]`` to
    ``[N, F]``.
    """

    def __init__(
        self,
        hidden_channels: int,
        filter: nn.Module,
        num_filters: int,
        lin1_bias: bool = False,
        mode: str = "auto",
    ):
        super().__init__()
        self.conv = SchNetConv(
            hidden_channels, hidden_channels, num_filters, filter, mode=mode, lin1_bias=lin1_bias
        )
        self.act = ShiftedSoftplus()
        self.lin = Dense(hidden_channels, hidden_channels)

    def reset_parameters(self) -> None:
        """Draws new weights."""
        self.conv.reset_parameters()
        self.lin.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor | EdgePlan, edge_weight: Tensor) -> Tensor:
        """Computes the update of the features."""
        return self.lin(self.act(self.conv(x, edge_index, edge_weight)))
