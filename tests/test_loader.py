import math
from collections.abc import Iterator

import pytest
import torch
from batches import InMemory, assert_same
from molecules import random_molecule
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from pyg_schnet import RadiusGraph, SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.loader import MoleculeLoader


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def sample() -> QM9Sample:
    return QM9Sample()


@pytest.fixture(scope="module")
def molecules() -> list[Data]:
    made = [random_molecule(1 + i % 5, seed=i) for i in range(23)]
    for i, data in enumerate(made):
        data.idx = torch.tensor([i])
    return made


def contents(loader) -> list[list[int]]:
    return [batch.idx.tolist() for batch in loader]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_same_batches_as_pyg(sample, size: int, shuffle: bool, drop_last: bool) -> None:
    view = sample[torch.arange(2, 2938, 49)]
    assert len(view) == 60
    options = dict(batch_size=size, shuffle=shuffle, drop_last=drop_last)
    loader = MoleculeLoader(view, generator=seeded(), **options)
    expected = DataLoader(view, generator=seeded(), **options)
    assert loader.reason is None
    assert len(loader) == len(expected)
    for _ in range(3):
        for batch, wanted in zip(loader, expected, strict=True):
            assert_same(batch, wanted)


def views(dataset):
    few = dataset[[9, 3, 3, 20, 11, 7, 0, 22]]
    return {
        "all": dataset,
        "slice": dataset[4:20:3],
        "list": few,
        "view of a view": few[torch.tensor([5, 1, 1])],
        "subset": Subset(dataset, range(2, 15)),
        "subset of a view": Subset(few, [1, -1, 4]),
        "subset of a subset": Subset(Subset(few, [6, 5, 4]), torch.tensor([2, 0])),
        "copy": few.copy(),
    }


@pytest.mark.parametrize("name", views(InMemory([Data(x=torch.ones(1))] * 23)))
def test_views(molecules, name: str) -> None:
    view = views(InMemory(molecules))[name]
    loader = MoleculeLoader(view, 3, shuffle=True, generator=seeded())
    assert loader.reason is None
    for batch, wanted in zip(
        loader, DataLoader(view, 3, shuffle=True, generator=seeded()), strict=True
    ):
        assert_same(batch, wanted)


def test_options_reach_both_ways(molecules) -> None:
    options = dict(follow_batch=["pos"], exclude_keys=["z"])
    for dataset in (InMemory(molecules), molecules):
        for batch, wanted in zip(
            MoleculeLoader(dataset, 4, cutoff=2.0, **options),
            DataLoader([RadiusGraph(2.0)(data.clone()) for data in molecules], 4, **options),
            strict=True,
        ):
            assert_same(batch, wanted)


def test_edges_of_a_list_may_be_stored_or_are_replaced(molecules) -> None:
    stored = [RadiusGraph(2.0)(data.clone()) for data in molecules]
    wanted = next(iter(DataLoader(stored, 23)))
    assert_same(next(iter(MoleculeLoader(stored, 23, cutoff=2.0))), wanted)
    with pytest.raises(ValueError, match="edges that reach to 2, not to cutoff=3"):
        MoleculeLoader(stored, 23, cutoff=3.0)
    mixed = [molecules[0], stored[1]]
    with pytest.raises(ValueError, match="edges that reach to 2, not to cutoff=3"):
        list(MoleculeLoader(mixed, 2, cutoff=3.0))
    exclude = ["edge_index", "edge_weight", "cutoff"]
    batch = next(iter(MoleculeLoader(stored, 23, cutoff=3.0, exclude_keys=exclude)))
    wanted = Batch.from_data_list([RadiusGraph(3.0)(data.clone()) for data in molecules])
    assert_same(batch, wanted)
    assert "edge_index" in stored[0]  # the user's molecules are left alone


@pytest.mark.parametrize("envelope", ["cosine", "none"])
def test_a_model_takes_the_edges(sample, envelope: str) -> None:
    torch.manual_seed(0)
    cutoff = 4.0 if envelope == "cosine" else 30.0
    model = SchNet(8, 8, 1, num_gaussians=8, cutoff=cutoff, envelope=envelope)
    reach = cutoff if envelope == "cosine" else math.inf
    plain = next(iter(MoleculeLoader(sample, 50)))
    batch = next(iter(MoleculeLoader(sample, 50, cutoff=reach)))
    assert torch.equal(model.predict(batch)["energy"], model.predict(plain)["energy"])
    short = next(iter(MoleculeLoader(sample, 50, cutoff=2.0)))
    with pytest.raises(ValueError, match="reach to 2 A"):
        model.predict(short)


# Samplers and resumption


class Twice(torch.utils.data.Sampler):
    """Batches of a user's own."""

    def __iter__(self) -> Iterator[list[int]]:
        yield [1, 0]
        yield [-1]

    def __len__(self) -> int:
        return 2


def test_samplers(molecules) -> None:
    dataset = InMemory(molecules)
    assert contents(MoleculeLoader(dataset, 2, sampler=[4, 2, 0])) == [[4, 2], [0]]
    assert contents(MoleculeLoader(dataset, 2, sampler=[4, 2, 0], drop_last=True)) == [[4, 2]]
    loader = MoleculeLoader(dataset, batch_sampler=Twice())
    assert len(loader) == 2
    assert contents(loader) == contents(loader) == [[1, 0], [22]]
    batches = [[0, 5], [7], [3, 3, 1]]
    assert contents(MoleculeLoader(dataset, batch_sampler=batches)) == batches
    assert contents(MoleculeLoader(molecules, batch_sampler=batches)) == batches
    indices = (torch.tensor(i) for i in (3, 1))
    assert contents(MoleculeLoader(dataset, 2, sampler=indices)) == [[3, 1]]


@pytest.mark.parametrize("drop_last", [False, True])
def test_shards_of_distributed_training(molecules, drop_last: bool) -> None:
    dataset = InMemory(molecules)

    def shards(epoch: int) -> list[list[list[int]]]:
        parts = []
        for rank in range(3):
            sampler = DistributedSampler(dataset, 3, rank, shuffle=True, seed=5)
            loader = MoleculeLoader(dataset, 4, sampler=sampler, drop_last=drop_last)
            loader.set_epoch(epoch)
            parts.append(contents(loader))
            assert len(loader) == len(parts[-1]) == 2  # 8 of 23 + 1
        return parts

    seen = [i for part in shards(0) for batch in part for i in batch]
    assert len(seen) == 24
    assert set(seen) == set(range(23))
    assert shards(0) != shards(1)
    assert shards(1) == shards(1)


def test_samplers_are_told_the_epoch(molecules) -> None:
    dataset = InMemory(molecules)
    loader = MoleculeLoader(dataset, 5, sampler=DistributedSampler(dataset, 1, 0))
    told = DistributedSampler(dataset, 1, 0)

    def expected(epoch: int) -> list[list[int]]:
        told.set_epoch(epoch)
        return contents(DataLoader(dataset, 5, sampler=told))

    assert contents(loader) == expected(0)
    assert contents(loader) == expected(1)
    next(iter(loader))  # broken off: epoch 2
    assert contents(loader) == expected(3)
    loader.sampler.set_epoch(7)  # as one does with PyTorch's loader
    assert contents(loader) == expected(7)
    assert contents(loader) == expected(8)
    assert loader.epoch == 9
    loader.set_epoch(1, position=2)
    assert contents(loader) == expected(1)[2:]
    fresh = MoleculeLoader(dataset, 5, sampler=told)
    told.set_epoch(4)
    assert contents(fresh) == expected(4)


ORDERS = {
    "in order": lambda dataset: dict(batch_size=4),
    "shuffled": lambda dataset: dict(batch_size=4, shuffle=True),
    "seeded": lambda dataset: dict(batch_size=4, shuffle=True, generator=seeded(3)),
    "random": lambda dataset: dict(
        batch_size=4, sampler=RandomSampler(dataset, generator=seeded(1))
    ),
    "weighted": lambda dataset: dict(
        batch_size=4,
        sampler=WeightedRandomSampler(torch.arange(23.0), 23, generator=seeded(2)),
    ),
    "distributed": lambda dataset: dict(
        batch_size=4, sampler=DistributedSampler(dataset, 1, 0, seed=4)
    ),
    "batches": lambda dataset: dict(
        batch_sampler=BatchSampler(RandomSampler(dataset, generator=seeded(5)), 4, False)
    ),
}


@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_resumes_within_an_epoch(molecules, order: str, sliced: bool) -> None:
    """State after every batch; a new loader with other random numbers goes on from there."""
    dataset = InMemory(molecules) if sliced else molecules

    def new(seed: int = 0) -> MoleculeLoader:
        torch.manual_seed(seed)
        loader = MoleculeLoader(dataset, **ORDERS[order](dataset))
        assert (loader.reason is None) == sliced
        return loader

    loader = new()
    states, batches = [loader.state_dict()], []
    for _ in range(2):
        for batch in loader:
            batches.append(batch.idx.tolist())
            states.append(loader.state_dict())
    assert len(batches) == 12
    assert (batches[:6] == batches[6:]) == (order == "in order")
    for done in (0, 1, 5, 6, 7, 12):
        resumed = new(seed=9)
        for _ in resumed:  # other random numbers, and an epoch broken off
            break
        state = torch.load(_saved(states[done]), weights_only=True)
        resumed.load_state_dict(state)
        assert_same(resumed.state_dict(), states[done])
        rest = []
        while len(rest) + done < 12:
            rest += contents(resumed)
        assert rest == batches[done:]
        again = contents(resumed)
        if done == 12:  # at the end of an epoch that has not been left
            assert again == []
            again = contents(resumed)
        third = new()
        two_epochs = [contents(third), contents(third)]
        assert again == contents(third)
        assert two_epochs[0] + two_epochs[1] == batches


def _saved(state: dict):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_seeds(molecules) -> None:
    dataset = InMemory(molecules)
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        loader = MoleculeLoader(dataset, 5, shuffle=True)
        torch.rand(seed)  # the loader has its own random numbers by now
        orders.append([contents(loader), contents(loader)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    before = torch.get_rng_state()
    contents(loader)
    contents(MoleculeLoader(dataset, 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_state_of_another_loader(molecules) -> None:
    dataset = InMemory(molecules)
    state = MoleculeLoader(dataset, 4, shuffle=True).state_dict()
    with pytest.raises(ValueError, match="another loader: batch_size was 4 and is 5"):
        MoleculeLoader(dataset, 5, shuffle=True).load_state_dict(state)
    with pytest.raises(ValueError, match="another loader: num_molecules was 23 and is 9"):
        MoleculeLoader(dataset[:9], 4, shuffle=True).load_state_dict(state)
    with pytest.raises(ValueError, match="one of them has a random order and the other has not"):
        MoleculeLoader(dataset, 4).load_state_dict(state)
    loader = MoleculeLoader(dataset, 4, sampler=RandomSampler(dataset))
    with pytest.raises(RuntimeError, match="order of RandomSampler cannot be repeated: give it a"):
        loader.state_dict()
    assert MoleculeLoader(dataset, 4, sampler=SequentialSampler(dataset)).state_dict()
    with pytest.raises(ValueError, match=r"must not be negative \(got 0, -1\)"):
        loader.set_epoch(0, -1)


def test_bad_arguments(molecules) -> None:
    dataset = InMemory(molecules)
    for empty in (dataset[:0], []):
        with pytest.raises(ValueError, match="the data set is empty"):
            MoleculeLoader(empty)
    with pytest.raises(ValueError, match=r"'batch_size' must be at least 1 \(got 0\)"):
        MoleculeLoader(dataset, 0)
    for wrong in (2.0, True, None):
        with pytest.raises(TypeError, match="'batch_size' must be a whole number"):
            MoleculeLoader(dataset, wrong)
    with pytest.raises(TypeError, match=r"must have a length and indices \(got generator\)"):
        MoleculeLoader(data for data in molecules)
    with pytest.raises(ValueError, match="contradicts shuffle=True"):
        MoleculeLoader(dataset, shuffle=True, sampler=[1])
    for options in ({"batch_size": 2}, {"shuffle": True}, {"sampler": []}, {"drop_last": True}):
        with pytest.raises(ValueError, match="'batch_sampler' makes the batches"):
            MoleculeLoader(dataset, batch_sampler=[[1]], **options)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="'cutoff' must be positive"):
            MoleculeLoader(dataset, cutoff=wrong)
        with pytest.raises(ValueError, match="'cutoff' must be positive"):
            MoleculeLoader(molecules, cutoff=wrong)


@pytest.mark.parametrize("sliced", [True, False])
def test_bad_indices(molecules, sliced: bool) -> None:
    dataset = InMemory(molecules) if sliced else molecules
    for wrong in (23, -24):
        with pytest.raises(IndexError, match=f"no molecule {wrong}: the data set has 23, from 0"):
            list(MoleculeLoader(dataset, 2, sampler=[3, wrong]))
    with pytest.raises(TypeError, match="must be whole numbers"):
        list(MoleculeLoader(dataset, 2, sampler=[1.0, 2.0]))
    with pytest.raises(TypeError, match="must be whole numbers"):
        list(MoleculeLoader(dataset, batch_sampler=[[True, False]]))
    with pytest.raises(ValueError, match="an empty list of molecules"):
        list(MoleculeLoader(dataset, batch_sampler=[[]]))


def test_bad_views(molecules) -> None:
    dataset = InMemory(molecules)
    with pytest.raises(IndexError, match="no molecule 23"):
        MoleculeLoader(Subset(dataset, [0, 23]))
    view = dataset[:3]
    view._indices = [0, 23]
    with pytest.raises(IndexError, match="the view has molecules 0 to 23 of a data set of 23"):
        MoleculeLoader(view)


# Devices


def test_on_the_cpu(molecules) -> None:
    for dataset in (InMemory(molecules), molecules):
        batch = next(iter(MoleculeLoader(dataset, 23, cutoff=2.0, device="cpu")))
        assert_same(batch, next(iter(MoleculeLoader(dataset, 23, cutoff=2.0))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("cutoff", [None, 2.0])
def test_on_a_gpu(molecules, sliced: bool, cutoff: float | None) -> None:
    """As PyG's batches moved there, private entries included, which stay on the CPU."""
    for data in molecules:
        data.bond_index = torch.zeros(2, data.num_nodes, dtype=torch.long)
    dataset = InMemory(molecules) if sliced else molecules
    options = dict(cutoff=cutoff, follow_batch=["idx"])
    there = MoleculeLoader(dataset, 5, device="cuda", **options)
    for batch, wanted in zip(there, MoleculeLoader(dataset, 5, **options), strict=True):
        assert_same(batch, wanted.to("cuda"))
        assert_same(batch[0].cpu(), wanted[0].cpu())


def test_repr(molecules) -> None:
    assert repr(MoleculeLoader(InMemory(molecules), 4)) == "MoleculeLoader(23, batch_size=4)"
    assert repr(MoleculeLoader(molecules, 4)) == (
        "MoleculeLoader(23, batch_size=4, molecule by molecule: list is no InMemoryDataset)"
    )
