r"""SchNetConv in models of your own, beside other layers of PyG.

    python examples/custom_gnn.py

trains three of them on molecules that come with the package, in about half a minute on one core:

- ``SpaceAndBonds``: an ordinary ``nn.Module`` where SchNetConv sees all atoms within 5 A, and PyG's
  GINEConv the chemical bonds;
- ``sequential``: the same idea in few lines, with ``torch_geometric.nn.Sequential``;
- ``Heterogeneous``: hydrogen and heavy atoms as two types of nodes, each pair of types with a
  SchNetConv of its own, by ``HeteroConv``.

They learn the internal energy U0 less that of the free atoms, fitted, whose error is printed too.
"""

import argparse
from itertools import product

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINEConv, HeteroConv, Sequential, global_add_pool

from pyg_schnet import SchNetConv, ShiftedSoftplus
from pyg_schnet.data import atom_references, composition, random_split
from pyg_schnet.datasets import QM9Sample

CUTOFF = 5.0
CHANNELS = 64
KINDS = ("hydrogen", "heavy")


class SpaceAndBonds(nn.Module):
    """Two layers that sum over neighbours in space, each followed by one along the bonds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, CHANNELS)
        self.in_space = nn.ModuleList(conv() for _ in range(2))
        self.on_bonds = nn.ModuleList(GINEConv(dense(), edge_dim=4) for _ in range(2))
        self.readout = readout()

    def forward(self, data: Batch) -> Tensor:
        """Energies ``[B]`` of a batch of molecules."""
        x = self.embedding(data.z)  # [N, 64]
        for in_space, on_bonds in zip(self.in_space, self.on_bonds):
            x = x + in_space(x, data.edge_index, data.edge_weight)
            x = x + on_bonds(x, data.bond_index, data.bond_attr)
        return global_add_pool(self.readout(x), data.batch, data.num_graphs).squeeze(-1)


def sequential() -> nn.Module:
    """An interaction block of SchNet and its readout, spelled out."""
    return Sequential(
        "z, edge_index, edge_weight, batch",
        [
            (nn.Embedding(10, CHANNELS), "z -> x"),
            (conv(), "x, edge_index, edge_weight -> v"),
            (dense(), "v -> v"),
            (torch.add, "x, v -> x"),
            (readout(), "x -> x"),
            (global_add_pool, "x, batch -> y"),
            (nn.Flatten(0), "y -> y"),
        ],
    )


class Heterogeneous(nn.Module):
    """Hydrogen and heavy atoms as nodes of two types; a layer has filters for each pair of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, CHANNELS)
        self.convs = nn.ModuleList(
            HeteroConv(
                {(source, "near", target): conv() for source, target in product(KINDS, KINDS)}
            )
            for _ in range(2)
        )
        self.readouts = nn.ModuleDict({kind: readout() for kind in KINDS})

    def forward(self, data: Batch) -> Tensor:
        """Energies ``[B]`` of a batch of molecules."""
        x = {kind: self.embedding(data[kind].z) for kind in KINDS}
        for convs in self.convs:
            v = convs(x, data.edge_index_dict, edge_weight_dict=data.edge_weight_dict)
            x = {kind: x[kind] + v[kind] for kind in KINDS}
        sums = [
            global_add_pool(self.readouts[kind](x[kind]), data[kind].batch, data.num_graphs)
            for kind in KINDS
        ]
        return torch.stack(sums).sum(dim=0).squeeze(-1)


def conv() -> SchNetConv:
    """The layer; for two types of nodes as for one."""
    return SchNetConv(CHANNELS, CHANNELS, num_gaussians=25, cutoff=CUTOFF)


def dense() -> nn.Module:
    """An activation between dense layers."""
    return nn.Sequential(
        nn.Linear(CHANNELS, CHANNELS), ShiftedSoftplus(), nn.Linear(CHANNELS, CHANNELS)
    )


def readout() -> nn.Module:
    """From features of an atom to its energy."""
    return nn.Sequential(nn.Linear(CHANNELS, 32), ShiftedSoftplus(), nn.Linear(32, 1))


def by_kind(data: Data) -> HeteroData:
    """A molecule with its hydrogen and heavy atoms apart."""
    divided = HeteroData(y=data.y)
    is_heavy = (data.z > 1).long()
    # Number of each atom among those of its kind.
    ones = torch.nn.functional.one_hot(is_heavy, 2)
    number = (ones.cumsum(dim=0) - 1).gather(1, is_heavy.unsqueeze(1)).squeeze(1)
    for k, kind in enumerate(KINDS):
        divided[kind].z = data.z[is_heavy == k]
        divided[kind].num_nodes = len(divided[kind].z)
    source, target = data.edge_index
    for (j, first), (i, second) in product(enumerate(KINDS), enumerate(KINDS)):
        chosen = (is_heavy[source] == j) & (is_heavy[target] == i)
        edges = divided[first, "near", second]
        edges.edge_index = number[data.edge_index[:, chosen]]
        edges.edge_weight = data.edge_weight[chosen]
    return divided


class Plain(nn.Module):
    """Gives a model that takes tensors those of a batch."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, data: Batch) -> Tensor:
        """Energies ``[B]`` of a batch of molecules."""
        return self.model(data.z, data.edge_index, data.edge_weight, data.batch)


def train(model: nn.Module, train_set: list, test_set: list, epochs: int, scale: float) -> float:
    """Trains a model on energies over ``scale``, prints its error in eV, and returns the last."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = epochs * -(-len(train_set) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in DataLoader(train_set, 32, shuffle=True):
            loss = (model(batch) - batch.y / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            errors = [model(b) * scale - b.y for b in DataLoader(test_set, 128)]
        error = torch.cat(errors).abs().mean().item()
        print(f"  epoch {epoch:2}: test MAE {error:.3f} eV", flush=True)
    return error


def main() -> None:
    """Prepares the molecules, trains the three models, compares."""
    args = parse_arguments()
    torch.manual_seed(args.seed)

    # 1. Molecules with the graph within the cutoff and their bonds; labels less those of atoms.
    dataset = QM9Sample(targets=["U0"], bonds=True, cutoff=CUTOFF)
    parts = [list(part) for part in random_split(dataset, [args.train_size, 400], args.seed)]
    counts, energies = zip(*(of_atoms(part) for part in parts))
    references = atom_references(counts[0], energies[0])
    labels = [energy - count @ references for count, energy in zip(counts, energies)]
    for part, label in zip(parts, labels):
        for data, y in zip(part, label.float()):
            data.y = y.view(1)
    scale = labels[0].std().item()
    known = labels[1].abs().mean().item()

    # 2. The models.
    divided = [[by_kind(data) for data in part] for part in parts]
    print(f"{len(parts[0])} molecules to train on, {len(parts[1])} to test")
    errors = {}
    for name, model, (train_set, test_set) in (
        ("SpaceAndBonds", SpaceAndBonds(), parts),
        ("sequential", Plain(sequential()), parts),
        ("Heterogeneous", Heterogeneous(), divided),
    ):
        print(f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters")
        errors[name] = train(model, train_set, test_set, args.epochs, scale)

    # 3. What they have learned.
    print(f"\n{'test MAE of U0, eV':<22}{'free atoms, fitted':<20}{known:8.3f}")
    for name, error in errors.items():
        print(f"{'':<22}{name:<20}{error:8.3f}")


def of_atoms(molecules: list[Data]) -> tuple[Tensor, Tensor]:
    """Numbers of atoms of each element ``[M, 101]`` and energies ``[M]`` of some molecules."""
    counts = [composition(data.z, torch.zeros_like(data.z), 1) for data in molecules]
    return torch.cat(counts), torch.cat([data.y[:, 0] for data in molecules])


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training set")
    parser.add_argument("--train-size", type=int, default=1_500, help="molecules to train on")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and order")
    args = parser.parse_args()
    if args.epochs < 1 or args.train_size < 2:
        parser.error(
            "--epochs must be at least 1 and --train-size at least 2 "
            f"(got {args.epochs} and {args.train_size})"
        )
    return args


if __name__ == "__main__":
    main()
