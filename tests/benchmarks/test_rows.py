"""Training runs of the benchmarks: done once, resumed, tested on the test set, merged by row."""

import argparse
import json
from dataclasses import replace

import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import TrainConfig, evaluate


@pytest.fixture
def runs(load):
    return load("rows")


@pytest.fixture
def parts(runs):
    return runs.Parts(*random_split(MD17Sample("ethanol", train=True, cutoff=5.0), [20, 10, 30]))


def small_model() -> SchNet:
    torch.manual_seed(0)
    return SchNet(8, 8, 1, num_gaussians=10, cutoff=5.0, units="kcal/mol")


CONFIG = TrainConfig.paper(forces=True, max_steps=6, batch_size=5)


def test_budgets(runs) -> None:
    assert runs.budget("20m") == {"max_time": "20m"}
    assert runs.budget("500steps") == {"max_steps": 500}
    assert runs.budget("3epochs") == {"epochs": 3}
    for wrong in ("soon", "0steps", "-1m", "5 steps", "2y"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"got '{wrong}'"):
            runs.budget(wrong)


def test_a_run_is_done_once(runs, parts, tmp_path, monkeypatch) -> None:
    model = small_model()
    first = runs.run_once(tmp_path / "a", model, parts, CONFIG)
    assert first["step"] == 6
    assert first["sizes"] == {"train": 20, "val": 10, "test": 30}
    assert first["parameters"] == sum(p.numel() for p in model.parameters())
    # Errors are those of the saved model on the test set.
    result = evaluate(SchNet.load(tmp_path / "a" / "best.safetensors"), parts.test, forces=True)
    assert first["test"]["energy_mae"] == pytest.approx(result.mae)
    assert first["test"]["force_rmse"] == pytest.approx(result.forces.rmse)

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", refuse)
        assert runs.run_once(tmp_path / "a", small_model(), parts, CONFIG) == first
        with pytest.raises(SystemExit, match=r"batch_size was 5 and is 4.*--again"):
            runs.run_once(tmp_path / "a", small_model(), parts, replace(CONFIG, batch_size=4))
        with pytest.raises(AssertionError, match="trained again"):
            runs.run_once(tmp_path / "a", small_model(), parts, CONFIG, again=True)
    assert not (tmp_path / "a").exists()


def test_a_run_that_was_stopped_goes_on(runs, parts, tmp_path, monkeypatch) -> None:
    whole = runs.run_once(tmp_path / "whole", small_model(), parts, CONFIG)
    real = runs.evaluate

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        runs.run_once(tmp_path / "a", small_model(), parts, CONFIG)
    monkeypatch.setattr(runs, "evaluate", real)
    resumed = runs.run_once(tmp_path / "a", small_model(), parts, CONFIG)
    assert resumed["test"] == whole["test"]
    assert resumed["curve"]["step"] == whole["curve"]["step"]


def test_a_longer_run_goes_on_from_a_shorter_one(runs, parts, tmp_path) -> None:
    """As one that was never shorter: this schedule knows no end. The shorter one stays as it is."""
    shorter, longer = replace(CONFIG, max_steps=8), replace(CONFIG, max_steps=16)
    with pytest.raises(SystemExit, match=r"--after: .*a' has no run that is done"):
        runs.run_once(tmp_path / "b", small_model(), parts, longer, begin_with=tmp_path / "a")
    first = runs.run_once(tmp_path / "a", small_model(), parts, shorter)
    checkpoint = (tmp_path / "a" / "last.safetensors").read_bytes()
    second = runs.run_once(tmp_path / "b", small_model(), parts, longer, begin_with=tmp_path / "a")
    whole = runs.run_once(tmp_path / "whole", small_model(), parts, longer)
    assert (first["step"], second["step"]) == (8, 16)
    assert second["test"] == whole["test"] != first["test"]
    assert second["curve"]["step"] == whole["curve"]["step"]
    assert (tmp_path / "a" / "last.safetensors").read_bytes() == checkpoint


def test_curve_and_exponent(runs) -> None:
    history = [
        {"step": 10 * k, "seconds": k, "val_mae": 5.0, "val_force_mae": 7.0 * k**-0.5, "lr": 1.0}
        for k in range(1, 1001)
    ]
    curve = runs.curve(history)
    assert len(curve["step"]) == 100
    assert (curve["step"][0], curve["step"][-1]) == (10, 10_000)
    assert runs.exponent(curve, "force_mae") == pytest.approx(-0.5, abs=1e-3)
    assert runs.exponent(curve, "energy_mae") == pytest.approx(0.0, abs=1e-6)
    assert runs.exponent(runs.curve(history[:2]), "energy_mae") is None
    assert set(runs.curve([{"step": 1, "seconds": 1.0, "val_mae": 2.0}])) == {
        *("step", "seconds", "energy_mae")
    }


def test_validations(runs) -> None:
    # 1,000 molecules in batches of 32 are 32 steps, of 8 are 125.
    assert runs.validations(1000, 32, 1000)["eval_epochs"] == 31
    assert runs.validations(1000, 8, 1000)["eval_epochs"] == 8
    assert runs.validations(1000, 32, 1)["eval_epochs"] == 1


def test_rows_are_merged(runs, tmp_path) -> None:
    path = tmp_path / "x.json"
    assert runs.merge(path, {"a": {"v": 1}}) == {"a": {"v": 1}}
    path.write_text(json.dumps({"rows": {"a": {"v": 0}, "b": {"v": 2}}}))
    assert runs.merge(path, {"a": {"v": 1}}) == {"a": {"v": 1}, "b": {"v": 2}}
    assert runs.merge(None, {}) == {}


def test_rows_of_one_origin_share_a_line(runs) -> None:
    def row(command: str, rate: int) -> dict:
        return {
            "environment": {"cpu": "X", "sgemm_gflops": rate},
            "commit": "c",
            "command": command,
        }

    lines = runs.made_by({"a": row("one", 1), "b": row("one", 2), "c": row("two", 1)})
    assert lines == ["- a; b: commit c, `one`. cpu X.", "- c: commit c, `two`. cpu X."]
