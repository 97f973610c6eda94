import math

import numpy as np
import pytest
import torch
from batches import InMemory, assert_same
from molecules import random_molecule
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Constant

from pyg_schnet import RadiusGraph, ops
from pyg_schnet.data.slicer import Slicer, UnsliceableError
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.loader import MoleculeLoader

SIZES = [3, 1, 5, 2, 4, 1]


def molecules(**fields) -> list[Data]:
    """Molecules with fields made from their number of atoms, their place and random numbers."""
    torch.manual_seed(0)
    made = []
    for i, n in enumerate(SIZES):
        data = random_molecule(n, seed=i, dtype=torch.float32)
        for key, make in fields.items():
            data[key] = make(n, i)
        made.append(data)
    return made


def pairs(n: int, dtype: torch.dtype = torch.long) -> Tensor:
    i = torch.arange(n)
    return torch.combinations(i).t().to(dtype) if n > 1 else torch.empty(2, 0, dtype=dtype)


SLICED = {
    "atoms": {},
    "molecules": {
        "y": lambda n, i: torch.rand(1, 2, dtype=torch.float64),
        "cell": lambda n, i: torch.rand(1, 3, 3),
        "pbc": lambda n, i: torch.tensor([[True, i % 2 == 0, False]]),
        "idx": lambda n, i: torch.tensor([i]),
    },
    "edges": {
        "edge_index": lambda n, i: pairs(n),
        "edge_attr": lambda n, i: torch.rand(pairs(n).size(1), 2),
        "edge_weight": lambda n, i: torch.rand(pairs(n).size(1)),
    },
    "no edges": {"edge_index": lambda n, i: pairs(1), "edge_attr": lambda n, i: torch.empty(0, 2)},
    "indices": {
        "bond_index": lambda n, i: pairs(n, torch.int32),
        "face": lambda n, i: torch.randint(n, (3, i)),
        "index": lambda n, i: torch.tensor([n - 1]),
        "cross_index": lambda n, i: torch.randint(n, (2, 3, i + 1)),
        "index_of_one": lambda n, i: torch.randint(n, (4, 1)),
    },
    "scalars": {
        "energy": lambda n, i: float(i),
        "charge": lambda n, i: i - 2,
        "spin": lambda n, i: torch.tensor(i + 1),
        "even": lambda n, i: n % 2 == 0,
    },
    "strings and lists": {
        "name": lambda n, i: f"molecule {i}",
        "tags": lambda n, i: ["a", "b"][: i % 3],
        "batches": lambda n, i: "x",
    },
    "uneven": {
        "orbitals": lambda n, i: torch.rand(2 * n + i, 3),
        "twice": lambda n, i: torch.rand(2),
        "charges": lambda n, i: torch.rand(n).half(),
        "phase": lambda n, i: torch.rand(n, dtype=torch.complex64),
        "fixed": lambda n, i: torch.rand(n) > 0.5,
        "nothing": lambda n, i: torch.empty(0, 2),
        "flat": lambda n, i: torch.empty(n, 0),
    },
    "other nodes": {"x": lambda n, i: torch.rand(n, 2), "node_type": lambda n, i: torch.ones(n)},
}


@pytest.mark.parametrize("kind", SLICED)
@pytest.mark.parametrize(
    "chosen", [[0], [1], [4, 2, 0], [5, 5, 1, 5], list(range(6))], ids=lambda c: str(c)
)
def test_as_pyg(kind: str, chosen: list[int]) -> None:
    dataset = InMemory(molecules(**SLICED[kind]))
    batch = Slicer(dataset)(np.array(chosen))
    expected = Batch.from_data_list([dataset[i] for i in chosen])
    assert_same(batch, expected)
    assert batch.num_graphs == len(chosen)
    assert_same(batch.to_data_list(), [dataset[i] for i in chosen])
    assert_same(batch[len(chosen) - 1], dataset[chosen[-1]])


def test_the_comparison_sees_differences() -> None:
    dataset = InMemory(molecules(**SLICED["edges"]))
    batch = Batch.from_data_list([dataset[0], dataset[2]])
    for spoil in (
        lambda other: other.pos.add_(1e-6),
        lambda other: other._inc_dict["edge_index"].add_(1),
        lambda other: other._slice_dict["pos"].add_(1),
        lambda other: setattr(other, "ptr", other.ptr.int()),
        lambda other: setattr(other, "_num_graphs", 3),
        lambda other: setattr(other, "more", 1),
    ):
        other = batch.clone()
        assert_same(batch, other)
        other._store._inc_dict = {k: v.clone() for k, v in batch._inc_dict.items()}
        other._store._slice_dict = {k: v.clone() for k, v in batch._slice_dict.items()}
        spoil(other)
        with pytest.raises(AssertionError):
            assert_same(batch, other)


def test_follow_and_exclude() -> None:
    dataset = InMemory(molecules(**SLICED["edges"], **SLICED["strings and lists"]))
    options = dict(follow=["edge_attr", "name", "absent"], exclude=["pos", "edge_weight", "absent"])
    batch = Slicer(dataset, **options)(np.array([2, 0, 1]))
    expected = Batch.from_data_list(
        [dataset[i] for i in (2, 0, 1)],
        follow_batch=options["follow"],
        exclude_keys=options["exclude"],
    )
    assert_same(batch, expected)
    assert "pos" not in batch
    assert batch.edge_attr_ptr.tolist() == [0, 10, 13, 13]


def test_batches_do_not_share_memory_with_the_data_set() -> None:
    dataset = InMemory(molecules(**SLICED["edges"], **SLICED["molecules"]))
    slicer = Slicer(dataset)
    batch = slicer(np.arange(6))
    for value in batch.to_dict().values():
        value.zero_()
    assert_same(slicer(np.arange(6)), Batch.from_data_list([dataset[i] for i in range(6)]))
    assert batch[1].pos.shape == (1, 3)  # the slices are intact


@pytest.mark.parametrize("cutoff", [1e-3, 1.7, math.inf])
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_as_radius_graph(cutoff: float, backend: str | None, dtype: torch.dtype) -> None:
    dataset = InMemory(
        [
            Data(pos=data.pos.to(dtype), name=data.name)
            for data in molecules(**SLICED["strings and lists"])
        ]
    )
    chosen = [4, 1, 0, 2, 2]
    with ops.backend(backend):
        batch = Slicer(dataset, cutoff, follow=["edge_index", "cutoff"])(np.array(chosen))
        expected = Batch.from_data_list(
            [RadiusGraph(cutoff)(dataset[i]) for i in chosen], follow_batch=["edge_index", "cutoff"]
        )
    assert_same(batch, expected)
    assert_same(batch.to_data_list(), [RadiusGraph(cutoff)(dataset[i]) for i in chosen])
    assert (batch.num_edges == 0) == (cutoff < 1)


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_edges_in_other_dimensions(dimension: int) -> None:
    dataset = InMemory([Data(pos=torch.rand(n, dimension)) for n in SIZES])
    batch = Slicer(dataset, 0.6)(np.array([2, 0]))
    assert_same(batch, Batch.from_data_list([RadiusGraph(0.6)(dataset[i]) for i in (2, 0)]))
    assert 0 < batch.num_edges < 26


def test_edges_of_real_molecules_as_stored_ones() -> None:
    plain, stored = QM9Sample(), QM9Sample(cutoff=5.0)
    chosen = torch.randperm(len(plain), generator=torch.Generator().manual_seed(0))[:200].numpy()
    found = Slicer(plain, 5.0)(chosen)
    assert_same(found, Slicer(stored)(chosen))
    assert_same(found, Slicer(stored, 5.0)(chosen))
    assert_same(found, Batch.from_data_list([stored[i] for i in chosen.tolist()]))


def test_edges_of_large_molecules() -> None:
    """Beyond the size for which all pairs are held at once."""
    torch.manual_seed(0)
    dataset = InMemory([Data(pos=30 * torch.rand(n, 3)) for n in (2500, 3)])
    batch = Slicer(dataset, 2.0)(np.array([1, 0]))
    assert_same(batch, Batch.from_data_list([RadiusGraph(2.0)(dataset[i]) for i in (1, 0)]))


def test_other_edges_are_not_overwritten() -> None:
    stored = QM9Sample(cutoff=3.0)[:4]
    with pytest.raises(ValueError, match=r"edges that reach to 3, not to cutoff=5: leave out 'c"):
        Slicer(stored, 5.0)
    excluded = ["edge_index", "edge_weight", "cutoff"]
    batch = Slicer(stored, 5.0, exclude=excluded)(np.arange(4))
    assert_same(batch, Slicer(QM9Sample(cutoff=5.0))(np.arange(4)))
    bonds = InMemory(molecules(edge_index=lambda n, i: pairs(n)))
    with pytest.raises(ValueError, match=r"come with \['edge_index'\].* bonds belong in"):
        Slicer(bonds, 5.0)
    with pytest.raises(ValueError, match="needs positions, but the fields are"):
        Slicer(InMemory(molecules(x=lambda n, i: torch.rand(n))), 5.0, exclude=["pos"])
    whole_numbers = InMemory([Data(pos=torch.ones(n, 3, dtype=torch.long)) for n in SIZES])
    with pytest.raises(TypeError, match="'pos' must hold floating-point numbers"):
        Slicer(whole_numbers, 5.0)


def test_broken_positions_matter_where_they_are_used() -> None:
    made = molecules()
    made[2].pos[1, 0] = math.nan
    slicer = Slicer(InMemory(made), 5.0)
    assert slicer(np.array([0, 1])).num_edges == 6
    with pytest.raises(ValueError, match=r"positions must be finite .* for atom 4"):
        slicer(np.array([0, 2]))


class OwnIncrement(Data):
    def __inc__(self, key, value, *args, **kwargs):
        return 7 if key == "site" else super().__inc__(key, value, *args, **kwargs)


class OwnDimension(Data):
    def __cat_dim__(self, key, value, *args, **kwargs):
        return None if key == "y" else super().__cat_dim__(key, value, *args, **kwargs)


class OwnAccess(InMemory):
    def get(self, idx):
        data = super().get(idx)
        data.pos = 2 * data.pos
        return data


def of_kind(kind: type[Data], key: str) -> list[Data]:
    return [kind(pos=torch.rand(n, 3), **{key: torch.tensor([n])}) for n in SIZES]


def hetero(n: int) -> HeteroData:
    data = HeteroData()
    data["atom"].x = torch.rand(n, 2)
    data["atom", "bond", "atom"].edge_index = pairs(n)
    return data


UNSLICED = {
    "transform": (lambda: InMemory(molecules(), Constant()), r"there is a transform, Constant"),
    "increment": (lambda: InMemory(of_kind(OwnIncrement, "site")), "OwnIncrement has __inc__"),
    "dimension": (lambda: InMemory(of_kind(OwnDimension, "y")), "OwnDimension has __cat_dim__"),
    "access": (lambda: OwnAccess(molecules()), r"OwnAccess has a get\(\) of its own"),
    "one": (lambda: InMemory(molecules()[:1]), "one molecule only"),
    "heterogeneous": (lambda: InMemory([hetero(n) for n in SIZES]), "are HeteroData, not Data"),
    "list": (molecules, "list is no InMemoryDataset"),
    "counted": (lambda: InMemory(molecules(num_nodes=lambda n, i: n)), "'num_nodes' is set by"),
    "uncounted": (
        lambda: InMemory([Data(z=torch.ones(n)) for n in SIZES]),
        r"number of atoms is not told by the fields \['z'\]",
    ),
    "sparse": (
        lambda: InMemory(molecules(adj=lambda n, i: torch.eye(n).to_sparse())),
        "'adj' holds other things than",
    ),
    "edge index": (
        lambda: InMemory(
            molecules(edge_index=lambda n, i: EdgeIndex(pairs(n).contiguous(), sparse_size=(n, n)))
        ),
        "'edge_index' is no plain tensor",
    ),
    "dictionary": (
        lambda: InMemory(molecules(parts=lambda n, i: {"a": torch.rand(n)})),
        "'parts' is nested, or lacks slices",
    ),
    "tensors": (
        lambda: InMemory(molecules(parts=lambda n, i: [torch.rand(n)])),
        "'parts' is nested, or lacks slices",
    ),
    "objects": (
        lambda: InMemory(molecules(thing=lambda n, i: np.ones(2))),
        "'thing' holds other things than",
    ),
    "batch": (
        lambda: InMemory(molecules(residue_batch=lambda n, i: torch.arange(n))),
        "'residue_batch' has a meaning of its own",
    ),
    "fractions": (
        lambda: InMemory(molecules(index=lambda n, i: torch.rand(1))),
        "'index' should be indices, but is torch.float32",
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # PyTorch's, at any sparse tensor
@pytest.mark.parametrize("kind", UNSLICED)
def test_what_cannot_be_sliced_goes_the_way_of_pyg(kind: str) -> None:
    make, reason = UNSLICED[kind]
    dataset = make()
    loader = MoleculeLoader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    assert loader.reason is not None
    with pytest.raises(UnsliceableError, match=reason):
        raise UnsliceableError(loader.reason)
    expected = DataLoader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        for batch, wanted in zip(loader, expected, strict=True):
            if kind == "objects":  # arrays do not compare
                batch, wanted = batch.pos, wanted.pos
            assert_same(batch, wanted)


def test_slices_that_do_not_fit() -> None:
    dataset = InMemory(molecules())
    dataset.slices["pos"] = dataset.slices["pos"] + 1
    with pytest.raises(UnsliceableError, match="slices of 'pos' do not fit its 16 rows"):
        Slicer(dataset)
