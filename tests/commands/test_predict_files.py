"""Files that predictions are read from and written to: what is read is kept, and damage located."""

import os
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write


@pytest.mark.parametrize("out", ["in.xyz", "./in.xyz", "symbolic.xyz", "hard.xyz"])
def test_the_input_is_not_overwritten(call, out):
    write("in.xyz", molecule("H2O"), format="extxyz")
    before = Path("in.xyz").read_bytes()
    Path("symbolic.xyz").symlink_to("in.xyz")
    os.link("in.xyz", "hard.xyz")
    # Said before anything else is looked at: there is no such model.
    outcome = call("predict", "nothing", "in.xyz", "-o", out)
    assert outcome.code == 2
    assert (
        f"error: '{out}' is INPUT itself, which would be overwritten: name another" in outcome.err
    )
    assert Path("in.xyz").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Frames have five lines each, from 1: atoms of frame 2 are in lines 13 to 15.
        ({13: "H 0 zero 0"}, "frame 2, counted from 0, of lines 11 to 15 ("),
        ({13: "Hx 0 0 0"}, "frame 2, counted from 0, of lines 11 to 15 ("),
        ({13: "H 0 0"}, "frame 2, counted from 0, of lines 11 to 15 ("),
        (
            {13: None},
            "line 16 should be the number of atoms of frame 3, counted from 0, if that of the "
            "frame before, in line 11, is right, and is 'Properties=",
        ),
        ({1: "three"}, "line 1 should be the number of atoms of frame 0, counted from 0, and is"),
        ({20: None}, "frame 3, counted from 0, of lines 16 to 19 ("),
    ],
)
def test_damage_is_located(call, made, change, message):
    write("in.xyz", [molecule("H2O")] * 4, format="extxyz")
    lines = dict(enumerate(Path("in.xyz").read_text().splitlines(), start=1)) | change
    text = "".join(f"{line}\n" for line in lines.values() if line is not None)
    Path("in.xyz").write_text(text)
    outcome = call("predict", made, "in.xyz", "-o", "out.csv")
    assert outcome.code == 2
    assert f"error: 'in.xyz': ASE cannot read it, {message}" in outcome.err
    assert not Path("out.csv").exists()


def test_nothing_is_dropped_behind_a_blank_line(call, made):
    """ASE stops there; blank comments, and blank lines at the end, are as they should be."""
    frames = "3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"
    Path("in.xyz").write_text(2 * frames + "\n" + frames)
    outcome = call("predict", made, "in.xyz", "-o", "out.csv")
    assert outcome.code == 2
    assert "line 11 is blank, where ASE stops reading, behind frame 1, counted" in outcome.err
    Path("in.xyz").write_text(3 * frames + "\n\n")
    assert call("predict", made, "in.xyz", "-o", "out.csv").code == 0
    assert len(Path("out.csv").read_text().splitlines()) == 1 + 3


def test_other_files_are_overwritten(call, made):
    write("in.xyz", molecule("H2O"), format="extxyz")
    Path("out.xyz").write_text("of an earlier time")
    assert call("predict", made, "in.xyz", "-o", "out.xyz").code == 0
    assert Path("out.xyz").read_text().startswith("3\n")
