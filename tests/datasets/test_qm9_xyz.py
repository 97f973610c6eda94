from pathlib import Path

import numpy as np
import pytest

from pyg_schnet.datasets.qm9_properties import FILE_COLUMNS
from pyg_schnet.datasets.qm9_xyz import read_molecule, read_uncharacterized

# The first molecule of the archive.
METHANE = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749"
    "\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078\n"
    "C\tC\t\n"
    "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)


def test_methane() -> None:
    molecule = read_molecule(METHANE)
    assert molecule.index.tolist() == [1]
    assert molecule.num_atoms.tolist() == [5]
    assert molecule.z.tolist() == [6, 1, 1, 1, 1]
    assert molecule.pos.dtype == np.float64
    assert molecule.pos[0].tolist() == [-0.0126981359, 1.0858041578, 0.0080009958]
    assert molecule.pos[4].tolist() == [-0.5238136345, 1.4379326443, 0.9063972942]
    values = dict(zip(FILE_COLUMNS, molecule.properties[0].tolist(), strict=True))
    assert values["A"] == 157.7118
    assert values["mu"] == 0.0
    assert values["U0"] == -40.47893
    assert values["G"] == -40.498597
    assert values["Cv"] == 6.469
    assert molecule.smiles == ["C"]


@pytest.mark.parametrize(
    "text", [METHANE.replace("\n", "\r\n"), METHANE + "\n\n", METHANE.rstrip()]
)
def test_line_endings(text: str) -> None:
    assert read_molecule(text).smiles == ["C"]


def test_number_written_by_mathematica() -> None:
    text = METHANE.replace("0.0002765748", "2.765748*^-6").replace("35.3641", "3.5*^2")
    molecule = read_molecule(text)
    assert molecule.pos[2, 2] == 2.765748e-6
    assert molecule.properties[0, FILE_COLUMNS.index("r2")] == 350.0


@pytest.mark.parametrize(
    ("old", "new", "line", "offender"),
    [
        ("5\n", "five\n", 1, "five"),
        ("5\n", "6\n", 1, "6 atoms need 11 lines, but there are 10"),
        ("5\n", "4\n", 1, "4 atoms need 9 lines, but there are 10"),
        ("5\n", "-5\n", 1, "-5"),
        ("gdb 1", "gdb x", 2, "gdb x"),
        ("gdb 1", "qm9 1", 2, "must be 'gdb'"),
        ("\t6.469", "", 2, "15 properties"),
        ("13.21", "13,21", 2, "13,21"),
        ("35.3641", "nan", 2, "'nan' is not finite"),
        ("H\t 1.0117308433", "H\t 1.01e", 5, "H\t 1.01e"),
        ("H\t 1.0117308433", "Xx\t 1.0117308433", 5, "no element 'Xx'"),
        ("\t 0.133922", "", 5, "must be a symbol, x, y, z and a charge"),
        ("C\tC\t\n", "\n", 9, "must be the SMILES"),
        ("C\tC\t\n", "", 1, "need 10 lines, but there are 9"),
    ],
)
def test_damage_is_located(old: str, new: str, line: int, offender: str) -> None:
    assert METHANE.count(old) >= 1
    with pytest.raises(ValueError, match=rf"methane\.xyz, line {line}: ") as caught:
        read_molecule(METHANE.replace(old, new, 1), "methane.xyz")
    assert offender in str(caught.value)


def test_empty_file() -> None:
    with pytest.raises(ValueError, match="line 1"):
        read_molecule("")


def test_published_files(shared_data: Path) -> None:
    """Against the words of the files themselves, cut at fixed places."""
    paths = sorted((shared_data / "qm9_xyz_format_sample").glob("*.xyz"))
    assert len(paths) == 20
    exponents = 0
    for path in paths:
        text = path.read_text()
        exponents += "*^" in text
        molecule = read_molecule(text, path.name)
        lines = text.split("\n")
        assert sorted(molecule.z.tolist()) == [1] * 10 + [6] * 7 + [8] * 2  # C7H10O2
        heading = lines[1].split("\t")
        assert molecule.index[0] == int(heading[0].removeprefix("gdb "))
        assert molecule.properties[0, -1] == float(heading[15])
        fields = [line.split("\t")[1:4] for line in lines[2:21]]
        expected = [[float(word.replace("*^", "e")) for word in row] for row in fields]
        np.testing.assert_array_equal(molecule.pos, expected)
        assert molecule.smiles[0] == lines[22].split("\t")[0]
    assert exponents > 0


def test_official_list(shared_data: Path) -> None:
    found = read_uncharacterized(shared_data / "uncharacterized.txt", 3054, 133885)
    assert len(found) == 3054
    assert found[:3].tolist() == [58, 61, 80]
    assert found[-1] == 133866
    mask = np.load(shared_data / "qm9.npz")["uncharacterized"]
    np.testing.assert_array_equal(found, np.flatnonzero(mask) + 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1 C\n2 N\n", r"must list 3 different molecules \(got 2, 2 of them"),
        ("1 C\n2 N\n2 N\n", r"must list 3 different molecules \(got 3, 2 of them"),
        ("1 C\n2 N\n3 O\n4 F\n", r"must list 3 different molecules \(got 4"),
        ("1 C\n2 N\n11 O\n", r"line 3: molecules are numbered from 1 to 10 \(got '11 O'\)"),
        ("<html>sorry</html>", r"must list 3 different molecules \(got 0"),
    ],
)
def test_wrong_list(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "uncharacterized.txt"
    path.write_text(rows)
    with pytest.raises(ValueError, match=message):
        read_uncharacterized(path, count=3, largest=10)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_header_may_differ(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "uncharacterized.txt"
    path.write_bytes("Ümlaut of 10\n=====\n  3  C\n  1  N\n\n=====".encode(encoding))
    assert read_uncharacterized(path, count=2, largest=10).tolist() == [1, 3]
