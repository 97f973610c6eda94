"""Labels of the user's own files: their names, their units, their zero."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from command_runs import TINY

from pyg_schnet import SchNet
from pyg_schnet.data import to_ase
from pyg_schnet.datasets import MD17Sample, MoleculeDataset
from pyg_schnet.training import TrainConfig, fit


def water(number: int) -> Atoms:
    return Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [0, 0.96 + 0.01 * number, 0]])


@pytest.fixture
def others(call) -> str:
    """A file whose labels have names of its own."""
    frames = [water(i) for i in range(10)]
    for i, atoms in enumerate(frames):
        atoms.info["REF_energy"] = float(i)
        atoms.arrays["REF_forces"] = np.full((3, 3), 0.1 * i)
    write("ref.xyz", frames, format="extxyz")
    return "ref.xyz"


def test_labels_under_other_names(call, made, others):
    in_units = (("train", *TINY, "--file-units", "eV"), ("train", *TINY, "--units", "meV"))
    for command in (("train", *TINY), *in_units, ("evaluate", made)):
        outcome = call(*command, "--data", others)
        assert outcome.code == 2
        assert outcome.err == (
            "error: 'ref.xyz' has no label under the usual names (it has in info ['REF_energy'] "
            "and in arrays ['REF_forces']): name the energies, and forces if there are any, such "
            "as by --energy-key REF_energy --force-key REF_forces (in Python by labels=)\n"
        )
    keys = ("--energy-key", "REF_energy", "--force-key", "REF_forces")
    outcome = call("train", "--data", others, *keys, *TINY, "--max-steps", "1")
    assert outcome.code == 0, outcome.err


def test_labels_under_other_names_in_python(others):
    dataset = MoleculeDataset.from_file(others)
    model = SchNet(8, 8, 1, num_gaussians=8, cutoff=4.0)
    with pytest.raises(ValueError, match=r"from_file\(\.\.\., labels=\{'energy': NAME\}\)"):
        fit(model, dataset[:8], dataset[8:], TrainConfig(max_steps=1))


def test_arrays_under_other_names(call):
    np.savez("in.npz", z=[1, 1], R=np.linspace(0, 1, 60).reshape(10, 2, 3), V=np.arange(10.0))
    outcome = call("train", "--data", "in.npz", *TINY)
    assert "(it has in arrays ['R', 'V', 'z']): name the energies" in outcome.err
    assert "--energy-key ENERGY --force-key FORCE" in outcome.err


def labelled(file: str = "in.xyz") -> str:
    frames = [water(i) for i in range(10)]
    for i, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=float(i))
    write(file, frames, format="extxyz")
    return file


def test_units_are_said(call, made):
    train = ("train", "--data", labelled(), *TINY, "--max-steps", "1")
    as_ase = "(in the file eV, as ASE has it; if that is wrong, name its unit by --file-units)\n"
    outcome = call(*train, "--directory", "one")
    assert f"\nLabels are in eV and angstrom {as_ase}" in outcome.out
    # Also where they are converted, to the unit of the model.
    outcome = call(*train, "--units", "kcal/mol", "--directory", "two")
    assert f"\nLabels are in kcal/mol and angstrom {as_ase}" in outcome.out
    for arguments in (("two",), ("two", "--data", "in.xyz")):
        assert call("evaluate", *arguments).out.startswith(
            f"Labels are in kcal/mol and angstrom {as_ase}"
        )
    outcome = call("evaluate", "two", "--data", "in.xyz", "--file-units", "Hartree")
    assert outcome.out.startswith(
        "Labels are in kcal/mol and angstrom (in the file Hartree, by --file-units)\n"
    )
    outcome = call("evaluate", made)
    assert outcome.out.startswith("Labels are in kcal/mol and angstrom\n")
    for command in ("train", "evaluate"):
        text = " ".join(call(command, "--help").out.split())
        assert "(usual: what an .npz says in e_unit; eV for what ASE reads)" in text
        assert "with the revised labels of rmd17" in text


def test_labels_of_another_zero(call, made):
    """Errors of 2, 3 and 1 plus a thousand: their mean is 1002, their deviation 1."""
    sample = MD17Sample("ethanol", train=False, units="kcal/mol")[:3]
    model = SchNet.load(made)
    units = ("--file-units", "kcal/mol")

    def evaluated(shifts: list[float]) -> str:
        frames = [to_ase(data) for data in sample]
        for atoms, data, shift in zip(frames, sample, shifts):
            energy = model.predict(data, forces=False)["energy"].item() - shift
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
        write("in.xyz", frames[: len(shifts)], format="extxyz")
        outcome = call("evaluate", made, "--data", "in.xyz", *units, "--no-forces")
        assert outcome.code == 0, outcome.err
        return outcome.out

    text = evaluated([1002.0, 1003.0, 1001.0])
    assert text.splitlines()[-1] == (
        "All energies are off by nearly the same: predictions minus labels are 1002 kcal/mol on "
        "average, with a standard deviation of 1 kcal/mol. The labels may be of another level of "
        "theory than those of the training set, or have other reference energies"
    )
    assert "off by nearly the same" in evaluated([-1002.0, -1003.0])
    assert "off by" not in evaluated([5.0, 4.0, 6.0])  # five deviations, no more
    assert "off by" not in evaluated([1002.0])
