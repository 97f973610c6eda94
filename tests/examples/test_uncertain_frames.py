"""The example of ensembles runs from end to end."""

import importlib
import json

import pytest
from example_runs import EXAMPLES, run_example


@pytest.mark.slow
def test_end_to_end(tmp_path):
    arguments = ("--members", "2", "--steps", "40", "--first", "20", "--more", "10")
    result = run_example("uncertain_frames.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    results = tmp_path / "runs" / "uncertain_frames"
    assert (results / "uncertainty.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((results / "uncertain_frames.json").read_text())
    assert summary["frames"] == {"first": 20, "pool": 930, "added": 10}
    assert summary["units"] == "kcal/mol/Ang"
    assert -1 <= summary["rank_correlation"] <= 1
    assert summary["rms_std"] > 0
    # Of the mean force predictor, by NumPy: 27.
    assert 0 < summary["rms_error"] < 27
    assert set(summary["test"]) == {"none", "random", "uncertain"}
    for row in summary["test"].values():
        assert row["mae"] < row["rmse"] < row["worst_frame_rms"]
    assert result.stdout.count("\nuncertain ") == 1


@pytest.mark.parametrize("arguments", [("--members", "1"), ("--more", "951")])
def test_wrong_arguments(monkeypatch, capsys, arguments):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("uncertain_frames")
    monkeypatch.setattr("sys.argv", ["uncertain_frames.py", *arguments])
    with pytest.raises(SystemExit):
        example.parse_arguments()
    assert "two or more --members" in capsys.readouterr().err
