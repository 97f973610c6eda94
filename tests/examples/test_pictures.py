"""The pictures of the documentation can be drawn again, and none of them is missing."""

import re
import runpy
from pathlib import Path

import matplotlib.image

import pyg_schnet.plot

DOCS = Path(__file__).parents[2] / "docs"


def test_all_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pictures.py", "--folder", str(tmp_path), "--steps", "29"])
    runpy.run_path(str(DOCS / "pictures.py"), run_name="__main__")
    assert f"6 pictures in {tmp_path}" in capsys.readouterr().out
    shown = re.findall(r"\]\((.*\.png)\)", (DOCS / "README.md").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(shown)
    assert sorted(path.name for path in DOCS.glob("*.png")) == sorted(shown)
    # One of every function; the last gives numbers.
    functions = set(pyg_schnet.plot.__all__) - {"probe_energies"}
    assert {name.removesuffix(".png") for name in shown} == functions
    for name in shown:
        drawn, kept = (matplotlib.image.imread(folder / name) for folder in (tmp_path, DOCS))
        assert drawn.shape[:2] == kept.shape[:2]
        assert drawn[..., :3].std() > 0.05  # not blank
        assert (DOCS / name).stat().st_size < 150_000
