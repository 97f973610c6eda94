r"""enn-s2s: message passing through an edge network, read out as a set."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import NNConv, Set2Set

from baselines.common import Baseline
from pyg_schnet.nn import AtomwiseReadout


class EnnS2S(Baseline):
    r"""The network enn-s2s of `"Neural Message Passing for Quantum Chemistry"
    <https://arxiv.org/abs/1704.01212>`_ (Gilmer et al., ICML 2017), in the sizes of PyG's example
    ``qm9_nn_conv.py``.

    1. Embed atomic numbers as features :math:`\mathbf{h}_i`.
    2. T times, with the same weights: messages :math:`\mathbf{m}_i = \mathrm{ReLU}(\frac{1}{n_i}
       \sum_j A(d_{ij}) \mathbf{h}_j + \Theta \mathbf{h}_i + \mathbf{b})` over all pairs, where the
       edge network A makes a matrix of a distance (:class:`torch_geometric.nn.NNConv`); then
       :math:`\mathbf{h}_i = \mathrm{GRU}(\mathbf{h}_i, \mathbf{m}_i)`.
    3. Read out all atoms as a set (:class:`SetReadout`).

    The paper tunes the sizes anew for each target (T from 3 to 8, 1 to 12 steps of readout) and
    tells the edge network the type of the bond too. Here, as for all networks of the table,
    molecules are atomic numbers and positions: bonds are for the network to find.

    Args:
        hidden_channels: Size F of the features.
        num_edge_features: Width of the hidden layer of the edge network.
        num_passes: Passes T of messages.
        num_readouts: Steps of the readout.
        **settings: See :class:`Baseline`.

    Raises:
        ValueError: On padding atoms, which would be part of the set.

    >>> from baselines.enn_s2s import EnnS2S
    >>> sum(parameter.numel() for parameter in EnnS2S().parameters())
    622209
    """

    shown: ClassVar[tuple[str, ...]] = ("hidden_channels", "num_edge_features", "num_passes")

    def __init__(
        self,
        hidden_channels: int = 64,
        num_edge_features: int = 128,
        num_passes: int = 3,
        num_readouts: int = 3,
        **settings: Any,
    ):
        own = {
            "num_edge_features": num_edge_features,
            "num_passes": num_passes,
            "num_readouts": num_readouts,
        }
        super().__init__(own, hidden_channels=hidden_channels, **settings)
        network = nn.Sequential(
            nn.Linear(1, num_edge_features),
            nn.ReLU(),
            nn.Linear(num_edge_features, hidden_channels * hidden_channels),
        )
        self.conv = NNConv(hidden_channels, hidden_channels, network, aggr="mean")
        self.gru = nn.GRU(hidden_channels, hidden_channels)
        assert isinstance(self.readout, AtomwiseReadout)
        offsets = self.readout.offsets
        self.readout = SetReadout(hidden_channels, self.config["readout"], num_readouts)
        self.readout.offsets = offsets

    def reset_parameters(self) -> None:
        """Draws new weights; offsets and known species stay."""
        super().reset_parameters()
        self.conv.reset_parameters()
        self.gru.reset_parameters()

    def refine(
        self, x: Tensor, edge_index: Tensor, distance: Tensor, batch: Tensor, batch_size: int
    ) -> Tensor:
        """Passes messages."""
        pairs = Pairs.of(self.conv, edge_index, distance, batch, batch_size)
        for _ in range(self.config["num_passes"]):
            message = convolve(self.conv, x, pairs).relu()
            x = self.gru(message.unsqueeze(0), x.unsqueeze(0))[0].squeeze(0)
        return x


class SetReadout(AtomwiseReadout):
    r"""The whole molecule read by :class:`torch_geometric.nn.Set2Set`, and two dense layers.

    Their output is the property per atom, before the offsets that all networks share; where the
    property is intensive, it is the property itself.

    Args:
        hidden_channels: Size F of the atom features.
        reduce: ``"add"`` or ``"mean"``.
        num_steps: Steps of the readout.

    Shapes: features ``[N, F]`` to the property ``[B, 1]`` and equal shares of it ``[N]``, float64.
    """

    def __init__(self, hidden_channels: int, reduce: str, num_steps: int):
        super().__init__(hidden_channels, reduce)
        self.set2set = Set2Set(hidden_channels, processing_steps=num_steps)
        self.lin1 = nn.Linear(2 * hidden_channels, hidden_channels)
        self.act = nn.ReLU()
        self.lin2 = nn.Linear(hidden_channels, 1)

    def reset_parameters(self) -> None:
        """Draws new weights; the offsets stay."""
        super().reset_parameters()
        self.set2set.reset_parameters()

    def forward(
        self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Reads the property and its shares."""
        if bool((z == 0).any()):
            raise ValueError("enn-s2s takes no padding atoms (z = 0): leave them out of the data")
        whole = self.set2set(x, batch, dim_size=batch_size)  # [B, 2 F]
        h = self.lin2(self.act(self.lin1(whole)))  # [B, 1]
        return self.pool(h.index_select(0, batch), z, batch, batch_size)


class Pairs(NamedTuple):
    """All pairs of atoms of a batch, molecule by molecule, as squares of one size.

    Attributes:
        features: Hidden features of the edge network from source to target, and 1 for the bias of
            its last layer, over the number of sources: ``[B, n, n, K + 1]``; 0 where there is no
            edge.
        place: Place of each atom among ``B * n``, ``[N]``.
    """

    features: Tensor
    place: Tensor

    @classmethod
    def of(
        cls, conv: NNConv, edge_index: Tensor, distance: Tensor, batch: Tensor, batch_size: int
    ) -> "Pairs":
        """Evaluates all of the edge network but its last layer."""
        sizes = torch.bincount(batch, minlength=batch_size)
        largest = max(1, int(sizes.max())) if sizes.numel() > 0 else 1
        first = sizes.cumsum(0) - sizes
        place = (
            torch.arange(batch.numel(), device=batch.device)
            + ((torch.arange(batch_size, device=batch.device) * largest - first)[batch])
        )
        source, target = edge_index
        hidden = conv.nn[:-1](distance.unsqueeze(-1))  # [E, K]
        hidden = torch.cat([hidden, torch.ones_like(distance).unsqueeze(-1)], dim=-1)
        count = torch.bincount(target, minlength=batch.numel())
        hidden = hidden / count[target].unsqueeze(-1)
        square = hidden.new_zeros(batch_size * largest * largest, hidden.size(-1))
        square = square.index_add(0, place[source] * largest + place[target] % largest, hidden)
        return cls(square.view(batch_size, largest, largest, -1), place)


def convolve(conv: NNConv, x: Tensor, pairs: Pairs) -> Tensor:
    r"""``conv(x, edge_index, distance)``, by a shorter way.

    The last layer of the edge network is linear, so neighbours can be summed before it:
    :math:`\sum_j \left( \sum_k W_k a_k(d_{ij}) \right) \mathbf{h}_j = \sum_k W_k \left( \sum_j
    a_k(d_{ij}) \mathbf{h}_j \right)`. That takes one matrix product per atom instead of one matrix
    per pair: of QM9's molecules a tenth of the arithmetic, and of the memory.

    Args:
        conv: The convolution, with the mean over neighbours.
        x: Features ``[N, F]``.
        pairs: Edges, from :meth:`Pairs.of`.
    """
    molecules, n, _, num_features = pairs.features.shape
    channels = x.size(-1)
    padded = x.new_zeros(molecules * n, channels).index_copy(0, pairs.place, x)
    padded = padded.view(molecules, n, channels).transpose(1, 2)  # [B, F, n]
    sums = padded @ pairs.features.reshape(molecules, n, -1)  # [B, F, n * (K + 1)]
    sums = sums.view(molecules, channels, n, num_features).transpose(1, 2)
    sums = sums.reshape(molecules * n, channels * num_features).index_select(0, pairs.place)
    last = conv.nn[-1]
    weight = torch.cat([last.weight, last.bias.unsqueeze(-1)], dim=-1)  # [F * F, K + 1]
    weight = weight.view(channels, conv.out_channels, -1).transpose(1, 2)  # [F, K + 1, F]
    out = sums @ weight.reshape(-1, conv.out_channels)
    return out + conv.lin(x) + conv.bias
