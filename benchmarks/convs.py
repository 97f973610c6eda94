r"""The same network with its convolution exchanged: SchNetConv beside other layers of PyG.

    python benchmarks/run.py convs --data qm9.npz --budget 10m
    python benchmarks/run.py convs --root data/QM9 --num-train 10000 --only SchNetConv NNConv

All get the same distances, in the same Gaussians: see ``examples/custom_gnn.py`` for the exchange
in a model of your own. Rows that were stopped go on, rows that are done are not run again unless
``--again`` asks for it; ``--only`` without names only writes the tables.
"""

import argparse
from collections.abc import Callable
from functools import partial

import studies
from studies import UNITS, Study, Variant
from torch import Tensor, nn
from torch_geometric.nn import CGConv, GATv2Conv, GINEConv, NNConv, TransformerConv
from torch_geometric.nn.models.schnet import CFConv

from pyg_schnet import GaussianSmearing, SchNet, ShiftedSoftplus
from pyg_schnet.ops import EdgePlan

SUMMARY = "SchNet with its convolution exchanged for other layers of PyG, on QM9"
# The network: features of atoms, Gaussians, and how far atoms see each other in angstrom.
CHANNELS, GAUSSIANS, CUTOFF = 64, 50, 5.0


class OnGaussians(nn.Module):
    """A layer of PyG in the place of SchNetConv, with distances in Gaussians as edge features.

    Args:
        conv: Layer that is called with features of atoms, edges and features of edges.
        distances: Whether it wants the distances too, before the features of edges.
    """

    def __init__(self, conv: nn.Module, distances: bool = False):
        super().__init__()
        self.basis = GaussianSmearing(0.0, CUTOFF, GAUSSIANS)
        self.conv = conv
        self.distances = distances

    def forward(self, x: Tensor, edges: Tensor | EdgePlan, edge_weight: Tensor) -> Tensor:
        """Convolves features ``[N, F]`` along edges of the given lengths ``[E]``."""
        edge_index = edges.edge_index if isinstance(edges, EdgePlan) else edges
        features = self.basis(edge_weight)  # [E, K]
        if self.distances:
            return self.conv(x, edge_index, edge_weight, features)
        return self.conv(x, edge_index, features)

    def reset_parameters(self) -> None:
        """Draws new weights."""
        self.conv.reset_parameters()  # type: ignore[operator] # layers of PyG have it


def network() -> SchNet:
    """The network as it is."""
    return SchNet(CHANNELS, CHANNELS, 3, num_gaussians=GAUSSIANS, cutoff=CUTOFF, units=UNITS)


def exchanged(make: Callable[[], nn.Module], distances: bool = False) -> SchNet:
    """The network with another layer in each block."""
    model = network()
    for block in model.interactions:
        block.conv = OnGaussians(make(), distances)
    return model


def mlp(size: int, out: int) -> nn.Sequential:
    """Two dense layers, as in the filters of SchNet."""
    return nn.Sequential(nn.Linear(size, CHANNELS), ShiftedSoftplus(), nn.Linear(CHANNELS, out))


def cf_conv() -> nn.Module:
    """PyG's own continuous-filter convolution."""
    return CFConv(CHANNELS, CHANNELS, CHANNELS, mlp(GAUSSIANS, CHANNELS), CUTOFF)


def nn_conv() -> nn.Module:
    """A matrix for each edge."""
    return NNConv(CHANNELS, CHANNELS, mlp(GAUSSIANS, CHANNELS**2), aggr="add")


def cg_conv() -> nn.Module:
    """Gates of both atoms and the edge."""
    return CGConv(CHANNELS, dim=GAUSSIANS, aggr="add")


def gine_conv() -> nn.Module:
    """Sums of rectified sums, and two dense layers."""
    return GINEConv(mlp(CHANNELS, CHANNELS), edge_dim=GAUSSIANS)


def attention(kind: type[nn.Module], **settings: bool) -> nn.Module:
    """Four heads, with the edge in their weights."""
    return kind(CHANNELS, CHANNELS // 4, heads=4, edge_dim=GAUSSIANS, **settings)


VARIANTS = {
    "SchNetConv": Variant("continuous filters, from tables", network),
    "CFConv": Variant("PyG's continuous filters", partial(exchanged, cf_conv, distances=True)),
    "NNConv": Variant("a matrix for each edge, of its Gaussians", partial(exchanged, nn_conv)),
    "CGConv": Variant("gates of both atoms and the edge", partial(exchanged, cg_conv)),
    "GINEConv": Variant("rectified sums of atom and edge", partial(exchanged, gine_conv)),
    "GATv2Conv": Variant(
        "attention, four heads, no loops",
        partial(exchanged, partial(attention, GATv2Conv, add_self_loops=False)),
    ),
    "TransformerConv": Variant(
        "dot-product attention, four heads", partial(exchanged, partial(attention, TransformerConv))
    ),
}
STUDY = Study(
    name="convs",
    title="Convolutions",
    text=[
        f"U0 learned by SchNet with {CHANNELS} features, 3 interaction blocks, and neighbours to "
        f"{CUTOFF:g} A in {GAUSSIANS}",
        "Gaussians, whose convolution is exchanged for other layers of PyG; all else is the same:",
        "embedding, activation, dense layer and residual of the blocks, readout, data, budget,",
        "recipe. *Ratio*: test MAE over that of SchNetConv. SchNetConv and CFConv vanish at the",
        "cutoff; the others know of none, so their energies jump when a neighbour comes in.",
    ],
    variants=VARIANTS,
    lr=1e-3,  # that of the paper: a higher one, chosen for SchNet, lets others diverge
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    studies.add_arguments(parser, STUDY)


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    studies.run(args, STUDY)
