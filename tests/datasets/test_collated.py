import math
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import QM9Sample
from pyg_schnet.datasets.collated import add_edges, collate, save, split
from pyg_schnet.graph import RadiusGraph, radius_graph


def random_molecules(sizes: list[int]) -> list[Data]:
    torch.manual_seed(0)
    return [
        Data(
            z=torch.randint(1, 10, (n,)),
            pos=3 * torch.rand(n, 3),
            y=torch.rand(1, 2, dtype=torch.float64),
            name=f"molecule {n}",
        )
        for n in sizes
    ]


def collate_flat(molecules: list[Data]) -> tuple[Data, dict[str, torch.Tensor] | None]:
    return collate(
        torch.tensor([molecule.num_nodes for molecule in molecules]),
        {key: torch.cat([molecule[key] for molecule in molecules]) for key in ("z", "pos")},
        {
            "y": torch.cat([molecule.y for molecule in molecules]),
            "name": [molecule.name for molecule in molecules],
        },
    )


def assert_same(left: Data, right: Data) -> None:
    assert sorted(left.keys()) == sorted(right.keys())
    for key in left.keys():  # noqa: SIM118 - iterating over Data gives pairs
        if isinstance(left[key], torch.Tensor):
            assert left[key].dtype == right[key].dtype, key
            assert torch.equal(left[key], right[key]), key
        else:
            assert left[key] == right[key]


@pytest.mark.parametrize("sizes", [[3, 1, 5], [4]])
def test_collate_as_pyg(sizes: list[int]) -> None:
    molecules = random_molecules(sizes)
    data, slices = collate_flat(molecules)
    expected, expected_slices = InMemoryDataset.collate(molecules)
    assert_same(data, expected)
    if expected_slices is None:
        assert slices is None
    else:
        assert slices is not None
        assert {k: v.tolist() for k, v in slices.items()} == {
            k: v.tolist() for k, v in expected_slices.items()
        }


@pytest.mark.parametrize("sizes", [[3, 1, 5], [4], [1, 1], [2, 1]])
@pytest.mark.parametrize("cutoff", [1e-3, 1.5, math.inf])
def test_edges_as_for_each_molecule(sizes: list[int], cutoff: float) -> None:
    molecules = random_molecules(sizes)
    data, slices = collate_flat(molecules)
    expected = [RadiusGraph(cutoff)(molecule.clone()) for molecule in molecules]
    for found, wanted in zip(split(*add_edges(data, slices, cutoff)), expected, strict=True):
        assert_same(found, wanted)
    assert "edge_index" not in data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("periodic", [True, False])
def test_edges_of_crystals_as_for_each_one(dtype: torch.dtype, periodic: bool) -> None:
    sizes = [3, 1, 5, 2]
    molecules = random_molecules(sizes)
    for i, molecule in enumerate(molecules):
        molecule.pos = molecule.pos.to(dtype)
        molecule.pbc = torch.tensor([[i != 2, i > 2, i == 1]]) & periodic
        molecule.cell = ((2.2 + 0.1 * i) * torch.eye(3, dtype=dtype) + 0.3).unsqueeze(0)
    data, slices = InMemoryDataset.collate(molecules)
    expected = [RadiusGraph(3.0)(molecule.clone()) for molecule in molecules]
    found = list(split(*add_edges(data, slices, 3.0)))
    for one, wanted in zip(found, expected, strict=True):
        assert_same(one, wanted)
    assert [one.edge_shift.any().item() for one in found] == [
        periodic and i != 2 for i in range(len(sizes))
    ]
    data.cell = data.cell.flatten(0, 1)  # as of molecules with cells [3, 3]
    if periodic:
        with pytest.raises(ValueError, match=r"store it as \[1, 3, 3\]"):
            add_edges(data, slices, 3.0)


def test_sample_with_edges_as_radius_graph() -> None:
    plain, dataset = QM9Sample(), QM9Sample(cutoff=3.0)
    for i in [0, 1, 77, 1500, len(dataset) - 1]:
        assert_same(dataset[i], RadiusGraph(3.0)(plain[i]))


def test_batches_with_edges() -> None:
    dataset = QM9Sample(cutoff=3.0)[100:120]
    batch = next(iter(DataLoader(dataset, batch_size=20)))
    assert torch.equal(batch.edge_index, radius_graph(batch.pos, 3.0, batch.batch))
    assert torch.equal(batch.cutoff, torch.full((20,), 3.0))
    source, target = batch.edge_index
    distance = (batch.pos[source] - batch.pos[target]).norm(dim=-1)
    torch.testing.assert_close(batch.edge_weight, distance)


def test_views_and_copies_with_edges() -> None:
    dataset = QM9Sample(cutoff=3.0)
    view = dataset[torch.tensor([7, 3])]
    assert [molecule.name for molecule in view] == [dataset[7].name, dataset[3].name]
    assert_same(view[1], dataset[3])
    copy = view.copy()
    assert_same(copy[0], dataset[7])


def test_collate_refuses_wrong_rows() -> None:
    with pytest.raises(ValueError, match="'z' has 2 rows, but 3 are needed"):
        collate(torch.tensor([1, 2]), {"z": torch.ones(2)}, {})
    with pytest.raises(ValueError, match="'name' has 1 rows, but 2 are needed"):
        collate(torch.tensor([1, 2]), {}, {"name": ["a"]})
    with pytest.raises(ValueError, match="no molecules"):
        collate(torch.tensor([], dtype=torch.long), {}, {})


def test_interrupted_saving_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.pt"
    path.write_bytes(b"old")

    def half(content: object, file: str) -> None:
        Path(file).write_bytes(b"half of the n")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save(*collate_flat(random_molecules([3, 2])), str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_edges_are_not_overwritten() -> None:
    data, slices = add_edges(*collate_flat(random_molecules([3, 2])), 2.0)
    with pytest.raises(ValueError, match="'edge_index' already"):
        add_edges(data, slices, 3.0)
