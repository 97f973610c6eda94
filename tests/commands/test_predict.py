"""Predictions from the command line: every kind of file, and molecules that fail."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.db import connect
from ase.io import read, write
from command_runs import rows

from pyg_schnet import SchNet
from pyg_schnet.commands.predictions import lowest, predict
from pyg_schnet.commands.structures import Failures, Structure, read_structures
from pyg_schnet.data import from_ase, from_smiles
from pyg_schnet.data.units import convert
from pyg_schnet.datasets import MD17Sample, MoleculeDataset
from pyg_schnet.nn.contacts import Contacts

KCAL = 0.0433641  # eV


@pytest.fixture
def model(made) -> SchNet:
    return SchNet.load(made / "best.safetensors").freeze()


def frames() -> list[Atoms]:
    """Different molecules of the elements that the model knows."""
    made = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4", "CH3OCH3", "O")]
    for name, atoms in zip("abcde", made):
        atoms.info["name"] = name
    return made


def test_table(call, made, model):
    write("in.xyz", frames(), format="extxyz")
    outcome = call("predict", made, "in.xyz", "-o", "out.csv", "--batch-size", "2")
    assert outcome.code == 0, outcome.err
    text = Path("out.csv").read_text()
    assert text.splitlines()[0] == "molecule,name,atoms,energy [kcal/mol]"
    table = rows(text)
    assert [row["molecule"] for row in table] == ["0", "1", "2", "3", "4"]
    assert [row["name"] for row in table] == list("abcde")
    assert [row["atoms"] for row in table] == ["9", "3", "5", "9", "1"]
    for row, atoms in zip(table, frames()):
        expected = model.predict(from_ase(atoms), forces=False)["energy"].item()
        assert float(row["energy [kcal/mol]"]) == pytest.approx(expected, rel=1e-9)
    on_terminal = call("predict", made, "in.xyz")  # all in one batch: the last digits differ
    energies = [
        [float(row.pop("energy [kcal/mol]")) for row in rows(t)] for t in (on_terminal.out, text)
    ]
    assert energies[0] == pytest.approx(energies[1], rel=1e-9)


@pytest.mark.parametrize("name", ["in.extxyz", "in.db", "in.xyz"])
def test_frames_for_ase(call, made, model, name):
    """Energies and forces come back in eV and eV/Ang, through ASE's own reader."""
    if name.endswith(".db"):
        with connect(name) as database:
            for atoms in frames():
                database.write(atoms)
    else:
        write(name, frames(), format="extxyz" if name.endswith("ext") else "xyz")
    outcome = call("predict", made, name, "-o", "out.extxyz")
    assert outcome.code == 0, outcome.err
    predicted = read("out.extxyz", ":")
    assert len(predicted) == 5
    for number, (atoms, original) in enumerate(zip(predicted, frames())):
        result = model.predict(from_ase(original))
        assert atoms.numbers.tolist() == original.numbers.tolist()
        energy = convert(result["energy"].item(), "kcal/mol", "eV")
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-9)
        forces = result["forces"].numpy() * KCAL
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)
        assert atoms.info["molecule"] == number


def test_arrays_are_read_back_as_a_data_set(call, made, model):
    sample = MD17Sample("ethanol", train=False)[:7]
    np.savez("in.npz", z=sample[0].z.numpy(), R=np.stack([data.pos.numpy() for data in sample]))
    outcome = call("predict", made, "in.npz", "-o", "out.npz")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "7 molecules in out.npz\n"
    predicted = MoleculeDataset.from_file("out.npz")
    assert predicted.units == {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang"}
    for one, data in zip(predicted, sample):
        result = model.predict(data)
        assert torch.equal(one.pos, data.pos)
        assert one.energy.item() == pytest.approx(result["energy"].item(), rel=1e-9)
        assert torch.allclose(one.force, result["forces"], atol=1e-3)
    plain = call("predict", made, "in.npz", "-o", "plain.npz", "--no-forces")
    assert plain.code == 0
    assert "F" not in np.load("plain.npz")


def test_smiles(call, made, model):
    Path("in.smi").write_text("smiles name\nCCO ethanol\n\n# a comment\nC\tthe gas\nO\n")
    outcome = call("predict", made, "in.smi", "--seed", "3", "--conformers", "1")
    assert outcome.code == 0, outcome.err
    table = rows(outcome.out)
    columns = "molecule,name,smiles,conformers,atoms,energy [kcal/mol]"
    assert outcome.out.splitlines()[0] == columns
    assert [row["name"] for row in table] == ["ethanol", "the gas", "O"]
    assert [row["smiles"] for row in table] == ["CCO", "C", "O"]
    for row, smiles in zip(table, ("CCO", "C", "O")):
        expected = model.predict(from_smiles(smiles, seed=3))["energy"].item()
        assert float(row["energy [kcal/mol]"]) == pytest.approx(expected, rel=1e-9)
        assert row["conformers"] == "1"


@pytest.mark.parametrize("optimize", ["mmff", "none"])
def test_the_lowest_conformer_is_kept(call, optimize):
    """Against a frozen copy that is asked about every conformer by itself."""
    smiles = {"ethanol": "CCO", "1-propanol": "OCCC", "glycol": "OCCO"}
    Path("in.smi").write_text("".join(f"{s} {name}\n" for name, s in smiles.items()))
    flags = ("--conformers", "7", "--seed", "1", "--batch-size", "5", "--optimize", optimize)
    outcome = call("predict", "md17-ethanol", "in.smi", "-o", "out.extxyz", *flags)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "3 molecules in out.extxyz\n"
    model = SchNet.from_pretrained("md17-ethanol")
    force_field = None if optimize == "none" else optimize
    for atoms, (name, one) in zip(read("out.extxyz", ":"), smiles.items(), strict=True):
        made = from_smiles(one, num_conformers=7, seed=1, optimize=force_field)
        energies = [model.predict(data, forces=False)["energy"].item() for data in made]
        assert name == "ethanol" or max(energies) > min(energies) + 0.5  # kcal/mol
        best = made[int(np.argmin(energies))]
        expected = convert(min(energies), "kcal/mol", "eV")
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(atoms.positions, best.pos.numpy(), atol=1e-6)
        forces = model.predict(best)["forces"].numpy() * KCAL
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-4)
        assert (atoms.info["name"], atoms.info["smiles"]) == (name, one)
        assert atoms.info["conformers"] == 7


def test_conformers_are_ranked_by_energies_only(call):
    SchNet(8, 8, 1, num_gaussians=8, target="homo").save("homo.safetensors")
    Path("in.smi").write_text("CCO\n")
    table = rows(call("predict", "homo.safetensors", "in.smi").out)
    assert [row["conformers"] for row in table] == ["1"]
    outcome = call("predict", "homo.safetensors", "in.smi", "--conformers", "2")
    assert outcome.code == 2
    assert "the lowest is chosen by its energy, but the model predicts 'homo'" in outcome.err


def test_a_molecule_with_a_bad_conformer_is_skipped(model):
    """Once, and altogether: which conformer is the lowest is not known."""
    good, bad, other = (from_smiles(smiles) for smiles in ("CCO", "CCO", "O"))
    bad.pos = bad.pos * float("nan")
    structures = [Structure(0, "", good), Structure(0, "", bad), Structure(1, "", other)]
    failures = Failures()
    contacts = Contacts([model], keep=False)
    done = lowest(predict(model, structures, False, failures, contacts), failures)
    assert [one.structure.number for one in done] == [1]
    assert list(failures.reasons) == [0]


def sdf(smiles: str, name: str, hydrogens: bool = True, flat: bool = False) -> str:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    made = Chem.MolFromSmiles(smiles)
    made = Chem.AddHs(made) if hydrogens else made
    if flat:
        AllChem.Compute2DCoords(made)
    else:
        AllChem.EmbedMolecule(made, randomSeed=1)
    made.SetProp("_Name", name)
    return Chem.MolToMolBlock(made) + "$$$$\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sdf(call, made, model):
    from rdkit.Chem import SDMolSupplier

    good = sdf("CCO", "ethanol") + sdf("C=O", "formaldehyde")
    Path("in.sdf").write_text(good)
    outcome = call("predict", made, "in.sdf")
    assert outcome.code == 0, outcome.err
    table = rows(outcome.out)
    for row, made_by_rdkit in zip(table, SDMolSupplier("in.sdf", removeHs=False)):
        pos = made_by_rdkit.GetConformer().GetPositions()
        atoms = Atoms([a.GetAtomicNum() for a in made_by_rdkit.GetAtoms()], pos)
        expected = model.predict(from_ase(atoms))["energy"].item()
        assert float(row["energy [kcal/mol]"]) == pytest.approx(expected, rel=1e-9)
    flat, bare = sdf("CC", "flat", flat=True), sdf("CC", "bare", hydrogens=False)
    Path("in.sdf").write_text(flat + "junk\n$$$$\n" + good + bare + good[:200])
    outcome = call("predict", made, "in.sdf")
    assert outcome.code == 1
    assert [row["molecule"] for row in rows(outcome.out)] == ["2", "3"]
    assert "skipped molecule 0 (flat): it has no coordinates in three dimensions" in outcome.err
    assert "skipped molecule 4 (bare): 6 of its hydrogens have no coordinates" in outcome.err
    assert "skipped molecule 1 (junk): RDKit cannot read it" in outcome.err
    assert "skipped molecule 5 (ethanol): RDKit cannot read it" in outcome.err
    assert "4 molecules were skipped" in outcome.err


def test_molecules_that_fail_are_named(call, made):
    """Every other one is predicted, whatever fails, where and why."""
    impossible = "C12C3C4C1C5C2C3C45(C)C"  # a carbon with five bonds
    Path("in.smi").write_text(
        "CCO good\nC1CC ring\n[Xe] xenon\nC also good\nCCN amine\n"
        f"{impossible} texas\n\nC.C two\nC1#CC1 flat\n"
    )
    outcome = call("predict", made, "in.smi")
    assert outcome.code == 1
    assert [row["name"] for row in rows(outcome.out)] == ["good", "also good"]
    lines = outcome.err.splitlines()
    assert "skipped molecule 1 (ring, line 2): 'C1CC' is not a SMILES: its syntax is wrong" in lines
    for name in ("molecule 2 (xenon, line 3)", "molecule 4 (amine, line 5)"):
        found = [f"skipped {name}: the model was not trained on" in line for line in lines]
        assert sum(found) == 1  # not once for each conformer
    reasons = {
        "5 (texas, line 6)": "is no possible molecule: Explicit valence for atom # 7 C, 5, is",
        "6 (two, line 8)": "is several molecules",
        "7 (flat, line 9)": "found 0 of 10 conformers of 'C1#CC1': its geometry may be impossible",
    }
    for name, reason in reasons.items():
        assert sum(f"skipped molecule {name}" in line and reason in line for line in lines) == 1
    assert lines[-1] == "6 molecules were skipped"
    strict = call("predict", made, "in.smi", "--strict", "-o", "out.csv")
    assert strict.code == 2
    assert "error: 'in.smi': molecule 1 (ring, line 2): 'C1CC' is not a SMILES" in strict.err
    Path("in.smi").write_text("CCO good\n[Xe] xenon\n")
    strict = call("predict", made, "in.smi", "--strict", "-o", "out.csv")
    assert strict.code == 2
    assert "error: molecule 1 (xenon, line 2): the model was not trained on atomic" in strict.err
    assert not Path("out.csv").exists()


def test_frames_that_fail_are_named(call, made):
    some = frames()
    some[1].positions[0, 0] = np.nan
    some[3].positions[1] = some[3].positions[0]
    write("in.xyz", some, format="extxyz")
    outcome = call("predict", made, "in.xyz")
    assert outcome.code == 1
    assert [row["name"] for row in rows(outcome.out)] == ["a", "c", "e"]
    assert "skipped molecule 1 (b): atom 0 is at [nan, " in outcome.err
    assert "skipped molecule 3 (d): " in outcome.err


def test_arrays_that_fail_are_named(call, made):
    np.savez(
        "in.npz",
        n_atoms=[2, 1, 2],
        z=[1, 1, 0, 1, 8],
        R=np.arange(15.0).reshape(5, 3) / 3,
    )
    outcome = call("predict", made, "in.npz")
    assert outcome.code == 1
    assert [row["molecule"] for row in rows(outcome.out)] == ["0", "2"]
    assert "skipped molecule 1: atom 0 has atomic number 0" in outcome.err
    np.savez("in.npz", positions=np.zeros((2, 3)))
    outcome = call("predict", made, "in.npz", "-o", "out.csv")
    assert outcome.code == 2
    assert "no atomic numbers: one of the arrays must be called" in outcome.err
    assert "error: no molecule of 'in.npz' could be predicted" in outcome.err


def test_ions_are_noticed(call, made):
    Path("in.smi").write_text("[OH-] hydroxide\nO\n")
    outcome = call("predict", made, "in.smi")
    assert outcome.code == 0
    assert "warning: molecule 0 ([OH-]) is an ion or radical" in outcome.err
    assert outcome.err.count("ion or radical") == 1


def test_crystals_and_molecules_together(call, tmp_path):
    torch.manual_seed(0)
    SchNet(8, 8, 1, num_gaussians=8, cutoff=4.0, units="eV").save("random.safetensors")
    crystal = Atoms("OH", [[0, 0, 0], [1, 0, 0]], cell=[3, 3, 3], pbc=True)
    write("in.xyz", [crystal, *frames()], format="extxyz")
    outcome = call("predict", "random.safetensors", "in.xyz", "-o", "out.extxyz")
    assert outcome.code == 0, outcome.err
    model = SchNet.load("random.safetensors")
    predicted = read("out.extxyz", ":")
    assert predicted[0].pbc.all()
    assert not predicted[1].pbc.any()
    for atoms, original in zip(predicted, [crystal, *frames()]):
        expected = model.predict(from_ase(original))["energy"].item()
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-5)
    again = call("predict", "random.safetensors", "in.xyz", "-o", "out.npz")
    assert again.code == 0, again.err
    assert MoleculeDataset.from_file("out.npz")[0].pbc.all()


def test_other_properties(call):
    model = SchNet(8, 8, 1, num_gaussians=8, cutoff=4.0, readout="mean", target="homo", units="eV")
    model.save("homo.safetensors")
    write("in.xyz", frames(), format="extxyz")
    table = call("predict", "homo.safetensors", "in.xyz")
    assert table.out.startswith("molecule,name,atoms,homo [eV]\n")
    assert call("predict", "homo.safetensors", "in.xyz", "-o", "out.extxyz").code == 0
    values = [atoms.info["homo"] for atoms in read("out.extxyz", ":")]
    assert values == pytest.approx([float(row["homo [eV]"]) for row in rows(table.out)], rel=1e-6)
    outcome = call("predict", "homo.safetensors", "in.xyz", "-o", "out.npz", "--forces")
    assert "--forces: the model predicts 'homo', which has none" in outcome.err


def test_units_are_needed_for_ase_only(call):
    SchNet(8, 8, 1, num_gaussians=8, cutoff=4.0).save("bare.safetensors")
    write("in.xyz", frames(), format="extxyz")
    assert call("predict", "bare.safetensors", "in.xyz").out.startswith(
        "molecule,name,atoms,energy\n"
    )
    outcome = call("predict", "bare.safetensors", "in.xyz", "-o", "out.xyz")
    assert outcome.code == 2
    assert "the model does not know its unit" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.xyz", "-o", "out.csv", "--forces"], "a table has no place for forces"),
        (
            ["in.xyz", "-o", "out.txt"],
            "'out.txt' must end in .csv, .npz, .xyz, .extxyz (got '.txt')",
        ),
        (["nothing.xyz"], "there is no file 'nothing.xyz'"),
        (["broken.xyz"], "'broken.xyz': ASE cannot read it"),
        (["broken.npz"], "'broken.npz' is no npz or zip file, whatever its name"),
        (["in.xyz", "--strct"], "unknown flag '--strct': did you mean '--strict'?"),
        ([], "the following arguments are required: INPUT"),
    ],
)
def test_mistakes(call, made, arguments, message):
    write("in.xyz", frames(), format="extxyz")
    for name in ("broken.xyz", "broken.npz"):
        Path(name).write_text("nothing of the kind")
    outcome = call("predict", made, *arguments)
    assert outcome.code == 2
    assert f"error: {message}" in outcome.err


def test_bohr_is_not_taken_for_angstrom(call, made):
    np.savez("in.npz", z=[1, 1], R=np.eye(3)[None, :2], r_unit="Bohr")
    outcome = call("predict", made, "in.npz")
    assert outcome.code == 2
    assert "positions must be in angstrom (got Bohr)" in outcome.err


def test_a_file_of_something_else(tmp_path):
    path, nothing = tmp_path / "in.npz", np.zeros((5_000, 2, 3))
    np.savez(path, z=[1, 1, 1], R=nothing)
    with pytest.raises(ValueError, match=r"in.npz': none of the first 1,000 molecules makes sense"):
        read_structures(path, Failures())


def test_libraries_may_have_many_failures(tmp_path):
    path = tmp_path / "in.smi"
    path.write_text("C1\n" * 1_200 + "C\n")
    failures = Failures()
    assert [one.number for one in read_structures(path, failures)] == [1_200]
    assert len(failures.reasons) == 1_200


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_as_a_program(capsys, monkeypatch, name):
    """``python -m pyg_schnet.predict`` and the others."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"pyg_schnet.{name}", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"pyg_schnet.{name}", run_name="__main__")
    assert not end.value.code
    assert f"usage: python -m pyg_schnet.{name} " in capsys.readouterr().out


def test_predictions_and_complaints_are_apart(call, made):
    """What is skipped must not get into a table on the terminal."""
    Path("in.smi").write_text("CCO\nCCN\n")
    outcome = call("predict", made, "in.smi")
    assert len(rows(outcome.out)) == 1
    assert "skipped" not in outcome.out
