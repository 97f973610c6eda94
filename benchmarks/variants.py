r"""What the study of filters exchanges: filters that are there to be beaten, and their networks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch_geometric.nn.aggr import AttentionalAggregation

from pyg_schnet import SchNet, SchNetConv, ShiftedSoftplus, edge_lengths, edge_vectors, radius_graph
from pyg_schnet.nn import edges
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.system import System, check_system


class Distance(nn.Module):
    """The distance as its own basis: ``[E]`` to ``[E, 1]``."""

    def forward(self, distance: Tensor) -> Tensor:
        """Adds the dimension of the basis."""
        return distance.unsqueeze(-1)


class BinnedFilter(nn.Module):
    r"""Discrete filters: a free parameter for each filter and bin of the distance.

    They jump between bins, so that the energy does, and there are no forces.

    Args:
        num_filters: Number F of filters.
        num_bins: Number of bins, all of the same width.
        cutoff: End of the last bin in angstrom.

    Shapes: distances ``[E]`` to filters ``[E, F]``.

    Raises:
        ValueError: In ``forward``, for a distance beyond the last bin.
    """

    def __init__(self, num_filters: int, num_bins: int, cutoff: float):
        super().__init__()
        self.d_max = cutoff
        self.weight = nn.Parameter(torch.empty(num_bins, num_filters))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new values."""
        nn.init.normal_(self.weight, std=self.weight.size(1) ** -0.5)

    def forward(self, distance: Tensor) -> Tensor:
        """Looks up the filters at the given distances."""
        number = (distance.detach() * (self.weight.size(0) / self.d_max)).long()
        if number.numel() > 0 and int(number.max()) >= self.weight.size(0):
            raise ValueError(
                f"a distance of {float(distance.max()):.4g} A is beyond the last bin, which ends "
                f"at {self.d_max:g} A: use more bins"
            )
        return embedding(number, self.weight)


class VectorFilter(nn.Module):
    r"""Filters of the displacement vector, not of its length; they turn with no molecule.

    Args:
        num_filters: Number F of filters.

    Shapes: distances ``[E]``, which it ignores, and vectors ``[E, 3]`` to filters ``[E, F]``.
    """

    def __init__(self, num_filters: int):
        super().__init__()
        self.net = nn.Sequential(
            *(Dense(3, num_filters), ShiftedSoftplus()),
            *(Dense(num_filters, num_filters), ShiftedSoftplus()),
        )

    def forward(self, distance: Tensor, vector: Tensor) -> Tensor:
        """Evaluates the filters along the given vectors."""
        return self.net(vector)


class VectorSchNet(SchNet):
    """SchNet with filters of displacement vectors, which its blocks get as edge features."""

    def _evaluate(self, system: System) -> tuple[Tensor, Tensor, Tensor]:
        checked = check_system(self, system)
        edge_index, lengths = edges.measured(self, checked)
        x = self.embedding(checked.z)
        vectors = edge_vectors(checked.pos, edge_index).to(x.dtype)
        for block in self.interactions:
            v = block.conv(x, edge_index, lengths, vectors)  # type: ignore[operator] # untyped
            x = x + block.lin(block.act(v))  # type: ignore[operator] # in lists
        atoms = (checked.z, checked.pos, checked.batch, checked.batch_size)
        output, contributions = self.readout(x, *atoms)
        return output, contributions, x


def attentive(model: SchNet) -> SchNet:
    """Weighs the sums over neighbours by attention to the messages; weights of an atom sum to 1."""
    for block in model.interactions:
        old: SchNetConv = block.conv  # type: ignore[assignment] # untyped in lists
        attention = AttentionalAggregation(nn.Linear(old.num_filters, 1))
        block.conv = SchNetConv(
            *(old.in_channels, old.out_channels, old.num_filters, old.filter),
            lin1_bias=old.lin1.bias is not None,
            aggr=attention,
        )
    return model


def near(radius: float, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Edges and distances within a radius, for a network whose filters do not vanish there."""
    edge_index = radius_graph(pos.detach(), radius, batch)
    return edge_index, edge_lengths(pos, edge_index)
