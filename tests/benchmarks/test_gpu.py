"""The command for a GPU runs its parts, loses none to another, and compares with its targets."""

import argparse
import json
import sys
import time
from pathlib import Path

import pytest
import suites
from suites import FOLDER

STEPS = {"ours": {"median_ms": 0.2}, "speedup": {"pyg": 25.0, "pyg_compiled": 10.0}}
EPOCH = {"molecules": 110_462, "epoch_s": 1.8}
RESULTS = {
    "speed": {"steps": {"batch 32, energies": STEPS}},
    "epoch": {"steps": {"batch 100": {"ours": EPOCH}, "batch 32": {"ours": {"failure": "no"}}}},
    "scaling": {
        "systems": [
            {"size": {"atoms": 96}, "entrants": {"ours": {"atom_steps_per_s": 1e4}}},
            {"size": {"atoms": 999_999}, "entrants": {"ours": {"atom_steps_per_s": 6e6}}},
        ]
    },
}


@pytest.fixture
def gpu(load):
    return load("gpu")


@pytest.fixture
def parts(gpu, monkeypatch):
    """Parts in place of the real ones: a line of Python each, which prints, fails or sleeps."""
    lines: dict[str, str] = {}

    def command_of(name: str, args: argparse.Namespace, output: Path, seconds: float) -> list[str]:
        line = lines.get(name, f"print('{name} runs')")
        if name in RESULTS:
            path, content = str(output / f"{name}.json"), json.dumps(RESULTS[name])
            line = f"open({path!r}, 'w').write({content!r}); {line}"
        return [sys.executable, "-S", "-c", line]

    monkeypatch.setattr(gpu, "command_of", command_of)
    return lines


def arguments(gpu, output: Path, *words: str) -> argparse.Namespace:
    return suites.arguments(gpu, "--device", "cpu", "--output", str(output), *words)


def status(output: Path) -> dict[str, str]:
    content = json.loads((output / "summary.json").read_text())
    return {name: part["status"] for name, part in content["parts"].items()}


def test_all_is_done(gpu, parts, tmp_path, capsys):
    gpu.run(arguments(gpu, tmp_path / "out"))
    assert status(tmp_path / "out") == dict.fromkeys(gpu.SHARES, "done")
    assert (tmp_path / "out" / "tests.log").read_text() == "tests runs\n"
    text = (tmp_path / "out" / "summary.md").read_text()
    assert text in capsys.readouterr().out
    assert "| step, batch 32, energies: PyG / ours | 25.0x | at least 20.0x | yes |" in text
    assert "PyG, torch.compile / ours | 10.0x |  |  |" in text
    assert "| epoch of 110,462 molecules, batch 100 | 1.8 s | at most 1.5 s | **no** |" in text
    assert "| epoch of 0 molecules, batch 32 | not measured |  |  |" in text
    assert "| 999,999 atoms, atoms x steps/s | 6e+06 | at least 5e+06 | yes |" in text


def test_a_part_that_fails(gpu, parts, tmp_path):
    parts["speed"] = "raise ValueError('no such kernel')"
    with pytest.raises(SystemExit, match=r"not all is done: see the files \*.log"):
        gpu.run(arguments(gpu, tmp_path))
    found = status(tmp_path)
    assert found.pop("speed") == "failed with 1: ValueError: no such kernel"
    assert set(found.values()) == {"done"}


@pytest.mark.parametrize("keep_going", [False, True])
def test_tests_that_fail(gpu, parts, tmp_path, keep_going):
    parts["tests"] = "raise SystemExit('2 failed')"
    (tmp_path / "speed.json").write_text("{}")  # of an earlier run
    with pytest.raises(SystemExit, match="not all is done"):
        gpu.run(arguments(gpu, tmp_path, *(["--keep-going"] if keep_going else [])))
    found = status(tmp_path)
    assert found["tests"] == "failed with 1: 2 failed"
    rest = "done" if keep_going else "not run: the tests failed"
    assert {found[name] for name in ("epoch", "speed", "scaling", "md")} == {rest}
    assert (tmp_path / "speed.json").exists() == keep_going


def test_the_time_is_kept(gpu, parts, tmp_path):
    """A part that hangs is ended with its children; the next ones have their shares."""
    marker = tmp_path / "late"
    child = f"import time; time.sleep(4); open({str(marker)!r}, 'w')"
    parts["epoch"] = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-S', '-c', {child!r}]); time.sleep(60)"
    )
    begin = time.monotonic()
    with pytest.raises(SystemExit, match="not all is done"):
        gpu.run(arguments(gpu, tmp_path, "--parts", "epoch", "scaling", "md", "--limit", "3s"))
    assert time.monotonic() - begin < 20
    found = status(tmp_path)
    assert found == {"epoch": "not finished: no time was left", "scaling": "done", "md": "done"}
    time.sleep(max(0.0, begin + 6 - time.monotonic()))
    assert not marker.exists()


def test_no_time(gpu, parts, tmp_path):
    with pytest.raises(SystemExit):
        gpu.run(arguments(gpu, tmp_path, "--parts", "tests", "md", "--limit", "0.1s"))
    assert set(status(tmp_path).values()) == {"not run: no time was left"}


def test_commands_are_understood(gpu, load, tmp_path):
    """Each part's command is one that its suite takes, within the time that it is given."""
    args = arguments(gpu, tmp_path, "--data", "qm9.npz")
    args.device = "cuda"
    for name in ("epoch", "speed", "scaling", "md"):
        _, script, suite, *words = gpu.command_of(name, args, tmp_path, 100.0)
        assert (Path(script), suite) == (FOLDER / "run.py", name)
        given = suites.arguments(load(name), *words)
        assert given.device == "cuda"
        assert given.json == tmp_path / f"{name}.json"
        assert name == "md" or given.limit == "85s"
    assert given.steps == 400


def test_only_tests_of_a_gpu_are_run(gpu, tmp_path):
    words = gpu.command_of("tests", arguments(gpu, tmp_path), tmp_path, 100.0)
    names = {Path(word).name for word in words if word.endswith(".py")}
    assert {"test_cuda.py", "test_packed.py", "test_loader.py", "test_graph_cells.py"} <= names
    assert "test_qm9.py" not in names


def test_tests_that_take_too_long_stop_nothing(gpu, parts, tmp_path):
    parts["tests"] = "import time; time.sleep(60)"
    with pytest.raises(SystemExit):
        gpu.run(arguments(gpu, tmp_path, "--parts", "tests", "speed", "--limit", "4s"))
    assert status(tmp_path) == {"tests": "not finished: no time was left", "speed": "done"}
