"""Predictions of what a model has learnt nothing about: they come with a warning."""

from pathlib import Path

from ase import Atoms
from ase.io import write
from command_runs import rows

from pyg_schnet import SchNet


def test_atoms_closer_than_in_training_are_named(call, tmp_path):
    model = SchNet(8, 8, 1, cutoff=4.0, units="eV")
    model.closest[1, 8] = model.closest[8, 1] = 1.0
    model.closest[1, 1] = 1.0
    model.save(tmp_path / "some.safetensors")
    one, two = (Atoms("OH", positions=[[0, 0, 0], [0, 0, d]]) for d in (0.95, 0.85))
    two.info["name"] = "squeezed"
    write("in.xyz", [one, two, one], format="extxyz")
    outcome = call("predict", tmp_path / "some.safetensors", "in.xyz", "-o", "out.csv", "--strict")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith(
        "warning: molecule 1 (squeezed): atoms 0 (Z = 8) and 1 (Z = 1) are 0.850"
    )
    assert len(rows(Path("out.csv").read_text())) == 3


def test_compositions_that_training_tells_nothing_of_are_named_once(call):
    flags = ("--conformers", "3", "--batch-size", "4")
    Path("in.smi").write_text("CCO ethanol\nCO methanol\nC methane\nOC again\n")
    outcome = call("predict", "md17-ethanol", "in.smi", *flags)
    assert outcome.code == 0, outcome.err
    assert len(rows(outcome.out)) == 4
    said = [line for line in outcome.err.splitlines() if "combination" in line]
    assert [line.split(" is no")[0] for line in said] == [
        "warning: molecule 1 (methanol, line 2): the composition CH4O",
        "warning: molecule 2 (methane, line 3): the composition CH4",
    ]
    Path("in.smi").write_text("CCO ethanol\n")
    assert "combination" not in call("predict", "md17-ethanol", "in.smi", *flags).err
