"""The shipped frames against mechanics and against the files they were taken from."""

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_schnet.datasets import MD17, MD17Sample
from pyg_schnet.datasets.md17_sample import write_md17_sample

SIZES = {"ethanol": 9, "aspirin": 21}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_fields(name: str, size: int) -> None:
    dataset = MD17Sample(name)
    assert len(dataset) == 1300
    frame = dataset[7]
    assert frame.z.dtype == torch.int64
    assert frame.pos.dtype == frame.force.dtype == torch.float32
    assert frame.energy.dtype == torch.float64
    assert list(frame.pos.shape) == list(frame.force.shape) == [size, 3]
    assert list(frame.energy.shape) == [1]
    assert dataset.units == {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang"}


def test_parts() -> None:
    train, test = MD17Sample("ethanol", train=True), MD17Sample("revised ethanol", train=False)
    assert (len(train), len(test)) == (1000, 300)
    assert not set(train.frame.tolist()) & set(test.frame.tolist())
    for part in (train, test):
        assert (part.frame.diff() > 0).all()
    both = MD17Sample("ethanol")
    assert torch.equal(both.energy, torch.cat([train.energy, test.energy]))


@pytest.mark.parametrize("name", SIZES)
def test_no_force_or_torque_on_the_whole(name: str) -> None:
    """So positions, forces and their order belong together."""
    dataset = MD17Sample(name)
    pos = dataset.pos.double().view(1300, -1, 3)
    force = dataset.force.double().view(1300, -1, 3)
    torque = torch.cross(pos - pos.mean(1, keepdim=True), force, dim=-1)
    assert force.sum(1).abs().max() < 1e-3 * force.std()
    assert torque.sum(1).abs().max() < 1e-3 * torque.std()


def test_no_frame_comes_twice() -> None:
    for name in SIZES:
        dataset = MD17Sample(name)
        assert len(dataset.frame.unique()) == len(dataset.energy.unique()) == 1300


def test_units_and_edges() -> None:
    plain, dataset = MD17Sample("aspirin"), MD17Sample("aspirin", units="eV", cutoff=4.0)
    torch.testing.assert_close(dataset[0].energy, plain[0].energy / 23.060547830619, rtol=1e-10,
                               atol=0)  # fmt: skip
    assert dataset.units["force"] == "eV/Ang"
    assert dataset.units["edge_weight"] == "Ang"
    assert dataset[0].num_edges > 100


@pytest.mark.parametrize("name", ["benzene", "revised toluene", "ethanol CCSD(T)"])
def test_unknown_molecules(name: str) -> None:
    with pytest.raises(ValueError, match=r"no sample of '.*', only of 'revised aspirin' and"):
        MD17Sample(name)


def test_bad_part() -> None:
    with pytest.raises(TypeError, match="'train' must be True, False or None"):
        MD17Sample("ethanol", train="test")  # type: ignore[arg-type]


def test_files_are_small() -> None:
    folder = importlib.resources.files("pyg_schnet.datasets")
    assert sum(len((folder / f"md17_sample_{n}.npz").read_bytes()) for n in SIZES) < 1_000_000


@pytest.mark.parametrize("name", SIZES)
def test_files_can_be_made_again(shared_data: Path, tmp_path: Path, name: str) -> None:
    trajectory = shared_data / "md17" / f"rmd17_{name}.npz"
    again = np.load(write_md17_sample(trajectory, tmp_path, name, tmp_path))
    file = importlib.resources.files("pyg_schnet.datasets") / f"md17_sample_{name}.npz"
    with file.open("rb") as shipped, np.load(shipped) as old:
        assert sorted(again.files) == sorted(old.files)
        for key in old.files:
            assert again[key].dtype == old[key].dtype
            np.testing.assert_array_equal(again[key], old[key])


@pytest.mark.parametrize("name", SIZES)
def test_same_as_the_official_split(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "raw" / "rmd17" / "npz_data" / f"rmd17_{name}.npz"
    path.parent.mkdir(parents=True)
    path.symlink_to(shared_data / "md17" / path.name)
    for train in (True, False):
        whole = MD17(tmp_path, f"revised {name}", split=1, train=train)
        sample = MD17Sample(name, train=train)
        rows = torch.arange(len(sample)) * 1000 // len(sample)
        assert torch.equal(sample.frame, whole.frame[rows])
        assert torch.equal(sample.energy, whole.energy[rows])
        for ours, theirs in zip(sample[:20], whole[rows[:20]], strict=True):
            assert torch.equal(ours.pos, theirs.pos)
            assert torch.equal(ours.force, theirs.force)
