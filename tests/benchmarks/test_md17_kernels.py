"""GDML and sGDML run in an environment of their own, and are tested as all other rows are.

With ``PYG_SCHNET_SGDML``, a Python that has the package sgdml, they really run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from suites import arguments

from pyg_schnet.data import random_split
from pyg_schnet.datasets import MD17Sample

# Stands in for a Python with sgdml: says the mean energy, and no force.
STUB = """#!{python}
import json, os, signal, sys
import numpy as np
if sys.argv[1] == "-c":
    sys.exit({missing})
arrays, settings = np.load(sys.argv[2]), json.loads(sys.argv[3])
{fate}
number = len(arrays["E_test"])
np.savez(sys.argv[4], E=np.full(number, arrays["E_train"].mean()), F=0 * arrays["F_test"])
print("a line of the package")
print(json.dumps({{
    "frames": {frames} or len(arrays["E_train"]), "sigma": 10, "lambda": 1e-10, "permutations": 6,
    "search": {{"frames": settings["search"], "force_rmse": {{"10": 1.5}},
               "seconds": 1.0, "processor_seconds": 1.0}},
    "seconds": 90.0, "processor_seconds": 60.0, "memory_gib": 1.25,
    "environment": {{"sgdml": "1.2.3", "OMP": os.environ["OMP_NUM_THREADS"]}},
}}))
"""


@pytest.fixture
def md17(load):
    return load("md17")


@pytest.fixture
def kernels(load):
    return load("md17_kernels")


@pytest.fixture
def packed(load):
    return load("peers.packed")


@pytest.fixture
def parts(load):
    rows = load("rows")
    return rows.Parts(*random_split(MD17Sample("ethanol", train=True), [100, 50, 200], 0))


@pytest.fixture
def put_stub(tmp_path):
    """A function that writes an interpreter that does as told."""

    def put(fate: str = "", frames: int = 0, missing: int = 0) -> str:
        path = tmp_path / "python"
        text = STUB.format(python=sys.executable, fate=fate, frames=frames, missing=missing)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    return put


def run(md17, path: Path, python: str, *words: str) -> dict[str, dict]:
    given = ["--quick", "--rows", "gdml", "sgdml", "--python", f"sgdml={python}"]
    md17.run(arguments(md17, *given, "--json", str(path), *words))
    return json.loads(path.read_text())["rows"]


def test_rows(md17, put_stub, tmp_path) -> None:
    path = tmp_path / "out.json"
    rows = run(md17, path, put_stub(frames=90), "--memory", "3")
    names = [f"revised ethanol, {name}, N = 100, seed 0" for name in ("gdml", "sgdml")]
    assert list(rows) == names
    for row, symmetric in zip(rows.values(), (False, True)):
        assert row["settings"]["symmetric"] is symmetric
        assert row["environment"]["peer"] == f"sgdml 1.2.3, OMP {torch.get_num_threads()}"
        assert str(tmp_path) not in json.dumps(row)
        # The stub is as good as the mean predictor, by the same measure on the same frames.
        assert row["test"]["energy_mae"] == pytest.approx(row["mean_predictor"]["energy_mae"])
        assert row["test"]["force_mae"] > row["mean_predictor"]["force_mae"]
    text = path.with_suffix(".md").read_text()
    energy, force = (rows[names[0]]["test"][key] for key in ("energy_mae", "force_mae"))
    assert f"| **{energy:.3f}** / **{force:.3f}** (N = 90) |" in text
    assert (
        f"| {names[1]} | 90 (3 GiB allow no more) | 10 (10: 1.5, from 100) | 1e-10 | 6 | 0.0 min | "
        "1.0 min | 1.2 GiB | 1 |"
    ) in text


def test_a_row_is_done_once(kernels, parts, put_stub, tmp_path, monkeypatch) -> None:
    folder, pythons = tmp_path / "run", {"sgdml": put_stub()}
    first = kernels.run_kernel(folder, parts, "gdml", 3.0, pythons)
    with np.load(folder / "test.npz") as arrays:
        energy = np.concatenate([frame.energy.numpy() for frame in parts.test])
        assert np.abs(arrays["E"] - energy).mean() == pytest.approx(first["test"]["energy_mae"])
        assert arrays["F"].shape == (200, 9, 3)
    pythons["sgdml"] = put_stub(fate="sys.exit('not again')")
    assert kernels.run_kernel(folder, parts, "gdml", 3.0, pythons) == first
    monkeypatch.setattr(kernels, "SIGMAS", (1, 2))
    with pytest.raises(SystemExit, match=r"sigmas was \[5, .* and is \[1, 2\]\): --again replaces"):
        kernels.run_kernel(folder, parts, "gdml", 3.0, pythons)
    with pytest.raises(SystemExit, match="sgdml failed on 'run'"):
        kernels.run_kernel(folder, parts, "gdml", 3.0, pythons, again=True)
    assert not (folder / "result.json").exists()


def test_what_goes_wrong(md17, put_stub, tmp_path, capsys) -> None:
    path = tmp_path / "out.json"
    killed = put_stub(fate="os.kill(os.getpid(), signal.SIGKILL)")
    rows = run(md17, path, killed, "--memory", "3")
    assert {row["failure"] for row in rows.values()} == {"out of memory (limit 3 GiB)"}
    assert "| out of memory (limit 3 GiB) |" in path.with_suffix(".md").read_text()
    run(md17, tmp_path / "none.json", put_stub(missing=1))
    assert "sgdml is skipped: sgdml is not installed (--python sgdml=PATH)" in (
        capsys.readouterr().out
    )
    with pytest.raises(SystemExit, match="'/no/python' does not run"):
        run(md17, path, "/no/python")
    with pytest.raises(SystemExit, match=r"unknown peers \['other'\]; they are \['sgdml'\]"):
        run(md17, path, "x", "--python", "other=x")
    with pytest.raises(SystemExit, match=r"give PEER=PATH \(got 'sgdml'\)"):
        run(md17, path, "x", "--python", "sgdml")


@pytest.mark.parametrize(("size", "width"), [(1, 5), (12, 4), (50, 7), (40, 40)])
def test_packed_factor(packed, size: int, width: int) -> None:
    """It is NumPy's Cholesky factor, and solves what NumPy solves, panel by panel."""
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, size))
    matrix, y = root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)
    panels = [matrix[k:, k : k + width].copy() for k in range(0, size, width)]
    factor = packed.factorize(iter(panels))
    assert all(np.shares_memory(one, other) for one, other in zip(factor, panels))
    wanted = np.linalg.cholesky(matrix)
    for k, panel in enumerate(factor):
        np.testing.assert_allclose(
            panel, wanted[k * width :, k * width : (k + 1) * width], atol=1e-10
        )
    np.testing.assert_allclose(packed.solve(factor, y), np.linalg.solve(matrix, y), rtol=1e-7)
    assert sum(panel.nbytes for panel in factor) <= packed.bytes_needed(size, width)
    with pytest.raises(np.linalg.LinAlgError):
        packed.factorize([-matrix])


@pytest.fixture
def sgdml() -> str:
    """A Python that has the package."""
    python = os.environ.get("PYG_SCHNET_SGDML")
    if not python:
        pytest.skip("needs the package sgdml: set PYG_SCHNET_SGDML to a Python that has it")
    return python


PACKAGE = """
import sys
import numpy as np
from sgdml.predict import GDMLPredict
from sgdml.train import GDMLTrain
arrays = np.load(sys.argv[1])
train = {k: arrays[k + "_train"].astype(float) for k in "REF"} | {"z": arrays["z"]}
train |= {"name": np.array("x"), "theory": np.array("x")}
trainer = GDMLTrain(max_memory=4, max_processes=1)
task = trainer.create_task(train, len(train["E"]), train, 0, int(sys.argv[2]), use_sym=True)
E, F = GDMLPredict(trainer.train(task), max_processes=1).predict(
    arrays["R_test"].astype(float).reshape(len(arrays["E_test"]), -1)
)
np.savez(sys.argv[3], E=E, F=F)
"""


def test_the_package_itself_agrees(kernels, parts, sgdml, tmp_path, monkeypatch) -> None:
    """Half a kernel matrix gives what the package's own solver gives."""
    monkeypatch.setattr(kernels, "SIGMAS", (20,))
    result = kernels.run_kernel(tmp_path / "run", parts, "sgdml", 4.0, {"sgdml": sgdml})
    assert result["kernel"]["permutations"] == 6  # of ethanol: its methyl group, and a reflection
    np.savez(tmp_path / "frames.npz", **kernels.arrays_of(parts))
    command = [sgdml, "-c", PACKAGE, str(tmp_path / "frames.npz"), "20", str(tmp_path / "own.npz")]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(tmp_path / "own.npz") as own, np.load(tmp_path / "run" / "test.npz") as ours:
        np.testing.assert_allclose(ours["E"], own["E"], atol=1e-5)
        np.testing.assert_allclose(ours["F"].reshape(200, -1), own["F"], atol=1e-4)


def test_symmetries_help_and_memory_limits(kernels, parts, sgdml, tmp_path, monkeypatch) -> None:
    """The six permutations of ethanol halve the error of forces, nearly; the mean predictor has 20
    kcal/mol/Ang. Where the kernel has no place, fewer frames are trained on, and the row says so.
    """
    monkeypatch.setattr(kernels, "SIGMAS", (10, 20, 40))
    errors = {}
    for name in ("gdml", "sgdml"):
        folder = tmp_path / name
        errors[name] = kernels.run_kernel(folder, parts, name, 4.0, {"sgdml": sgdml})["test"]
    assert errors["gdml"]["force_mae"] < 3.0
    assert errors["gdml"]["energy_mae"] < 1.0
    assert errors["sgdml"]["force_mae"] < 0.65 * errors["gdml"]["force_mae"]
    few = kernels.run_kernel(tmp_path / "few", parts, "gdml", 0.8, {"sgdml": sgdml})
    assert few["kernel"]["frames"] < 100
    assert few["kernel"]["frames"] % 10 == 0
