"""QM9 end to end, from files in the original format."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data

from pyg_schnet.datasets import QM9, QM9Sample
from pyg_schnet.datasets.qm9_properties import RawMolecules
from pyg_schnet.graph import RadiusGraph

KEPT = [0, 1, 3, 4, 5, 7, 8, 9, 10, 11]  # without the molecules 3 and 7, counted from 1

Put = Callable[..., Path]
Small = type[QM9]


def add_bonds(data: Data) -> Data:
    data.num_heavy = int((data.z > 1).sum())
    return data


def interrupt(data: Data) -> Data:
    if data.name == "gdb_5":
        raise KeyboardInterrupt
    return data


def add_unsaveable(data: Data) -> Data:
    data.function = lambda: None
    return data


def has_nitrogen(data: Data) -> bool:
    return bool((data.z == 7).any())


def is_methane(data: Data) -> bool:
    return data.smiles == "C"


def nothing(data: Data) -> bool:
    return False


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    half = len(content) // 2
    damaged = {
        "truncated": content[:half],
        "empty": b"",
        "text": b"<html>Service unavailable</html>" * 100,
        "flipped": content[:half] + bytes(255 - byte for byte in content[half:]),
    }
    path.write_bytes(damaged[how])


def test_molecules_as_in_the_sample(put_raw: Put, small_qm9: Small) -> None:
    dataset, sample = small_qm9(str(put_raw())), QM9Sample()
    assert len(dataset) == 10
    assert dataset.name == [f"gdb_{i + 1}" for i in KEPT]
    assert dataset.idx.tolist() == KEPT
    assert dataset.y.dtype == torch.float64
    for molecule, row in zip(dataset, KEPT, strict=True):
        assert molecule.smiles == sample[row].smiles
        assert torch.equal(molecule.z, sample[row].z)
        assert torch.equal(molecule.pos, sample[row].pos)
        assert torch.equal(molecule.y, sample[row].y)
        assert "edge_index" not in molecule


def test_order_of_the_archive_does_not_matter(
    put_raw: Put, small_qm9: Small, texts: list[str]
) -> None:
    dataset = small_qm9(put_raw(archive=texts[::-1]))
    assert dataset.idx.tolist() == KEPT
    assert dataset[0].smiles == "C"
    assert dataset[0].num_nodes == 5


def test_edges(put_raw: Put, small_qm9: Small) -> None:
    root = str(put_raw())
    plain, dataset = small_qm9(root), small_qm9(root, cutoff=2.0)
    for left, right in zip(plain, dataset, strict=True):
        expected = RadiusGraph(2.0)(left)
        assert torch.equal(right.edge_index, expected.edge_index)
        assert torch.equal(right.edge_weight, expected.edge_weight)
        assert torch.equal(right.cutoff, torch.tensor([2.0]))
    assert "edge_index" not in small_qm9(root)[0]


def test_senseless_cutoff_comes_first(tmp_path: Path, small_qm9: Small) -> None:
    with pytest.raises(ValueError, match="'cutoff' must be positive"):
        small_qm9(str(tmp_path), cutoff=-5.0)


def test_pre_transform_and_pre_filter(put_raw: Put, small_qm9: Small, raw: RawMolecules) -> None:
    dataset = small_qm9(put_raw(), pre_transform=add_bonds, pre_filter=has_nitrogen)
    expected = [i for i in KEPT if "N" in raw.smiles[i].upper()]
    assert 1 < len(expected) < len(KEPT)
    assert dataset.idx.tolist() == expected
    for molecule in dataset:
        assert int(molecule.num_heavy) == int((molecule.z > 1).sum())


def test_one_molecule_left(put_raw: Put, small_qm9: Small) -> None:
    dataset = small_qm9(put_raw(), pre_filter=is_methane, cutoff=5.0)
    assert len(dataset) == 1
    assert dataset[0].name == "gdb_1"
    assert dataset[0].num_edges == 20


def test_no_molecule_left(put_raw: Put, small_qm9: Small) -> None:
    with pytest.raises(ValueError, match="'pre_filter' leaves no molecule"):
        small_qm9(put_raw(), pre_filter=nothing)


def test_force_reload(put_raw: Put, small_qm9: Small) -> None:
    root = put_raw(excluded=(3, 7))
    small_qm9(root)
    put_raw(excluded=(1, 2))
    assert small_qm9(root).idx.tolist() == KEPT
    assert small_qm9(root, force_reload=True).idx.tolist() == list(range(2, 12))


@pytest.mark.parametrize(
    ("pre_transform", "error"), [(interrupt, KeyboardInterrupt), (add_unsaveable, Exception)]
)
def test_interrupted_processing_leaves_nothing(
    put_raw: Put, small_qm9: Small, pre_transform: Callable, error: type[BaseException]
) -> None:
    root = put_raw()
    with pytest.raises(error):
        small_qm9(root, pre_transform=pre_transform)
    assert list((root / "processed").iterdir()) == []
    assert len(small_qm9(root)) == 10


def test_processed_file_is_plain(put_raw: Put, small_qm9: Small) -> None:
    root = put_raw()
    small_qm9(root)
    data, slices, _ = torch.load(root / "processed" / "qm9_v1.pt", weights_only=True)
    assert data["y"].shape == (10, 19)
    assert slices["y"].tolist() == list(range(11))


def test_damaged_processed_file(put_raw: Put, small_qm9: Small) -> None:
    root = put_raw()
    small_qm9(root)
    damage(root / "processed" / "qm9_v1.pt", "truncated")
    with pytest.raises(ValueError, match=r"qm9_v1\.pt' is damaged .*force_reload=True"):
        small_qm9(root)
    assert len(small_qm9(root, force_reload=True)) == 10


def test_raw_files_are_needed_once(put_raw: Put, small_qm9: Small) -> None:
    root = put_raw()
    small_qm9(root)
    for path in (root / "raw").iterdir():
        path.unlink()
    assert len(small_qm9(root)) == 10


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "flipped"])
def test_damaged_archive(put_raw: Put, small_qm9: Small, how: str) -> None:
    path = put_raw() / "raw" / small_qm9.archive.name
    damage(path, how)
    with pytest.raises(ValueError, match="damaged or no bzip2") as caught:
        small_qm9(path.parents[1])
    for needed in (str(path), small_qm9.archive.urls[0], "Delete it"):
        assert needed in str(caught.value)


def test_damaged_molecule(put_raw: Put, small_qm9: Small, texts: list[str]) -> None:
    texts = [*texts[:4], texts[4].replace("gdb 5\t", "gdb 5\toops"), *texts[5:]]
    with pytest.raises(ValueError, match=r"dsgdb9nsd_000005.xyz' in .*, line 2: .*oops"):
        small_qm9(put_raw(archive=texts))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*range(11)], r"got 11, 11 of them different"),
        ([*range(11), 10], r"got 12, 11 of them different"),
        ([*range(12), 11], r"got 13, 12 of them different"),
    ],
)
def test_incomplete_archive(
    put_raw: Put, small_qm9: Small, texts: list[str], rows: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_qm9(put_raw(archive=[texts[row] for row in rows]))


def test_wrong_list(put_raw: Put, small_qm9: Small) -> None:
    with pytest.raises(ValueError, match=r"must list 2 different molecules.*\n.*by hand"):
        small_qm9(put_raw(excluded=(3,)))


@pytest.mark.parametrize(
    ("size", "md5", "message"),
    [(1, None, "must have 1 bytes"), (None, "0" * 32, "must have the MD5 hash 000")],
)
def test_file_put_there_by_hand_is_verified(
    put_raw: Put, small_qm9: Small, size: int | None, md5: str | None, message: str
) -> None:
    class Strict(small_qm9):  # type: ignore[valid-type, misc]
        archive = replace(small_qm9.archive, size=size, md5=md5)

    root = put_raw()
    with pytest.raises(ValueError, match=message):
        Strict(root)
    path = root / "raw" / small_qm9.archive.name
    content = path.read_bytes()
    Strict.archive = replace(
        small_qm9.archive, size=len(content), md5=hashlib.md5(content).hexdigest()
    )
    assert len(Strict(root)) == 10


def test_missing_files_tell_what_to_do(tmp_path: Path) -> None:
    class Unreachable(QM9):
        archive = replace(QM9.archive, urls=["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"])

    with pytest.raises(RuntimeError, match="could not download 'dsgdb9nsd") as caught:
        Unreachable(str(tmp_path))
    message = str(caught.value)
    for needed in (
        "http://127.0.0.1:9/a",
        "http://127.0.0.1:9/b",
        str(tmp_path / "raw" / "dsgdb9nsd.xyz.tar.bz2"),
        "86144227 bytes",
        "ad1ebd51ee7f5b3a6e32e974e5d54012",
    ):
        assert needed in message
