import math

import pytest
import torch
from torch_geometric.datasets import FakeDataset

from pyg_schnet.data import (
    atom_references,
    composition,
    load_split,
    per_atom_statistics,
    random_split,
    target_statistics,
)


def counts_of(*molecules: list[int]) -> torch.Tensor:
    z = torch.tensor([number for molecule in molecules for number in molecule])
    sizes = torch.tensor([len(molecule) for molecule in molecules])
    return composition(z, torch.arange(len(sizes)).repeat_interleave(sizes), len(sizes))


WATER, METHANE, METHANOL = [8, 1, 1], [6, 1, 1, 1, 1], [6, 8, 1, 1, 1, 1]


def test_composition():
    counts = counts_of(WATER, [], METHANE)
    assert counts.shape == (3, 101)
    assert counts.sum(dim=1).tolist() == [3, 0, 5]
    assert counts[0, [1, 6, 8]].tolist() == [2, 0, 1]
    assert counts[2, [1, 6, 8]].tolist() == [4, 1, 0]


def test_padding_is_not_counted():
    assert counts_of([8, 0, 0, 1]).sum() == 2


def test_references_are_recovered_in_double_precision():
    truth = torch.zeros(101, dtype=torch.float64)
    truth[[1, 6, 8]] = torch.tensor([-13.613121721, -1029.863122674, -2042.611235931]).double()
    counts = counts_of(WATER, METHANE, METHANOL, [1, 1])
    fitted = atom_references(counts, counts @ truth)
    assert torch.allclose(fitted, truth, rtol=1e-11)
    assert not fitted[[0, 2, 7]].any()


def test_one_composition_gives_the_mean_per_atom():
    counts = counts_of(METHANE, METHANE)
    fitted = atom_references(counts, torch.tensor([-10.0, -20.0]))
    assert fitted[[1, 6]].tolist() == pytest.approx([-3.0, -3.0])


def test_missing_labels_are_left_out():
    counts = counts_of(WATER, METHANE, [1, 1])
    energy = torch.tensor([1.0, math.nan, 3.0])
    known = torch.tensor([True, False, True])
    assert torch.equal(
        atom_references(counts, energy), atom_references(counts[known], energy[known])
    )
    assert per_atom_statistics(counts, energy).mean == pytest.approx((1 / 3 + 3 / 2) / 2)
    with pytest.raises(ValueError, match="all 2 labels are missing"):
        target_statistics(torch.tensor([math.nan, math.nan]))


def test_per_atom_statistics_of_what_references_leave():
    counts = counts_of(WATER, METHANE)
    references = torch.zeros(101, dtype=torch.float64)
    references[1] = 1.0
    statistics = per_atom_statistics(counts, torch.tensor([5.0, 9.0]), references)
    assert statistics.mean == pytest.approx(1.0)  # (3/3 + 5/5) / 2
    assert statistics.std == pytest.approx(0.0)


def test_target_statistics():
    statistics = target_statistics(torch.tensor([1.0, 2.0, 3.0, math.nan]))
    assert statistics.mean == 2.0
    assert statistics.std == pytest.approx(math.sqrt(2 / 3))
    assert (statistics.min, statistics.max) == (1.0, 3.0)


def test_split_is_a_partition_and_repeatable(tmp_path):
    dataset = FakeDataset(num_graphs=20)
    parts = random_split(dataset, [10, 4, -1], seed=5, file=tmp_path / "new" / "split.json")
    indices = [list(part.indices()) for part in parts]
    assert [len(part) for part in indices] == [10, 4, 6]
    assert sorted(index for part in indices for index in part) == list(range(20))
    again = random_split(dataset, [10, 4, -1], seed=5)
    assert [list(part.indices()) for part in again] == indices
    assert list(random_split(dataset, [10], seed=6)[0].indices()) != indices[0]

    import json

    saved = json.loads((tmp_path / "new" / "split.json").read_text())
    assert saved == {"seed": 5, "num_molecules": 20, "parts": indices}


def test_split_is_loaded_again(tmp_path):
    dataset = FakeDataset(num_graphs=20)
    parts = random_split(dataset, [10, -1], seed=5, file=tmp_path / "split.json")
    again = load_split(dataset, tmp_path / "split.json")
    assert [list(p.indices()) for p in again] == [list(p.indices()) for p in parts]
    with pytest.raises(ValueError, match="splits 20 molecules, the data set has 19"):
        load_split(dataset[:19], tmp_path / "split.json")
    with pytest.raises(TypeError, match="whole numbers of molecules"):
        random_split(dataset, [0.5, 0.5])


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"parts": [[0]]}', '{"num_molecules": 10}'])
def test_files_that_hold_no_split(tmp_path, content):
    file = tmp_path / "split.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"split\.json' holds no split .*random_split"):
        load_split(FakeDataset(num_graphs=10), file)


@pytest.mark.parametrize("sizes", [[25], [-1, -1], [-2, 5]])
def test_bad_splits(sizes):
    with pytest.raises(ValueError, match="sizes"):
        random_split(FakeDataset(num_graphs=20), sizes)
