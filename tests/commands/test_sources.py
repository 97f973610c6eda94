"""The molecules of ``--data``, and how they are split."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from pyg_schnet.commands.flags import UsageError
from pyg_schnet.commands.parts import split
from pyg_schnet.commands.sources import DataSettings, load
from pyg_schnet.datasets import ISO17, MD17, QM9, MD17Sample, QM9Sample
from pyg_schnet.datasets.download import DownloadError


@pytest.fixture(autouse=True)
def nobody_can_download(monkeypatch):
    """Port 9 discards; nothing listens there."""
    monkeypatch.setattr(MD17, "sources", ("http://127.0.0.1:9/",))
    for cls, name in ((MD17, "archive"), (ISO17, "archive"), (QM9, "archive")):
        file = replace(getattr(cls, name), urls=("http://127.0.0.1:9/x",))
        monkeypatch.setattr(cls, name, file)


def data(text: str, **settings) -> DataSettings:
    return DataSettings(data=text, **settings)


def frames(count: int) -> dict[str, np.ndarray]:
    """Frames of ethanol, as published."""
    sample = MD17Sample("ethanol", train=True)[:count]
    return {
        "z": sample[0].z.numpy(),
        "R": torch.stack([one.pos for one in sample]).numpy(),
        "E": torch.cat([one.energy for one in sample]).numpy()[:, None],
        "F": torch.stack([one.force for one in sample]).numpy(),
    }


@pytest.fixture
def trajectory(tmp_path) -> Path:
    """A short trajectory, put by hand where the downloaded one would be."""
    path = tmp_path / "data" / "MD17" / "ethanol" / "raw" / "md17_ethanol.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **frames(60))
    return path


def test_md17_put_by_hand(trajectory, tmp_path):
    source = load(data("md17:ethanol", root=str(tmp_path / "data"), units="eV"))
    assert len(source.pool) == 60
    assert (source.label, source.num_train, source.num_val) == ("energy", 1_000, 1_000)
    assert source.has_forces
    expected = MD17Sample("ethanol", train=True, units="eV")[:60]
    assert torch.equal(source.pool.energy, torch.cat([one.energy for one in expected]))


def test_splits_are_drawn_by_seed_and_kept(trajectory, tmp_path):
    settings = data("md17:ethanol", root=str(tmp_path / "data"), num_train=30, num_val=10)
    source = load(settings)

    def numbers(seed: int, **changes) -> list[list[int]]:
        parts = split(source, replace(settings, **changes), seed, tmp_path, saved=False)
        return [part.frame.tolist() for part in (parts.train, parts.val, parts.tests["test"])]

    first = numbers(0)
    assert [len(part) for part in first] == [30, 10, 20]
    assert sorted(number for part in first for number in part) == list(range(60))
    assert first[0] != sorted(first[0])  # not the beginning of a trajectory
    assert numbers(0) == first
    assert numbers(1) != first
    assert numbers(5, split_seed=0) == first
    assert [len(part) for part in numbers(0, num_test=5)] == [30, 10, 5]

    kept = split(source, settings, 99, tmp_path, saved=True)
    assert kept.train.frame.tolist() == first[0] != numbers(99)[0]


def test_too_few_molecules(trajectory, tmp_path):
    settings = data("md17:ethanol", root=str(tmp_path / "data"))
    with pytest.raises(UsageError, match=r"60 molecules to split, and 1000 \+ 1000 .*--num-train"):
        split(load(settings), settings, 0, None, saved=False)


def test_official_splits_of_revised_trajectories(tmp_path):
    member = np.zeros((60, 10), dtype=bool)
    member[:30, 4], member[40:55, 5] = True, True
    names = np.array([f"{part}_{i:02d}" for i in range(1, 6) for part in ("train", "test")])
    old = frames(60)
    path = tmp_path / "MD17" / "raw" / "rmd17" / "npz_data" / "rmd17_ethanol.npz"
    path.parent.mkdir(parents=True)
    np.savez(
        path,
        nuclear_charges=old["z"],
        coords=old["R"],
        energies=old["E"][:, 0],
        forces=old["F"],
        old_indices=np.arange(60) * 10,
        split_member=member,
        split_names=names,
    )
    settings = data("rmd17:ethanol", root=str(tmp_path), split=3, num_train=25, num_val=5)
    parts = split(load(settings), settings, 0, None, saved=False)
    assert parts.sizes == {"train": 25, "validation": 5, "test": 15}
    trained = set((parts.train.frame // 10).tolist() + (parts.val.frame // 10).tolist())
    assert trained == set(range(30))
    assert (parts.tests["test"].frame // 10).tolist() == list(range(40, 55))
    assert len(load(replace(settings, split=None)).pool) == 60


def test_iso17_has_parts_of_its_own(tmp_path):
    raw = tmp_path / "ISO17" / "raw" / "iso17"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in (("reference", 7), ("test_within", 3), ("test_other", 4)):
        with connect(raw / f"{name}.db") as database:
            for _ in range(size):
                atoms = Atoms("C7O2H10", random.normal(size=(19, 3)) * 2)
                forces = {"atomic_forces": random.normal(size=(19, 3)).tolist()}
                database.write(atoms, total_energy=-11_505 + random.normal(), data=forces)
    (raw / "train_ids.txt").write_text("2\n5\n1\n7\n")
    (raw / "validation_ids.txt").write_text("3\n4\n")
    settings = data("iso17", root=str(tmp_path))
    source = load(settings)
    parts = split(source, settings, 0, tmp_path, saved=False)
    assert parts.sizes == {"train": 4, "validation": 2, "test_within": 3, "test_other": 4}
    assert source.has_forces
    assert "3 to test (test_within) and 4 to test (test_other)" in str(parts)
    fewer = replace(settings, num_train=2, num_val=1, num_test=2)
    drawn = split(source, fewer, 0, tmp_path, saved=False)
    assert drawn.sizes == {"train": 2, "validation": 1, "test_within": 2, "test_other": 2}
    again = split(source, fewer, 1, tmp_path, saved=True)
    for one, two in ((drawn.train, again.train), (drawn.val, again.val)):
        assert torch.equal(one.idx, two.idx)
    assert torch.equal(drawn.tests["test_other"].idx, again.tests["test_other"].idx)


def test_samples_of_the_package():
    qm9 = load(data("qm9-sample"))
    assert isinstance(qm9.pool, QM9Sample)
    assert (qm9.label, qm9.has_forces) == ("U0", False)
    settings = data("md17-sample:aspirin")
    parts = split(load(settings), settings, 0, None, saved=False)
    assert parts.sizes == {"train": 950, "validation": 50, "test": 300}
    assert not set(parts.tests["test"].frame.tolist()) & set(parts.train.frame.tolist())


def test_the_whole_of_qm9_is_split_as_in_the_paper(monkeypatch, tmp_path):
    def small(root: Path, units: str | None) -> QM9Sample:
        assert root == tmp_path / "QM9"
        return QM9Sample(units=units)

    monkeypatch.setattr("pyg_schnet.commands.sources.QM9", small)
    source = load(data("qm9", root=str(tmp_path), units="kcal/mol"))
    assert (source.num_train, source.num_val, source.label) == (110_462, 1_000, "U0")
    assert source.pool.units["U0"] == "kcal/mol"


@pytest.mark.parametrize(
    ("label", "head"),
    [
        ("U0", {"readout": "add", "dipole": False, "target": "energy"}),
        (7, {"readout": "add", "dipole": False, "target": "energy"}),
        ("alpha", {"readout": "add", "dipole": False, "target": "alpha"}),
        ("homo", {"readout": "mean", "dipole": False, "target": "homo"}),
        ("mu", {"readout": "add", "dipole": True, "target": "mu"}),
    ],
)
def test_heads_of_models(label, head):
    assert load(data("qm9-sample")).head(label) == head


def own_frames(size: int = 10) -> list[Atoms]:
    made = []
    for i in range(size):
        atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [0, 0.96 + 0.01 * i, 0]])
        results = {"energy": -14.0 + i, "forces": np.full((3, 3), 0.1 * i)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["REF_energy"] = 2.0 * i
        made.append(atoms)
    return made


@pytest.mark.parametrize("name", ["mine.xyz", "mine.extxyz", "mine.db"])
def test_own_files(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".db":
        with connect(path) as database:
            for atoms in own_frames():
                database.write(atoms)
    else:
        write(path, own_frames(), format="extxyz")
    settings = data(str(path), units="meV")
    source = load(settings)
    assert source.has_forces
    assert source.pool.units == {"pos": "Ang", "energy": "meV", "force": "meV/Ang"}
    assert source.pool.energy[3].item() == pytest.approx(-11_000.0)
    assert split(source, settings, 0, None, saved=False).sizes == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }


def test_labels_of_own_files_by_key(tmp_path):
    path = tmp_path / "mine.xyz"
    write(path, own_frames(), format="extxyz")
    source = load(data(str(path), energy_key="REF_energy"))
    assert source.pool.energy.tolist() == [2.0 * i for i in range(10)]
    assert not source.has_forces
    named = load(data(str(path)), "REF_energy")
    assert named.pool.REF_energy[2].item() == 4.0
    assert named.head("REF_energy")["target"] == "REF_energy"
    with pytest.raises(ValueError, match=r"'no_energy' .* is missing in frame 0"):
        load(data(str(path), energy_key="no_energy"))


def test_arrays_must_say_their_unit(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **frames(5))
    with pytest.raises(
        UsageError, match="does not say its unit of energy: name it by --file-units"
    ):
        load(data(str(path)))
    source = load(data(str(path), file_units="kcal/mol", units="eV"))
    expected = MD17Sample("ethanol", train=True, units="eV")[:5]
    energies = torch.cat([one.energy for one in expected])
    assert torch.allclose(source.pool.energy, energies, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            data("qm8"),
            r"unknown data 'qm8': did you mean 'qm9'\? .* or one of qm9, qm9-sample, md17",
        ),
        (data("md71:ethanol"), r"did you mean 'md17'\?"),
        (data("qm9:ethanol"), "'qm9' has no parts: leave out ':ethanol'"),
        (data("md17"), "'md17' needs a molecule, such as 'md17:ethanol': aspirin"),
        (data("md17:ethanl"), r"unknown molecule 'ethanl' of md17: did you mean 'ethanol'\?"),
        (data("md17-sample:benzene"), r"unknown molecule 'benzene' of md17-sample"),
        (data("qm9", split=1), r"'split' \(1\) is for rmd17:NAME, not for 'qm9'"),
        (data("qm9", energy_key="E"), r"'energy_key' \(E\) is for a file, not for 'qm9'"),
        (data("iso17", file_units="eV"), r"'file_units' \(eV\) is for a file"),
    ],
)
def test_what_there_is_not(settings, message):
    with pytest.raises(UsageError, match=message):
        load(settings)


def test_other_mistakes(tmp_path):
    for name in ("mine.xyz", "qm9.npz"):
        with pytest.raises(FileNotFoundError, match=f"there is no file '{name}'"):
            load(data(name))
    with pytest.raises(ValueError, match="the official splits are 1 to 5"):
        load(data("rmd17:ethanol", root=str(tmp_path), split=6))
    with pytest.raises(ValueError, match="unknown unit 'kcal'"):
        load(data("qm9-sample", units="kcal"))
    with pytest.raises(UsageError, match=r"'num_train' must be at least 1 \(got 0\)"):
        data("qm9", num_train=0)


@pytest.mark.parametrize("name", ["salicylic acid", "salicylic_acid", "Salicylic-Acid"])
def test_what_cannot_be_downloaded_says_where_to_put_it(tmp_path, name):
    where = tmp_path / "MD17" / "salicylic acid" / "raw" / "md17_salicylic.npz"
    with pytest.raises(DownloadError, match="Fetch it by hand") as caught:
        load(data(f"md17:{name}", root=str(tmp_path)))
    assert str(where) in str(caught.value)


def test_published_trajectory(shared_data, tmp_path):
    """A real file, in the folder that PYG_SCHNET_DATA names."""
    path = tmp_path / "MD17" / "ethanol" / "raw" / "md17_ethanol.npz"
    path.parent.mkdir(parents=True)
    path.symlink_to(shared_data / "md17" / "md17_ethanol.npz")
    settings = data("md17:ethanol", root=str(tmp_path))
    parts = split(load(settings), settings, 0, tmp_path, saved=False)
    assert parts.sizes == {"train": 1_000, "validation": 1_000, "test": 9_633 - 2_000}
    assert json.loads((tmp_path / "split.json").read_text())["num_molecules"] == 9_633
