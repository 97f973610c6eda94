"""MD17 as published: needs the files, in the folder that PYG_SCHNET_DATA names."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pyg_schnet.datasets import MD17


class LocalMD17(MD17):
    """MD17 that nobody can download."""

    sources = ("http://127.0.0.1:9/",)
    archive = replace(MD17.archive, urls=("http://127.0.0.1:9/rmd17",))


MOLECULES = ["aspirin", "benzene", "ethanol", "malonaldehyde", "naphthalene", "salicylic acid",
             "toluene", "uracil"]  # fmt: skip


@pytest.mark.parametrize("name", MOLECULES)
def test_published_trajectories(shared_data: Path, tmp_path: Path, name: str) -> None:
    """All eight of the paper, original and revised."""
    file = name.removesuffix(" acid")
    raw = tmp_path / name / "raw" / LocalMD17.file_names[name]
    again = tmp_path / "raw" / "rmd17" / "npz_data" / f"rmd17_{file}.npz"
    for path, source in ((raw, f"md17_{file}.npz"), (again, f"rmd17_{file}.npz")):
        path.parent.mkdir(parents=True)
        path.symlink_to(shared_data / "md17" / source)
    old, new = LocalMD17(tmp_path, name), LocalMD17(tmp_path, f"revised {name}")
    assert len(old) == len(new) == 9633
    assert torch.equal(old._data.frame, new._data.frame)
    assert torch.equal(old._data.pos, new._data.pos)
    for dataset in (old, new):
        energies, forces = dataset._data.energy, dataset._data.force
        assert energies.std() < 20  # kcal/mol, at 500 K
        # Forces are minus the slope of the energy: nothing pulls a molecule as a whole.
        assert forces.view(9633, -1, 3).sum(1).std() < 0.01 * forces.std()
        assert 15 < forces.std() < 45
    difference = new._data.energy - old._data.energy  # of two functionals, almost constant
    assert difference.std() < 0.5 * new._data.energy.std()
    sizes = {}
    for split in range(1, 6):
        for train in (True, False):
            part = LocalMD17(tmp_path, f"revised {name}", split=split, train=train)
            sizes[split, train] = len(part)
    assert set(sizes.values()) == {1000}
