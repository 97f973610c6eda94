"""The benchmark of ISO17 splits by molecule, names its data by their energies, and tests twice."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from suites import arguments

from pyg_schnet import SchNet
from pyg_schnet.data.units import KCAL_PER_MOL
from pyg_schnet.training import evaluate


@pytest.fixture
def iso17(load):
    return load("iso17")


@pytest.fixture
def data(load):
    return load("iso17_data")


@pytest.fixture
def put_folder(tmp_path):
    """A function that writes files in the layout of ISO17, with energies around a mean in eV."""

    def put(mean: float) -> Path:
        folder = tmp_path / "content"
        folder.mkdir()
        for seed, (name, size) in enumerate((("reference", 9), ("test_within", 3))):
            _write(folder / f"{name}.db", size, seed, mean)
        _write(folder / "test_other.db", 4, 2, mean)
        (folder / "train_ids.txt").write_text("\n".join(map(str, range(1, 8))))
        (folder / "validation_ids.txt").write_text("8\n9\n")
        (tmp_path / "root" / "raw").mkdir(parents=True)
        with tarfile.open(tmp_path / "root" / "raw" / "iso17.tar.gz", "w:gz") as archive:
            archive.add(folder, "iso17")
        return tmp_path / "root"

    return put


def _write(path: Path, size: int, seed: int, mean: float) -> None:
    rng = np.random.default_rng(seed)
    grid = 1.5 * np.stack(np.meshgrid(*[range(3)] * 3), axis=-1).reshape(-1, 3)[:19]
    with connect(path) as database:
        for _ in range(size):
            atoms = Atoms(rng.permutation([6] * 7 + [8] * 2 + [1] * 10), grid)
            atoms.positions += rng.normal(scale=0.1, size=(19, 3))
            forces = {"atomic_forces": rng.normal(size=(19, 3))}
            database.write(atoms, total_energy=mean + rng.normal(), data=forces)


def test_quick(iso17, tmp_path) -> None:
    path = tmp_path / "iso17.json"
    iso17.run(arguments(iso17, "--quick", "--json", str(path)))
    rows = json.loads(path.read_text())["rows"]
    start = "ISO17-GFN2, N = 100, split 0, "
    assert list(rows) == [
        f"{start}{name}"
        for name in (
            "paper, energies, 20steps, seed 0",
            "paper, forces, 20steps, seed 0",
            "fast, energies, 20steps, seed 0",
            "fast, forces, 20steps, seed 0",
            "mean",
        )
    ]
    for row in rows.values():
        assert row["sizes"] == {"train": 100, "val": 12, "test": 32, "other": 40}
        assert row["molecules"] == [8, 2]
        for test in (row["test"], row["also"]["other"]):
            assert np.isfinite([test["energy_mae"], test["force_mae"]]).all()
    # Forces are tested where energies alone are learned, too; they are learned where trained.
    assert rows[f"{start}fast, energies, 20steps, seed 0"]["config"]["force_weight"] == 0
    error = rows[f"{start}paper, forces, 20steps, seed 0"]["test"]["force_mae"]
    assert error < 0.9 * rows[f"{start}mean"]["test"]["force_mae"]
    text = path.with_suffix(".md").read_text()
    assert "| *SchNet, energies, published* | | | | | | *0.52* | *4.13* | *3.11* | *5.71* |" in text
    whole, ours = text.split("## ISO17-GFN2")
    assert whole.count("not run") == 5 * 4
    assert "published*" not in ours
    assert "of 8 known molecules; 32 others of these and 40 of 2 unknown ones" in ours
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_protocol(data) -> None:
    """The shares of ISO17: 103 of 129 molecules, 400 of 500 conformations of each."""
    member = np.repeat(np.arange(129), 500)
    sets = data.divide(member, seed=0)
    sizes = {name: len(numbers) for name, numbers in sets.items()}
    assert sizes == {"train": 40_200, "val": 1_000, "within": 10_300, "other": 13_000}
    everything = np.concatenate(list(sets.values()))
    assert np.array_equal(np.sort(everything), np.arange(len(member)))
    molecules = {name: set(member[numbers].tolist()) for name, numbers in sets.items()}
    assert molecules["train"] == molecules["within"] >= molecules["val"]
    assert len(molecules["other"]) == 26
    assert not molecules["other"] & molecules["train"]
    assert (np.bincount(member[sets["within"]], minlength=129) % 100 == 0).all()
    assert not np.array_equal(data.divide(member, seed=1)["other"], sets["other"])


def test_frames_keep_their_labels(data) -> None:
    """Each conformation has the energy, forces and atoms of its row, whatever the split."""
    with np.load(data.SAMPLE) as arrays:
        whole = dict(arrays)
    source = data.open_file(data.SAMPLE, None, 5)
    assert source.name == "ISO17-GFN2"
    assert source.parts.sizes == {"train": 116, "val": 12, "test": 32, "other": 40}
    seen = []
    for part in (
        source.parts.train,
        source.parts.val,
        source.parts.test,
        source.parts.also["other"],
    ):
        for frame in part:
            energy = frame.energy.item() * KCAL_PER_MOL
            row = int(np.abs(whole["E"] - energy).argmin())
            seen.append(row)
            assert energy == pytest.approx(whole["E"][row], rel=1e-12)
            np.testing.assert_array_equal(frame.z, whole["z"][whole["molecule"][row]])
            np.testing.assert_array_equal(frame.pos, whole["R"][row])
            force = frame.force.numpy() * KCAL_PER_MOL
            np.testing.assert_allclose(force, whole["F"][row], rtol=1e-5, atol=1e-5)
    assert sorted(seen) == list(range(200))


@pytest.mark.parametrize(("mean", "name"), [(-11_505.0, "ISO17"), (-765.0, "ISO17-GFN2")])
def test_energies_tell_the_name(iso17, data, put_folder, tmp_path, mean: float, name: str) -> None:
    root, path = put_folder(mean), tmp_path / "out.json"
    source = data.open_folder(root, 5)
    assert source.name == name
    assert source.parts.sizes == {"train": 5, "val": 2, "test": 3, "other": 4}
    words = ["--root", str(root), "--json", str(path), "--rows", "mean"]
    iso17.run(arguments(iso17, *words))
    text = path.with_suffix(".md").read_text()
    assert ("## ISO17-GFN2" in text) == (name == "ISO17-GFN2")
    assert f"{name}, N = 7, mean: commit" in text
    assert "split as in the files." in text
    assert str(root) not in path.read_text()
    with pytest.raises(SystemExit, match=r"there are 7 to train on \(got 8\)"):
        data.open_folder(root, 8)


def test_both_test_sets(iso17, put_folder, tmp_path) -> None:
    """Errors are those of the saved model; a row that is done is not run again."""
    root, path = put_folder(-765.0), tmp_path / "out.json"
    words = ["--root", str(root), "--json", str(path), "--rows", "fast", "--budget", "2steps"]
    words += ["--tasks", "energies", "--directory", str(tmp_path / "runs")]
    iso17.run(arguments(iso17, *words))
    first = json.loads(path.read_text())["rows"]
    iso17.run(arguments(iso17, *words))
    assert json.loads(path.read_text())["rows"] == first
    (row,) = first.values()
    (folder,) = (tmp_path / "runs").iterdir()
    model = SchNet.load(folder / "best.safetensors")
    parts = iso17.open_folder(root, None).parts
    for part, errors in ((parts.test, row["test"]), (parts.also["other"], row["also"]["other"])):
        result = evaluate(model, part, forces=True)
        assert errors["energy_mae"] == pytest.approx(result.mae)
        assert errors["force_mae"] == pytest.approx(result.forces.mae)
    with np.load(folder / "test.npz") as arrays:
        predicted, reference = arrays["predicted"], arrays["reference"]
    assert np.abs(predicted - reference).mean() == pytest.approx(row["test"]["energy_mae"])


def test_mean_predictor(iso17, data) -> None:
    parts = data.open_file(data.SAMPLE, 50, 0).parts
    row = iso17.mean_row(parts)
    mean = np.mean([frame.energy.item() for frame in parts.train])
    for part, errors in ((parts.test, row["test"]), (parts.also["other"], row["also"]["other"])):
        energy = np.array([frame.energy.item() for frame in part])
        force = np.concatenate([frame.force.numpy() for frame in part])
        assert errors["energy_mae"] == pytest.approx(np.abs(energy - mean).mean())
        assert errors["force_mae"] == pytest.approx(np.abs(force).mean(), rel=1e-5)


def test_shipped_sample(data, tmp_path) -> None:
    """It is small, and what the published file gives."""
    assert data.SAMPLE.stat().st_size < 100_000
    folder = os.environ.get("PYG_SCHNET_DATA")
    if not folder:
        pytest.skip("needs published files: set PYG_SCHNET_DATA to the folder that holds them")
    data.write_sample(Path(folder) / "iso17_gfn2" / "frames.npz", tmp_path / "sample.npz")
    with np.load(data.SAMPLE) as shipped, np.load(tmp_path / "sample.npz") as made:
        assert set(shipped) == set(made)
        for name in shipped:
            np.testing.assert_array_equal(shipped[name], made[name])


def test_tables_without_rows(iso17, tmp_path) -> None:
    """They say what has not been run."""
    path = tmp_path / "none.json"
    iso17.run(arguments(iso17, "--json", str(path)))
    assert path.with_suffix(".md").read_text().count("not run") == 5 * 4
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_wrong_input(iso17, data, tmp_path) -> None:
    with pytest.raises(SystemExit, match="--root or --data"):
        iso17.run(arguments(iso17, "--rows", "fast"))
    with pytest.raises(SystemExit, match=r"there are 116 to train on \(got 117\)"):
        data.open_file(data.SAMPLE, 117, 0)
    with np.load(data.SAMPLE) as arrays:
        whole = dict(arrays)
    np.savez(tmp_path / "other.npz", **(whole | {"z": np.where(whole["z"] == 8, 7, whole["z"])}))
    with pytest.raises(SystemExit, match="isomers of C7O2H10"):
        data.open_file(tmp_path / "other.npz", None, 0)
