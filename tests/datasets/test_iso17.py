"""ISO17 from databases that ASE wrote, against ASE's reading of them."""

import json
import sqlite3
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.db import connect

from pyg_schnet.datasets import ISO17
from pyg_schnet.datasets.iso17_db import read_database
from pyg_schnet.graph import RadiusGraph

FORMULA = [6] * 7 + [8] * 2 + [1] * 10
SIZES = {"reference": 7, "reference_eq": 2, "test_within": 3, "test_other": 4, "test_eq": 1}
Put = Callable[..., Path]


class LocalISO17(ISO17):
    """ISO17 that nobody can download."""

    archive = replace(ISO17.archive, urls=("http://127.0.0.1:9/iso17.tar.gz",))


def write_database(path: Path, size: int, seed: int = 0, as_array: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    with connect(path) as database:
        for _ in range(size):
            atoms = Atoms(rng.permutation(FORMULA), rng.normal(size=(19, 3)) * 2)
            force = rng.normal(size=(19, 3))
            data = {"atomic_forces": force if as_array else force.tolist(), "other": [1, "x"]}
            database.write(atoms, total_energy=-11_505 + rng.normal(), data=data)
    return path


def to_text(path: Path) -> None:
    """Rewrites ``data`` as the format had it up to version 8."""
    from ase.io.jsonio import encode

    texts = [(encode(dict(row.data)), row.id) for row in connect(path).select()]
    change(path, "UPDATE systems SET data = ? WHERE id = ?", texts)


def change(path: Path, statement: str, values: list[tuple] | None = None) -> None:
    database = sqlite3.connect(path)
    with database:
        database.executemany(statement, [()] if values is None else values)
    database.close()


def assert_as_ase(path: Path) -> None:
    raw = read_database(path)
    rows = list(connect(path).select())
    assert len(rows) == len(raw.id) > 0
    for i, row in enumerate(rows):
        assert row.id == raw.id[i]
        assert row.total_energy == raw.energy[i]
        np.testing.assert_array_equal(row.numbers, raw.z[i])
        np.testing.assert_array_equal(row.positions.astype(np.float32), raw.pos[i])
        force = np.array(row.data["atomic_forces"]).astype(np.float32)
        np.testing.assert_array_equal(force, raw.force[i])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "reference.db", 5)


@pytest.fixture
def put_archive(tmp_path: Path) -> Put:
    def put(train: str = "2\n5\n1\n7\n", validation: str = "3\n4\n") -> Path:
        folder = tmp_path / "content"
        folder.mkdir()
        for i, (name, size) in enumerate(SIZES.items()):
            write_database(folder / f"{name}.db", size, seed=i)
        (folder / "train_ids.txt").write_text(train)
        (folder / "validation_ids.txt").write_text(validation)
        (tmp_path / "root" / "raw").mkdir(parents=True)
        with tarfile.open(tmp_path / "root" / "raw" / "iso17.tar.gz", "w:gz") as archive:
            archive.add(folder, "iso17")
        return tmp_path / "root"

    return put


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_formats_as_ase(tmp_path: Path, as_array: bool, text: bool) -> None:
    path = write_database(tmp_path / "a b?#.db", 3, as_array=as_array)
    if text:
        to_text(path)
    kinds = sqlite3.connect(path).execute("SELECT DISTINCT typeof(data) FROM systems").fetchall()
    assert kinds == [("text",) if text else ("blob",)]
    assert_as_ase(path)


def test_many_rows_with_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyg_schnet.datasets import iso17_db

    path = write_database(tmp_path / "reference.db", 23)
    change(path, "DELETE FROM systems WHERE id IN (4, 5)")
    monkeypatch.setattr(iso17_db, "_ROWS_AT_ONCE", 4)
    assert_as_ase(path)
    raw = read_database(path, np.array([1, 6, 22, 23]))
    assert raw.id.tolist() == [1, 6, 22, 23]
    with pytest.raises(ValueError, match="lacks 1 rows, such as number 5"):
        read_database(path, np.array([5, 6]))


@pytest.mark.parametrize(("fold", "size"), SIZES.items())
def test_folds(put_archive: Put, fold: str, size: int) -> None:
    root = put_archive()
    dataset = LocalISO17(root, fold)
    assert len(dataset) == size
    rows = list(connect(root / "raw" / "iso17" / f"{fold}.db").select())
    for molecule, row in zip(dataset, rows, strict=True):
        assert molecule.z.tolist() == row.numbers.tolist()
        assert molecule.energy.tolist() == [row.total_energy]
        assert molecule.energy.dtype == torch.float64
        assert molecule.pos.dtype == molecule.force.dtype == torch.float32
        np.testing.assert_allclose(molecule.pos, row.positions, rtol=1e-7)
        np.testing.assert_allclose(molecule.force, row.data["atomic_forces"], rtol=1e-7)
        assert molecule.idx.item() == row.id - 1
    assert sorted(path.name for path in (root / "raw" / "iso17").iterdir()) == [f"{fold}.db"]
    assert dataset.units == {"pos": "Ang", "energy": "eV", "force": "eV/Ang"}
    assert repr(dataset) == f"LocalISO17({size}, fold='{fold}')"


def test_rows_are_counted_from_one(put_archive: Put) -> None:
    root = put_archive()
    reference = LocalISO17(root, "reference")
    train, validation = LocalISO17(root, "train"), LocalISO17(root, "validation")
    assert train.idx.tolist() == [0, 1, 4, 6]
    assert validation.idx.tolist() == [2, 3]
    for part in (train, validation):
        for molecule in part:
            assert torch.equal(molecule.pos, reference[int(molecule.idx)].pos)
            assert torch.equal(molecule.energy, reference[int(molecule.idx)].energy)


def test_units_and_edges(put_archive: Put) -> None:
    root = put_archive()
    plain = LocalISO17(root, "test_within")
    dataset = LocalISO17(root, "test_within", units="kcal/mol", cutoff=2.5)
    assert dataset.units["force"] == "kcal/mol/Ang"
    torch.testing.assert_close(dataset[1].energy, plain[1].energy * 23.060547830619, rtol=1e-10,
                               atol=0)  # fmt: skip
    torch.testing.assert_close(dataset[1].force, plain[1].force * 23.060547830619)
    assert torch.equal(dataset[1].edge_index, RadiusGraph(2.5)(plain[1]).edge_index)


def test_pre_filter_and_raw_files_needed_once(put_archive: Put) -> None:
    root = put_archive()
    fold = "reference"
    dataset = LocalISO17(root, fold, pre_filter=lambda data: int(data.idx) > 3)
    assert dataset.idx.tolist() == [4, 5, 6]
    for path in (root / "raw").rglob("*.*"):
        path.unlink()
    assert len(LocalISO17(root, fold, pre_filter=lambda data: int(data.idx) > 3)) == 3


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("0\n1\n", "different numbers from 1.*among them '0'"),
        ("1\n1\n", "got 2 words, 1 of them different"),
        ("", "got 0 words"),
        ("1 2.5", r"among them '2\.5'"),
        ("7\n8\n", "lacks 1 rows, such as number 8"),
    ],
)
def test_wrong_lists(put_archive: Put, ids: str, message: str) -> None:
    root = put_archive(train=ids)
    with pytest.raises(ValueError, match=message) as caught:
        LocalISO17(root, "train")
    assert "by hand" in str(caught.value)


DATA = {"atomic_forces": [[0.0, 0.0, 0.0]] * 19}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("numbers", b"\6\0\0\0" * 18, r"row 2 of .* 19 atoms are needed \(got 18\)"),
        ("numbers", b"\6\0\0\0" * 19, "row 2 of .* is not C7O2H10"),
        ("positions", b"\0" * 24 * 18, "row 2 of .* is not understood: 19 atoms"),
        ("positions", np.full(57, np.nan).tobytes(), "pos in row 2 of .* is not finite"),
        ("positions", np.full(57, 1e300).tobytes(), "pos in row 2 of .* is not finite"),
        ("positions", None, "row 2 of .* is not understood"),
        ("pbc", 7, "row 2 of .* molecules are not periodic"),
        ("key_value_pairs", "{}", "row 2 of .* has no 'total_energy'"),
        ("key_value_pairs", '{"total_energy": "low"}', "row 2 of .* one energy"),
        ("key_value_pairs", '{"total_energy": NaN}', "energy in row 2 of .* is not finite"),
        ("key_value_pairs", "{", "row 2 of .* is not understood"),
        ("data", "{}", "row 2 of .* has no 'atomic_forces'"),
        ("data", b"", "row 2 of .* is not understood"),
        ("data", b"\x08" + b"\0" * 7 + b"[]", "row 2 of .* is not understood"),
        ("data", json.dumps(DATA)[:-3], "row 2 of .* is not understood"),
        ("data", '{"atomic_forces": [[0, 0, 0]]}', "row 2 of .* 19 forces are needed"),
        ("data", json.dumps({"atomic_forces": [[0.0, 0.0]] * 19}), "has three components"),
        ("data", '{"atomic_forces": {"__complex__": [0, 0]}}', "has no '__ndarray__'"),
        (
            "data",
            '{"atomic_forces": {"__ndarray__": [[19, 3], "float64", 8]}}',
            "a reference to bytes where there is only text",
        ),
        (
            "data",
            '{"atomic_forces": {"__ndarray__": [[19, 3], "complex128", [0]]}}',
            "forces of type complex128",
        ),
    ],
)
def test_rows_that_are_not_understood(
    database: Path, column: str, value: object, message: str
) -> None:
    change(database, f"UPDATE systems SET {column} = ? WHERE id = 2", [(value,)])
    with pytest.raises(ValueError, match=message):
        read_database(database)


def test_damaged_databases(database: Path) -> None:
    content = database.read_bytes()
    for damaged in (b"", b"<html>" * 100, content[: len(content) // 2]):
        database.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or no ASE database"):
            read_database(database)
    database.write_bytes(content)
    change(database, "DELETE FROM systems")
    with pytest.raises(ValueError, match="has no rows"):
        read_database(database)


def test_unknown_fold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown fold 'test': ISO17 has reference, train"):
        LocalISO17(tmp_path / "root", "test")
    with pytest.raises(ValueError, match="unknown unit"):
        LocalISO17(tmp_path / "root", "train", units="ev")
    assert not (tmp_path / "root").exists()


def test_missing_archive_tells_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)http://127\.0\.0\.1:9/iso17\.tar\.gz.*by hand"
    ) as e:
        LocalISO17(tmp_path, "train")
    assert str(tmp_path / "raw" / "iso17.tar.gz") in str(e.value)


def test_published_rows_as_ase(shared_data: Path, tmp_path: Path) -> None:
    """Real ISO17 as text, and the archive of another level of theory as bytes."""
    assert_as_ase(shared_data / "iso17_format_sample.db")
    root = link_archive(shared_data, tmp_path)
    for fold in ("test_within", "test_eq"):
        LocalISO17(root, fold)
        assert_as_ase(root / "raw" / "iso17" / f"{fold}.db")


def test_nothing_leaks(shared_data: Path, tmp_path: Path) -> None:
    """Which molecule a row is follows from its positions."""
    frames = np.load(shared_data / "iso17_gfn2" / "frames.npz")
    molecules = {
        position.tobytes(): int(molecule)
        for position, molecule in zip(frames["R"].astype(np.float32)[:, 0], frames["molecule"])
    }
    root = link_archive(shared_data, tmp_path)
    found: dict[str, set[int]] = {}
    rows: dict[str, set[bytes]] = {}
    for fold in ("reference", "train", "validation", "test_within", "test_other"):
        first = [pos.tobytes() for pos in LocalISO17(root, fold).pos.view(-1, 19, 3)[:, 0].numpy()]
        found[fold] = {molecules[position] for position in first}
        rows[fold] = set(first)
    assert len(found["reference"]) == 103
    assert len(found["test_other"]) == 26
    assert not found["reference"] & found["test_other"]
    assert found["test_within"] == found["reference"] == found["train"]
    assert not rows["reference"] & rows["test_within"]
    assert not rows["train"] & rows["validation"]
    assert rows["train"] | rows["validation"] == rows["reference"]


def link_archive(shared_data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "root" / "raw" / "iso17.tar.gz"
    path.parent.mkdir(parents=True)
    path.symlink_to(shared_data / "iso17_gfn2" / "iso17.tar.gz")
    return tmp_path / "root"
