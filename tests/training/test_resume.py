"""Runs that are interrupted, killed, and go on."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from training_runs import CONFIG, changed, new_model, same_state, without_time

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.storage import CorruptFileError, load_tensors, save_tensors
from pyg_schnet.training import fit


def test_resumed_run_equals_the_uninterrupted_one(parts, tmp_path):
    whole, part = new_model(), new_model()
    expected = fit(whole, *parts[:2], CONFIG, tmp_path / "whole")
    short = changed(CONFIG, epochs=2)
    fit(part, *parts[:2], short, tmp_path / "part")
    resumed = new_model(seed=9)  # other weights: all comes from the checkpoint
    history = fit(resumed, *parts[:2], CONFIG, tmp_path / "part", resume=True)
    assert without_time(history) == without_time(expected)
    assert same_state(resumed, whole)
    for name in ("best", "last"):
        one = load_file(tmp_path / "whole" / f"{name}.safetensors")
        two = load_file(tmp_path / "part" / f"{name}.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one if key != "rng.0.cpu")


def test_the_clock_goes_on(parts, tmp_path):
    """Time that was spent before counts, in the history and against the budget."""
    fit(
        *(new_model(), *parts[:2], changed(CONFIG, epochs=2), tmp_path),
        log=lambda row: time.sleep(1.0),
    )
    history = fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds)
    assert 1.0 < seconds[1] < seconds[2]


def test_finished_run_resumes_to_itself(parts, tmp_path):
    model, again = new_model(), new_model(seed=9)
    history = fit(model, *parts[:2], CONFIG, tmp_path)
    assert fit(again, *parts[:2], CONFIG, tmp_path, resume=True) == history
    assert same_state(model, again)


def test_existing_runs_are_not_overwritten(parts, tmp_path):
    fit(new_model(), *parts[:2], CONFIG, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already: resume it"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resuming_what_is_not_there(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last.safetensors"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)
    with pytest.raises(ValueError, match="'resume' needs the 'directory'"):
        fit(new_model(), *parts[:2], CONFIG, resume=True)


def test_resuming_another_run(parts, tmp_path):
    train, val, test = parts
    fit(new_model(), train, val, CONFIG, tmp_path)
    wide = SchNet(32, 16, 2, num_gaussians=10, cutoff=4.0, units="eV")
    with pytest.raises(ValueError, match="another architecture: hidden_channels was 16 and is 32"):
        fit(wide, train, val, CONFIG, tmp_path, resume=True)
    faster = changed(CONFIG, lr=1.0)
    with pytest.raises(ValueError, match=r"another training: lr was 0.005 and is 1.0"):
        fit(new_model(), train, val, faster, tmp_path, resume=True)
    others = [data.clone() for data in train]
    others[3].y[0, 7] += 1e-9
    for molecules in (test, others):
        with pytest.raises(ValueError, match=r"of other training data|have no number"):
            fit(new_model(), molecules, val, CONFIG, tmp_path, resume=True)
    with pytest.raises(ValueError, match="is a checkpoint of other validation data"):
        fit(new_model(), train, val[1:], CONFIG, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"another dtype: dtype was 'torch.float32' and is"):
        fit(new_model().double(), train, val, CONFIG, tmp_path, resume=True)


def test_resuming_a_damaged_checkpoint(parts, tmp_path):
    fit(new_model(), *parts[:2], CONFIG, tmp_path)
    path = tmp_path / "last.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match="damaged"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)
    (tmp_path / "best.safetensors").rename(path)
    with pytest.raises(CorruptFileError, match="holds a SchNet model, not a training checkpoint"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)


def test_random_numbers_resume_too(parts, tmp_path):
    """Dropout of a user's own, say, goes on with the numbers that would have come next."""

    def noisy(seed):
        model = new_model(seed)
        model.embedding.register_forward_hook(
            lambda module, args, out: torch.nn.functional.dropout(out, 0.1, module.training)
        )
        return model

    expected = fit(noisy(0), *parts[:2], CONFIG, tmp_path / "whole")
    short = changed(CONFIG, epochs=2)
    fit(noisy(0), *parts[:2], short, tmp_path / "part")
    history = fit(noisy(5), *parts[:2], CONFIG, tmp_path / "part", resume=True)
    assert without_time(history) == without_time(expected)


def test_budgets_end_in_mid_epoch_and_can_be_extended(parts, tmp_path):
    """But for the validation in between, this is the run that had the larger budget at once."""
    whole, model = new_model(), new_model()
    expected = fit(whole, *parts[:2], changed(CONFIG, epochs=None, max_steps=11))
    fit(model, *parts[:2], changed(CONFIG, epochs=None, max_steps=6), tmp_path)
    longer = changed(CONFIG, epochs=None, max_steps=11)
    history = fit(new_model(seed=9), *parts[:2], longer, tmp_path, resume=True)
    steps = [row["step"] for row in history]
    assert steps == [4, 6, 8, 11]
    for row, wanted in zip((history[0], *history[2:]), expected, strict=True):
        assert row["val_mae"] == wanted["val_mae"]


def test_a_budget_at_the_end_of_an_epoch_can_be_extended(parts, tmp_path):
    """Its validation is that of the epoch, and is not done twice."""
    whole = fit(new_model(), *parts[:2], changed(CONFIG, epochs=None, max_steps=12))
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=None, max_steps=8), tmp_path)
    longer = changed(CONFIG, epochs=None, max_steps=12)
    history = fit(new_model(seed=9), *parts[:2], longer, tmp_path, resume=True)
    assert without_time(history) == without_time(whole)
    assert [row["step"] for row in history] == [4, 8, 12]


def test_a_run_can_be_resumed_from_its_first_moment(parts, tmp_path, monkeypatch):
    """Killed before the first step, say."""
    from pyg_schnet.training.run import Run

    def killed(run, batch, stop):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", killed)
        with pytest.raises(SystemExit):
            fit(new_model(), *parts[:2], CONFIG, tmp_path)
    resumed = new_model(seed=9)
    history = fit(resumed, *parts[:2], CONFIG, tmp_path, resume=True)
    whole = new_model()
    assert without_time(history) == without_time(fit(whole, *parts[:2], CONFIG))
    assert same_state(resumed, whole)


def test_earlier_checkpoints_are_kept(parts, tmp_path):
    """Every step is saved, the last three stay, and any of them leads to the same end."""
    config = changed(CONFIG, save_seconds=0, keep_last=3)
    whole = new_model()
    expected = fit(whole, *parts[:2], config, tmp_path)
    names = ["last.safetensors", "last-1.safetensors", "last-2.safetensors"]
    assert sorted(path.name for path in tmp_path.glob("last*")) == sorted(names)
    (tmp_path / names[0]).write_bytes(b"damaged")
    with pytest.raises(CorruptFileError, match=r"last-1.safetensors' is the one before: rename it"):
        fit(new_model(), *parts[:2], config, tmp_path, resume=True)
    for name in names[1:]:
        (tmp_path / name).replace(tmp_path / names[0])
        resumed = new_model(seed=9)
        history = fit(resumed, *parts[:2], config, tmp_path, resume=True)
        assert without_time(history) == without_time(expected)
        assert same_state(resumed, whole)


def test_the_best_model_is_that_of_the_checkpoint(parts, tmp_path):
    """A file of the best model that is newer than the checkpoint does not count, nor a lost one."""
    whole = new_model()
    fit(whole, *parts[:2], CONFIG, tmp_path)
    best = tmp_path / "best.safetensors"
    for content in (None, b"of another time"):
        best.unlink()
        if content:
            best.write_bytes(content)
        fit(new_model(seed=9), *parts[:2], CONFIG, tmp_path, resume=True)
        assert same_state(SchNet.load(best), whole)


SCRIPT = """
import sys, torch
from pyg_schnet.data import random_split
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import fit
from training_runs import CONFIG, changed, new_model

torch.set_num_threads(1)
train, val = random_split(QM9Sample(cutoff=4.0)[:90], [60, 20], seed=0)
often = 0 if "part" in sys.argv[1] else 300
config = changed(CONFIG, batch_size=2, save_seconds=often, epochs=3)
fit(new_model(), train, val, config, sys.argv[1], resume=sys.argv[2:] == ["resume"])
"""


@pytest.mark.slow
def test_interrupted_and_killed_at_any_moment(tmp_path):
    """A real process that saves every step, stopped by signals again and again, loses nothing."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def command(directory: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(tmp_path / directory), *arguments]

    def rows(directory: str) -> list[dict]:
        with open(tmp_path / directory / "history.csv") as file:
            return without_time(csv.DictReader(file))

    last = tmp_path / "part" / "last.safetensors"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    seen, resume = set(), []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        with subprocess.Popen(command("part", *resume), **pipes) as process:
            deadline, before = time.monotonic() + 120, len(seen)
            while len(seen) < before + 5:  # so many checkpoints later, at some point of a step
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read()
                if last.exists():
                    seen.add(last.stat().st_mtime_ns)
            os.kill(process.pid, number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        if number != signal.SIGKILL:
            assert "training was stopped by a signal; go on with fit" in errors
        resume = ["resume"]
    subprocess.run(command("part", "resume"), check=True, env=environment, timeout=120)
    subprocess.run(command("whole"), check=True, env=environment, timeout=120)
    assert len(rows("whole")) == 3
    assert rows("part") == rows("whole")
    for name in ("best", "last"):
        one, two = (load_file(tmp_path / d / f"{name}.safetensors") for d in ("whole", "part"))
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list((tmp_path / "part").glob("*.part"))  # of files being written when it was killed


def test_settings_that_an_earlier_version_did_not_know(parts, tmp_path):
    """They had their defaults; other values are those of another run."""
    whole = new_model()
    expected = fit(whole, *parts[:2], CONFIG)
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=2), tmp_path)
    path = tmp_path / "last.safetensors"
    tensors, header = load_tensors(path, "training checkpoint")
    del header["model"]["head_activation"], header["train"]["huber_delta"]
    save_tensors(path, tensors, header, "training checkpoint")
    settings = {**new_model().config, "head_activation": "silu"}
    with pytest.raises(ValueError, match="head_activation was 'ssp' and is 'silu'"):
        fit(SchNet(**settings), *parts[:2], CONFIG, tmp_path, resume=True)
    other = changed(CONFIG, huber_delta=2.0)
    with pytest.raises(ValueError, match=r"huber_delta was 1.0 and is 2.0"):
        fit(new_model(), *parts[:2], other, tmp_path, resume=True)
    resumed = new_model(seed=9)
    history = fit(resumed, *parts[:2], CONFIG, tmp_path, resume=True)
    assert without_time(history) == without_time(expected)
    assert same_state(resumed, whole)


DAMAGE = {
    "no model": (lambda t, h: h.update(model=None), "'model' in its header should be a dict"),
    "progress": (lambda t, h: h["progress"].update(step="x"), "'step' of the progress is 'x'"),
    "no epoch": (lambda t, h: h["progress"].update(era=1), "unexpected keyword argument 'era'"),
    "no groups": (lambda t, h: h.update(param_groups=[]), "a part of the run is missing"),
    "no random": (lambda t, h: t.pop("rng.0.cpu"), "KeyError: 'rng.0.cpu'"),
    "slot": (lambda t, h: t.update({"optimizer.0.exp_avg": torch.zeros(3)}), "has 3 numbers"),
    "best": (lambda t, h: t.pop("best.embedding.weight"), "Missing key.*embedding.weight"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_with_a_part_missing(change, message, tmp_path):
    """With a right checksum: such files come from other programs, or other versions."""
    train, val = QM9Sample()[:8], QM9Sample()[8:12]
    fit(new_model(), train, val, changed(CONFIG, max_steps=1), tmp_path)
    path = tmp_path / "last.safetensors"
    tensors, header = load_tensors(path, "training checkpoint")
    change(tensors, header)
    save_tensors(path, tensors, header, "training checkpoint")
    with pytest.raises(CorruptFileError, match=f"(?s)is damaged.*{message}"):
        fit(new_model(), train, val, changed(CONFIG, max_steps=2), tmp_path, resume=True)
