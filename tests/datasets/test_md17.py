"""MD17 from files in the official layouts, against PyG's reading of the same files."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.datasets import MD17 as PyGMD17

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17
from pyg_schnet.graph import RadiusGraph
from pyg_schnet.training import evaluate

ETHANOL = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
KCAL = 4.184 * 1e3 / (6.02214076e23 * 1.602176634e-19)  # eV


class LocalMD17(MD17):
    """MD17 that nobody can download."""

    sources = ("http://127.0.0.1:9/",)
    archive = replace(MD17.archive, urls=("http://127.0.0.1:9/rmd17",))


def trajectory(num_frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "z": ETHANOL.astype(np.uint8),
        "R": rng.normal(size=(num_frames, 9, 3)),
        "E": -97_000 + rng.normal(size=(num_frames, 1)),
        "F": 30 * rng.normal(size=(num_frames, 9, 3)),
        "name": np.array("ethanol"),
    }


def revised(num_frames: int) -> dict[str, np.ndarray]:
    old = trajectory(num_frames)
    return {
        "nuclear_charges": old["z"],
        "coords": old["R"],
        "energies": old["E"][:, 0],
        "forces": old["F"],
        "old_indices": np.arange(num_frames)[::-1] * 5,
        "old_energies": old["E"][:, 0] - 100,
    }


def write_original(root: Path, **changes: np.ndarray | None) -> Path:
    arrays = {k: v for k, v in (trajectory(12) | changes).items() if v is not None}
    path = root / "ethanol" / "raw" / "md17_ethanol.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def write_revised_archive(root: Path, splits: dict[str, str] | None = None) -> Path:
    """The official archive: trajectories in one folder, lists of frames in another."""
    splits = {"train_01": "3\n11\n0\n", "test_01": "5\n1\n", "train_02": "1\n"} | (splits or {})
    content = {"rmd17/readme.txt": b"frames are correlated"}
    content["rmd17/npz_data/rmd17_ethanol.npz"] = npz_bytes(**revised(12))
    content |= {f"rmd17/splits/index_{name}.csv": text.encode() for name, text in splits.items()}
    path = root / "raw" / "rmd17.tar.bz2"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:bz2") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_ccsd(root: Path) -> Path:
    path = root / "ethanol CCSD(T)" / "raw" / "ethanol_ccsd_t.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for i, part in enumerate(("train", "test")):
            archive.writestr(f"__MACOSX/._ethanol_ccsd_t-{part}.npz", b"junk")
            archive.writestr(f"ethanol_ccsd_t-{part}.npz", npz_bytes(**trajectory(4 + i, i)))
    return path


def assert_as_pyg(dataset: MD17, expected: PyGMD17) -> None:
    assert len(dataset) == len(expected)
    for ours, theirs in zip(dataset, expected, strict=True):
        assert torch.equal(ours.z, theirs.z)
        assert torch.equal(ours.pos, theirs.pos)
        assert torch.equal(ours.force, theirs.force)
        assert list(ours.energy.shape) == [1]
        assert torch.equal(ours.energy.float(), theirs.energy.view(1))


def test_names_and_files_are_those_of_pyg() -> None:
    assert MD17.file_names == PyGMD17.file_names
    assert MD17.file_names["benzene"] == "md17_benzene2017.npz"  # that of the paper


def test_original(tmp_path: Path) -> None:
    path = write_original(tmp_path)
    dataset = LocalMD17(tmp_path, "ethanol")
    frame = dataset[3]
    arrays = np.load(path)
    assert frame.z.tolist() == ETHANOL.tolist()
    assert frame.energy.dtype == torch.float64
    assert frame.energy.item() == arrays["E"][3, 0]
    np.testing.assert_allclose(frame.pos, arrays["R"][3], rtol=1e-7)
    np.testing.assert_allclose(frame.force, arrays["F"][3], rtol=1e-7)
    assert dataset.frame.tolist() == list(range(12))
    assert dataset.units == {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang"}
    assert repr(dataset) == "LocalMD17(12, name='ethanol')"
    assert repr(dataset[:5]) == "LocalMD17(5, name='ethanol')"
    assert_as_pyg(dataset, PyGMD17(str(tmp_path), "ethanol"))


def test_duplicates_are_kept(tmp_path: Path) -> None:
    twice = {key: np.concatenate([value, value]) for key, value in trajectory(3).items()
             if key in "REF"}  # fmt: skip
    write_original(tmp_path, **twice)
    dataset = LocalMD17(tmp_path, "ethanol")
    assert len(dataset) == 6
    assert torch.equal(dataset[4].pos, dataset[1].pos)


def test_one_frame(tmp_path: Path) -> None:
    write_original(tmp_path, **trajectory(1))
    dataset = LocalMD17(tmp_path, "ethanol", units="eV", cutoff=5.0)
    assert len(dataset) == 1
    assert list(dataset[0].energy.shape) == [1]
    assert list(dataset[0].force.shape) == [9, 3]


def test_revised(tmp_path: Path) -> None:
    write_revised_archive(tmp_path)
    dataset = LocalMD17(tmp_path, "revised ethanol")
    assert len(dataset) == 12
    assert dataset.frame.tolist() == list(range(55, -1, -5))
    assert_as_pyg(dataset, PyGMD17(str(tmp_path), "revised ethanol"))


def test_official_splits(tmp_path: Path) -> None:
    write_revised_archive(tmp_path)
    whole = LocalMD17(tmp_path, "revised ethanol")
    for split, train, rows in [(1, True, [3, 11, 0]), (1, False, [5, 1]), (2, True, [1])]:
        part = LocalMD17(tmp_path, "revised ethanol", split=split, train=train)
        assert len(part) == len(rows)
        for frame, row in zip(part, rows, strict=True):
            assert torch.equal(frame.pos, whole[row].pos)
            assert torch.equal(frame.force, whole[row].force)
            assert torch.equal(frame.energy, whole[row].energy)
            assert torch.equal(frame.frame, whole[row].frame)


def test_split_found_in_the_trajectory(tmp_path: Path) -> None:
    member = np.zeros((12, 10), dtype=bool)
    member[[2, 7], 5] = True
    names = np.array([f"{part}_{i:02d}" for i in range(1, 6) for part in ("train", "test")])
    path = tmp_path / "raw" / "rmd17" / "npz_data" / "rmd17_ethanol.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, split_member=member, split_names=names, **revised(12))
    part = LocalMD17(tmp_path, "revised ethanol", split=3, train=False)
    assert part.frame.tolist() == [45, 20]
    np.savez(path, split_member=member[:, :8], split_names=names[:8], **revised(12))
    with pytest.raises(ValueError, match=r"has no split 'train_05' \(got \['train_01'"):
        LocalMD17(tmp_path, "revised ethanol", split=5, train=True)


def test_split_of_a_trajectory_that_does_not_number_its_frames(tmp_path: Path) -> None:
    write_revised_archive(tmp_path)
    LocalMD17(tmp_path, "revised ethanol", split=1, train=True)
    path = tmp_path / "raw" / "rmd17" / "npz_data" / "rmd17_ethanol.npz"
    np.savez(path, **{k: v for k, v in revised(12).items() if k != "old_indices"})
    part = LocalMD17(tmp_path, "revised ethanol", split=1, train=True, force_reload=True)
    assert part.frame.tolist() == [3, 11, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n3\n", r"index_train_01\.csv' must list different frames.* 1 different"),
        ("", r"got 0 lines, 0 different"),
        ("3\n4.0\n", r"among them '4\.0'"),
        ("index\n3\n", r"among them 'index'"),
        ("3\n12\n", r"has 12 frames, but the list names number 12, from 0"),
    ],
)
def test_wrong_lists(tmp_path: Path, text: str, message: str) -> None:
    write_revised_archive(tmp_path, {"train_01": text})
    with pytest.raises(ValueError, match=message) as caught:
        LocalMD17(tmp_path, "revised ethanol", split=1, train=True)
    assert "rmd17.tar.bz2" in str(caught.value)


def test_missing_list(tmp_path: Path) -> None:
    write_revised_archive(tmp_path)
    with pytest.raises(ValueError, match=r"has no file 'index_test_05\.csv'"):
        LocalMD17(tmp_path, "revised ethanol", split=5, train=False)


@pytest.mark.parametrize("train", [True, False])
def test_coupled_cluster(tmp_path: Path, train: bool) -> None:
    path = write_ccsd(tmp_path)
    dataset = LocalMD17(tmp_path, "ethanol CCSD(T)", train=train)
    assert len(dataset) == (4 if train else 5)
    path.with_name("ethanol_ccsd_t-train.npz").exists()
    LocalMD17(tmp_path, "ethanol CCSD(T)", train=not train)
    assert_as_pyg(dataset, PyGMD17(str(tmp_path), "ethanol CCSD(T)", train=train))


def test_units(tmp_path: Path) -> None:
    write_original(tmp_path)
    plain, dataset = LocalMD17(tmp_path, "ethanol"), LocalMD17(tmp_path, "ethanol", units="eV")
    assert dataset.units == {"pos": "Ang", "energy": "eV", "force": "eV/Ang"}
    torch.testing.assert_close(dataset[2].energy, plain[2].energy * KCAL, rtol=1e-14, atol=0)
    torch.testing.assert_close(dataset[2].force, plain[2].force * KCAL)
    model = SchNet(8, 8, 1, units="kcal/mol")
    with pytest.raises(ValueError, match="'energy' are in eV, the model is in kcal/mol"):
        evaluate(model, dataset, "energy")
    assert evaluate(model, plain, "energy").units == "kcal/mol"


def test_edges(tmp_path: Path) -> None:
    write_original(tmp_path)
    plain, dataset = LocalMD17(tmp_path, "ethanol"), LocalMD17(tmp_path, "ethanol", cutoff=2.0)
    expected = RadiusGraph(2.0)(plain[4])
    assert torch.equal(dataset[4].edge_index, expected.edge_index)
    assert torch.equal(dataset[4].edge_weight, expected.edge_weight)


def test_pre_filter_and_pre_transform(tmp_path: Path) -> None:
    def even(data: Data) -> bool:
        return int(data.frame) % 2 == 0

    def center(data: Data) -> Data:
        data.pos = data.pos - data.pos.mean(dim=0)
        return data

    write_original(tmp_path)
    dataset = LocalMD17(tmp_path, "ethanol", pre_filter=even, pre_transform=center)
    assert dataset.frame.tolist() == [0, 2, 4, 6, 8, 10]
    assert dataset[5].pos.mean(dim=0).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ethanole", {}, "unknown trajectory 'ethanole': MD17 has aspirin, ethanol"),
        ("ethanol", {"split": 1}, r"no numbered splits \(got split=1\)"),
        ("ethanol", {"train": True}, "no official split: leave out 'train'"),
        ("revised ethanol", {"split": 6, "train": True}, r"1 to 5 \(got split=6\)"),
        ("revised ethanol", {"split": 0, "train": True}, r"1 to 5 \(got split=0\)"),
        ("revised ethanol", {"split": True, "train": True}, r"1 to 5 \(got split=True\)"),
        ("revised ethanol", {"split": 1}, "give both 'split'"),
        ("revised ethanol", {"train": False}, "give both 'split'"),
        ("ethanol CCSD(T)", {}, "two parts: give train=True or train=False"),
        ("ethanol CCSD(T)", {"split": 1, "train": True}, "no numbered splits"),
        ("ethanol", {"units": "ev"}, "unknown unit 'ev'"),
        ("ethanol", {"units": "Ang"}, "a length, the other an energy"),
        ("ethanol", {"cutoff": -1.0}, "'cutoff' must be positive"),
    ],
)
def test_bad_arguments_come_before_any_download(
    tmp_path: Path, name: str, arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LocalMD17(tmp_path / "root", name, **arguments)
    assert not (tmp_path / "root").exists()


def test_part_must_be_a_truth_value(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got 'test'"):
        LocalMD17(tmp_path, "ethanol CCSD(T)", train="test")  # type: ignore[arg-type]


def broken(key: str, frame: int) -> dict[str, np.ndarray]:
    array = trajectory(12)[key].copy()
    array[frame].flat[-1] = np.nan
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": ETHANOL[::-1][:8]}, "is not ethanol, with as many atoms.*8: 1"),
        ({"z": np.where(ETHANOL == 8, 16, ETHANOL)}, "is not ethanol"),
        ({"F": None}, r"has no array 'F' \(got \['E', 'R', 'name', 'z'\]\)"),
        ({"R": np.zeros((12, 9, 2))}, r"'R' in .* must have the shape \[12, 9, 3\] \(got \[12, 9"),
        ({"R": np.zeros((11, 9, 3))}, r"'R' in .* must have the shape"),
        ({"F": np.zeros((12, 27))}, r"'F' in .* must have the shape"),
        ({"E": np.zeros((12, 2))}, r"'E' in .* must have the shape \[12\]"),
        ({"E": np.array(-97.0)}, r"must have the shape \[1, 9, 3\]"),
        ({"E": np.array(["-97"] * 12)}, r"'E' in .* must hold numbers \(got <U3"),
        ({"E": np.zeros((0, 1))}, r"has no frames"),
        (broken("R", 3), "'R' in .* is not finite in frame 3"),
        (broken("E", 0), "'E' in .* is not finite in frame 0"),
        (broken("F", 11), "'F' in .* is not finite in frame 11"),
    ],
)
def test_wrong_trajectories(tmp_path: Path, changes: dict, message: str) -> None:
    path = write_original(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        LocalMD17(tmp_path, "ethanol")
    assert "Delete it to have it downloaded again" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.9])
def test_truncated_trajectory(tmp_path: Path, where: float) -> None:
    path = write_original(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(where * len(content))])
    with pytest.raises(ValueError, match="is no npz or zip file"):
        LocalMD17(tmp_path, "ethanol")


@pytest.mark.parametrize("key", "zREF")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_one_wrong_bit_is_noticed(tmp_path: Path, key: str, save: Callable) -> None:
    path = write_original(tmp_path)
    save(path, **trajectory(12))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
    content = bytearray(path.read_bytes())
    content[member.header_offset + 60 + member.compress_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        LocalMD17(tmp_path, "ethanol")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    write_original(tmp_path, E=np.array([object()] * 12))
    with pytest.raises(ValueError, match="allow_pickle"):
        LocalMD17(tmp_path, "ethanol")


def test_damaged_processed_file(tmp_path: Path) -> None:
    write_original(tmp_path)
    LocalMD17(tmp_path, "ethanol")
    path = tmp_path / "ethanol" / "processed" / "all_v1.pt"
    for damaged in (path.read_bytes()[:1000], b"", b"another file" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="force_reload=True"):
            LocalMD17(tmp_path, "ethanol")
    assert len(LocalMD17(tmp_path, "ethanol", force_reload=True)) == 12


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ethanol", write_original),
        ("revised ethanol", write_revised_archive),
        ("ethanol CCSD(T)", write_ccsd),
    ],
)
def test_raw_files_are_needed_once(tmp_path: Path, name: str, write: Callable) -> None:
    train = True if "CCSD" in name else None
    write(tmp_path)
    size = len(LocalMD17(tmp_path, name, train=train))
    for path in [*tmp_path.rglob("raw/**/*")]:
        if path.is_file():
            path.unlink()
    assert len(LocalMD17(tmp_path, name, train=train)) == size


@pytest.mark.parametrize(
    ("name", "train", "needed"),
    [
        ("ethanol", None, "http://127.0.0.1:9/md17_ethanol.npz"),
        ("revised ethanol", None, "MD5 cb1a927628d96f2e966025da4fb63d18"),
        ("ethanol CCSD(T)", True, "http://127.0.0.1:9/ethanol_ccsd_t.zip"),
    ],
)
def test_missing_files_tell_what_to_do(
    tmp_path: Path, name: str, train: bool | None, needed: str
) -> None:
    with pytest.raises(RuntimeError, match="by hand") as caught:
        LocalMD17(tmp_path, name, train=train)
    assert needed in str(caught.value)
