"""Damaged files of structures: what is read makes sense, the rest is refused in words."""

import io
import json
import sqlite3
from functools import cache

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from fuzzing import answer, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from pyg_schnet.commands.structures import Failures, read_structures
from pyg_schnet.datasets import MoleculeDataset
from pyg_schnet.datasets.iso17_db import read_database
from pyg_schnet.datasets.md17_files import read_frames
from pyg_schnet.datasets.qm9_xyz import read_molecule

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t\
-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


def frames() -> list[Atoms]:
    made = [molecule("H2O"), molecule("CH3OH"), bulk("NaCl", "rocksalt", a=5.6)]
    for atoms in made:
        forces = np.zeros((len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    return made


def packed(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@cache
def sound(kind: str, folder) -> bytes:
    """A file without fault."""
    path = folder / f"sound{kind}"
    if kind == ".npz":
        pos = np.random.default_rng(0).normal(size=(4, 3, 3))
        arrays = {"z": np.array([8, 1, 1]), "R": pos, "E": np.zeros(4), "F": 0 * pos}
        return packed(**arrays, e_unit="eV")
    if kind == ".smi":
        return b"SMILES name\nC methane\nCO methanol\n# none\nO=C=O\n[NH4+] ion\n"
    if kind == ".sdf":
        from rdkit import Chem
        from rdkit.Chem import AllChem

        made = Chem.AddHs(Chem.MolFromSmiles("CO"))
        AllChem.EmbedMolecule(made, randomSeed=1)
        return (Chem.MolToMolBlock(made) + "$$$$\n").encode() * 2
    if kind == ".db":
        with connect(path, append=False) as database:
            for atoms in frames():
                database.write(atoms)
    else:
        write(path, frames())
    return path.read_bytes()


KINDS = (".xyz", ".extxyz", ".sdf", ".smi", ".npz", ".db", ".json", ".traj", ".cif")


def damaged_file(kind, data, folder):
    path = folder / f"damaged{kind}"
    path.write_bytes(data.draw(damaged(sound(kind, folder))))
    return path


def check_atoms(data) -> None:
    assert data.pos.isfinite().all()
    assert ((data.z > 0) & (data.z <= 100)).all()
    assert data.pos.shape == (len(data.z), 3)


@pytest.mark.filterwarnings("ignore")  # by ASE and RDKit, of what they are given
@pytest.mark.parametrize("kind", KINDS)
@fuzz(10)
@given(data=st.data())
def test_files_to_predict(kind, data, tmp_path_factory):
    path = damaged_file(kind, data, tmp_path_factory.getbasetemp())
    failures = Failures()
    structures = answer(lambda: read_structures(path, failures))
    for structure in structures or []:
        check_atoms(structure.data)
    assert all(len(reason) > 10 for reason in failures.reasons.values()), failures.reasons


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [".extxyz", ".npz", ".db"])
@fuzz(10)
@given(data=st.data())
def test_data_sets_of_the_user(kind, data, tmp_path_factory):
    path = damaged_file(kind, data, tmp_path_factory.getbasetemp())
    found = answer(lambda: MoleculeDataset.from_file(path, cutoff=3.0))
    for one in found or []:
        check_atoms(one)
        assert one.edge_weight.isfinite().all()


def arrays_of_molecules() -> st.SearchStrategy:
    """Arrays of any shape and type under the names that mean something."""
    shapes = st.sampled_from(((), (0,), (2,), (3,), (6,), (2, 3), (6, 3), (2, 3, 3), (0, 3)))
    types = st.sampled_from(("i8", "i4", "u1", "f8", "f4", "?", "U3", "S2", "c16", "M8[s]"))
    fill = st.sampled_from((0, 1, 6, 3, -1, 101, 1e30, 1e300, np.nan, np.inf))

    @st.composite
    def array(draw):
        kind, value = np.dtype(draw(types)), draw(fill)
        with np.errstate(all="ignore"):
            made = np.full(draw(shapes), value)
            if kind.kind == "f":
                made = made + np.random.default_rng(0).normal(size=made.shape)
            return made.astype(kind) if kind.kind != "M" else made.astype("i8").astype(kind)

    names = ("z", "R", "n_atoms", "E", "F", "cell", "pbc", "e_unit", "smiles", "extra")
    return st.dictionaries(st.sampled_from(names), array(), max_size=7)


@pytest.mark.filterwarnings("ignore")  # casts of what is no number
@fuzz(25)
@given(arrays=arrays_of_molecules(), extra=st.booleans())
def test_arrays(arrays, extra):
    labels = {"extra": "extra"} if extra else None
    found = answer(lambda: MoleculeDataset.from_arrays(arrays, labels=labels))
    for one in found or []:
        check_atoms(one)


@fuzz(15)
@given(content=damaged(METHANE.encode()))
def test_xyz_of_qm9(content):
    found = answer(lambda: read_molecule(content.decode(errors="replace")))
    if found is not None:
        assert np.isfinite(found.pos).all()


@cache
def iso17(folder) -> bytes:
    """Two rows as the archive has them."""
    path = folder / "sound_iso17.db"
    atoms = Atoms("C7O2H10", positions=np.random.default_rng(0).normal(size=(19, 3)))
    with connect(path, append=False) as database:
        for _ in range(2):
            forces = np.zeros((19, 3)).tolist()
            database.write(atoms, data={"atomic_forces": forces}, total_energy=-1.0)
    return path.read_bytes()


@fuzz(15)
@given(data=st.data())
def test_databases_of_iso17(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged_iso17.db"
    path.write_bytes(data.draw(damaged(iso17(folder))))
    found = answer(lambda: read_database(path))
    if found is not None:
        assert all(np.isfinite(part).all() for part in (found.pos, found.energy, found.force))


VALUES = (None, 0, -1, 1e400, "x", [], {}, [[0.0]], {"__ndarray__": [[19, 3], "float64", 0]})
VALUES += ({"__ndarray__": [[10**9, 3], "O", -8]}, {"__ndarray__": []}, [[0.0, 0.0, "a"]] * 19)


@fuzz(25)
@given(data=st.data())
def test_rows_of_iso17(data, tmp_path_factory):
    """A sound SQLite file of which the cells are not."""
    folder = tmp_path_factory.getbasetemp()
    path = folder / "rows_iso17.db"
    path.write_bytes(iso17(folder))
    value = data.draw(st.sampled_from(VALUES))
    cells = {
        "key_value_pairs": st.just(json.dumps({"total_energy": value})),
        "data": st.one_of(st.just(json.dumps({"atomic_forces": value})), st.binary(max_size=30)),
        "numbers": st.binary(max_size=80),
        "positions": st.binary(min_size=450, max_size=460),
        "pbc": st.integers(-9, 9),
    }
    column = data.draw(st.sampled_from(sorted(cells)))
    cell = data.draw(st.one_of(cells[column], st.none(), st.text(max_size=5)))
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE systems SET {column} = ? WHERE id = 2", (cell,))
    database.close()
    found = answer(lambda: read_database(path))
    if found is not None:
        assert all(np.isfinite(part).all() for part in (found.pos, found.energy, found.force))


@pytest.mark.filterwarnings("ignore")  # casts of what is no number
@fuzz(25)
@given(data=st.data())
def test_trajectories_of_md17(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "ethanol.npz"
    pos = np.random.default_rng(0).normal(size=(3, 9, 3))
    z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    arrays = {"z": z, "R": pos, "E": np.zeros((3, 1)), "F": pos}
    if data.draw(st.booleans()):
        arrays |= data.draw(arrays_of_molecules())
        content = packed(**arrays)
    else:
        content = data.draw(damaged(packed(**arrays)))
    path.write_bytes(content)
    found = answer(lambda: read_frames(path, "ethanol"))
    if found is not None:
        assert all(np.isfinite(part).all() for part in (found.pos, found.energy, found.force))
