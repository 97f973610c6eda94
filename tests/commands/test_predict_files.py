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
    assert f"error: '{out}' is INPUT itself, which would be overwritten: name another" in outcome.err
    assert Path("in.xyz").read_bytes() == before


def test_other_files_are_overwritten(call, made):
    write("in.xyz", molecule("H2O"), format="extxyz")
    Path("out.xyz").write_text("of an earlier time")
    assert call("predict", made, "in.xyz", "-o", "out.xyz").code == 0
    assert Path("out.xyz").read_text().startswith("3\n")
