"""What a run shows and leaves, driven step by step with a clock of our own."""

import csv
import io
import os
import sys
from types import SimpleNamespace

import pytest

from pyg_schnet.plot import learning_curve
from pyg_schnet.training import TrainConfig, reporting
from pyg_schnet.training.checkpoint import Progress
from pyg_schnet.training.reporting import Reporter

CONFIG = TrainConfig(label="U0", epochs=100)


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row(epoch: float, mae: float = 0.5, **more: float) -> dict[str, float]:
    step, seconds = round(10 * epoch), 61.0 * epoch
    errors = {"val_mae": mae, "val_rmse": 1.5 * mae, **more}
    return {"epoch": epoch, "step": step, "lr": 1e-3, "train_loss": 1 / 3, **errors} | {
        "seconds": seconds
    }


def files(directory) -> set[str]:
    return set(os.listdir(directory)) - {"tensorboard"}


def read(path) -> list[dict[str, float]]:
    with open(path) as file:
        return [{name: float(x) for name, x in line.items()} for line in csv.DictReader(file)]


def test_history_is_what_was_reported(tmp_path, clock):
    rows = [row(1), row(2, 0.1 + 0.2), row(2.5, float("inf"))]
    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        for k, one in enumerate(rows, 1):
            reporter.row(one)
            assert read(tmp_path / "history.csv") == rows[:k]
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train_loss,val_mae,val_rmse,seconds"


def test_history_is_replaced_as_a_whole(tmp_path, clock, monkeypatch):
    reporter = Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock)
    reporter.row(row(1))
    path = tmp_path / "history.csv"
    with open(path) as before:
        reporter.row(row(2))
        assert len(list(csv.reader(before))) == 2  # header and row of the old file
    assert len(read(path)) == 2

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.warns(RuntimeWarning, match=r"history.csv' cannot be written .*No space left"):
            reporter.row(row(3))
        reporter.row(row(4))  # one warning is enough
    assert len(read(path)) == 2
    reporter.row(row(5))
    assert len(read(path)) == 5
    reporter.close()
    assert files(tmp_path) == {"history.csv", "learning_curve.png"}


def test_files_do_not_take_the_time_of_training(tmp_path, clock, monkeypatch):
    """A file that takes a second to write is written every hundred; the picture twice a minute."""
    written = []

    def write(path, content):
        written.append((path.name, content.count(b"\n") - 1))
        clock.now += 1.0 if path.name == "history.csv" else 0.1

    monkeypatch.setattr(reporting, "write_atomically", write)
    monkeypatch.setattr(Reporter, "_draw", lambda self: b"\n" * (len(self._rows) + 1))
    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        for k in range(1, 251):
            clock.now += 1.0
            reporter.row(row(k))
    tables = [rows for name, rows in written if name == "history.csv"]
    assert [tables[0], tables[-1]] == [1, 250]
    assert len(tables) == 4
    pictures = [rows for name, rows in written if name == "learning_curve.png"]
    assert pictures[0] == 29  # with the second of the first table
    assert pictures[-1] == 250
    assert len(pictures) == 9


def test_resumed_run_goes_on_with_its_rows(tmp_path, clock):
    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        for k in (1, 2, 3):
            reporter.row(row(k, 0.7))
    # The process was killed; its last checkpoint has two rows.
    history = [row(1, 0.7), row(2, 0.7)]
    progress = Progress(history=history, step=25, seconds=150.0)
    with Reporter(tmp_path, CONFIG, progress, 10, clock=clock):
        pass
    assert read(tmp_path / "history.csv") == history
    with Reporter(tmp_path, CONFIG, progress, 10, clock=clock) as reporter:
        reporter.row(row(3, 0.2))
        assert read(tmp_path / "history.csv") == [*history, row(3, 0.2)]
    assert history == [row(1, 0.7), row(2, 0.7)]  # the caller's own


def test_table(clock, capsys):
    config = TrainConfig(label="energy", force_weight=1.0, stress_weight=1.0, max_steps=1_000)
    reporter = Reporter(None, config, Progress(), 10, "kcal/mol", clock=clock)
    for _ in range(15):
        clock.now += 0.5
        reporter.step(1.0, 32)
    derivatives = dict(val_force_mae=0.25, val_force_rmse=9.0, val_stress_mae=1e-5)
    reporter.row(row(1, **derivatives), best=True)
    reporter.row(row(1.5, **derivatives))
    header, units, first, second = capsys.readouterr().err.splitlines()
    names = "epoch step train loss MAE energy MAE forces MAE stress lr elapsed left"
    assert " ".join(header.split()) == names
    assert units.split() == ["kcal/mol", "kcal/mol/Ang", "kcal/mol/Ang^3"]
    # 985 steps of 0.5 s are left.
    numbers = "1 10 0.33333 0.5 0.25 1e-05 1.00e-03 1 min 1 s 8 min 12 s best"
    assert " ".join(first.split()) == numbers
    assert second.split()[:2] == ["1.50", "15"]
    assert not second.endswith("best")
    for name, unit, value in (("forces", "kcal/mol/Ang ", "0.25 "), ("stress", "/Ang^3", "1e-05")):
        ends = (header.index(name) + 6, units.index(unit) + len(unit.strip()))
        assert {*ends, first.index(value) + len(value.strip())} == {ends[0]}


def test_header_comes_again(clock, capsys):
    reporter = Reporter(None, TrainConfig(label=7), Progress(), 10, clock=clock)
    for k in range(1, 82):
        reporter.row(row(k))
    lines = capsys.readouterr().err.splitlines()
    headers = [k for k, line in enumerate(lines) if "MAE y[7]" in line]
    assert headers == [0, 41, 82]
    assert len(lines) == 81 + 3  # no unit, no line of units
    assert len({len(line) for line in lines[1:41]}) == 1


def test_bar_on_a_terminal(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    with Reporter(None, CONFIG, Progress(), 10, "eV", clock=clock) as reporter:
        for _ in range(250):
            clock.now += 1.0
            reporter.step(0.125, 32)
        shown = screen.getvalue().split("\r")[-1]
        assert shown.startswith("epoch 25.0 |")
        assert shown.rstrip().endswith("| 25 %, loss 0.125, 12 min 30 s left")
        drawn = screen.getvalue().count("\r")
        for _ in range(1_000):
            clock.now += 1e-5
            reporter.step(0.125, 32)
        assert screen.getvalue().count("\r") == drawn  # faster than anybody can read
        reporter.row(row(25))
    after = screen.getvalue().split("\r")
    assert any("MAE U0" in part and part.count("\n") >= 3 for part in after)
    assert not after[-1].strip()
    assert "left" not in after[-2]  # the bar is gone


def test_running_loss_follows_the_last_hundred_steps(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    reporter = Reporter(None, CONFIG, Progress(), 10, clock=clock)
    reporter.step(8.0, 10)
    assert "loss 8" in screen.getvalue()
    clock.now += 1.0
    reporter.step(2.0, 30)  # (0.99 * 80 + 60) / (0.99 * 10 + 30)
    assert "loss 3.489," in screen.getvalue()
    for _ in range(2_000):
        clock.now += 1.0
        reporter.step(0.5, 0)  # no labels in the batch
        reporter.step(0.25, 32)
    assert "loss 0.25," in screen.getvalue().split("\r")[-1]
    reporter.close()


def test_no_bar_elsewhere(clock, capsys):
    with Reporter(None, CONFIG, Progress(), 10, clock=clock) as reporter:
        for _ in range(20):
            clock.now += 1.0
            reporter.step(1.0, 32)
    assert capsys.readouterr() == ("", "")


def test_without_a_standard_error(clock, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(sys, "stderr", None)  # as in a windowed program
    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        reporter.step(1.0, 32)
        reporter.row(row(1))
    assert read(tmp_path / "history.csv") == [row(1)]
    assert capfd.readouterr().out == ""


def test_picture_is_the_learning_curve(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(reporting, "learning_curve", learning_curve)
    path = tmp_path / "learning_curve.png"

    def expected(rows) -> bytes:
        content = io.BytesIO()
        learning_curve(rows, "eV").savefig(content)
        return content.getvalue()

    rows = [row(1), row(2, 0.25)]
    with Reporter(tmp_path, CONFIG, Progress(), 10, "eV", clock=clock) as reporter:
        reporter.row(rows[0])
        assert not path.exists()
        clock.now += 30.0
        reporter.row(rows[1])
        assert path.read_bytes() == expected(rows)
        reporter.row(row(3))
        assert path.read_bytes() == expected(rows)
    assert path.read_bytes() == expected([*rows, row(3)])


def test_log_is_called_with_everything_written(tmp_path, clock):
    seen = []

    def log(one):
        seen.append(one)
        assert read(tmp_path / "history.csv") == seen
        one["val_mae"] = None  # spoils nothing

    reporter = Reporter(tmp_path, CONFIG, Progress(), 10, log=log, clock=clock)
    first = row(1)
    reporter.row(first)
    assert first == row(1)
    seen[0] = first
    reporter.row(row(2))
    reporter.close()
    assert [one["epoch"] for one in read(tmp_path / "history.csv")] == [1, 2]


def test_what_log_raises_is_raised(tmp_path, clock):
    def log(one):
        raise LookupError("no such project")

    with (
        pytest.raises(LookupError, match="no such project"),
        Reporter(tmp_path, CONFIG, Progress(), 10, log=log, clock=clock) as reporter,
    ):
        reporter.row(row(1))
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_log_that_cannot_be_called():
    with pytest.raises(TypeError, match=r"'log' must be a function of a row \(got str\)"):
        Reporter(None, CONFIG, Progress(), 10, log="wandb")


def test_a_failing_picture_does_not_end_the_run(tmp_path, clock, monkeypatch):
    def fail(*args):
        raise RuntimeError("Failed to process string with tex")

    monkeypatch.setattr(reporting, "learning_curve", fail)
    reporter = Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock)
    clock.now += 31.0
    with pytest.warns(
        RuntimeWarning, match=r"learning_curve.png' cannot be written \(RuntimeError: Failed"
    ):
        reporter.row(row(1))
    clock.now += 31.0
    reporter.row(row(2))  # silent, or the warning would be an error here
    reporter.close()
    assert files(tmp_path) == {"history.csv"}


def test_other_processes_are_silent(tmp_path, clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    log = pytest.fail
    with Reporter(tmp_path, CONFIG, Progress(), 10, log=log, main=False, clock=clock) as reporter:
        reporter.step(1.0, 32)
        reporter.row(row(1))
    assert screen.getvalue() == ""
    assert not os.listdir(tmp_path)


def test_tensorboard(tmp_path, clock):
    """Steps after the checkpoint from which a run is resumed are not there twice."""
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        for k in (1, 2, 3):
            reporter.row(row(k, 1 / k, val_force_mae=2 / k, val_force_rmse=3 / k))
    history = [row(k, 1 / k, val_force_mae=2 / k, val_force_rmse=3 / k) for k in (1, 2)]
    progress = Progress(history=history, step=25)
    with Reporter(tmp_path, CONFIG, progress, 10, clock=clock) as reporter:
        for k in (3, 4):
            reporter.row(row(k, 8.0, val_force_mae=16.0, val_force_rmse=20.0))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = {"epoch", "lr", "train/loss", "val/mae", "val/rmse"}
    tags |= {"val/force_mae", "val/force_rmse"}
    assert set(events.Tags()["scalars"]) == tags
    scalars = [(event.step, event.value) for event in events.Scalars("val/mae")]
    assert scalars == [(10, 1.0), (20, 0.5), (30, 8.0), (40, 8.0)]
    assert [event.value for event in events.Scalars("val/force_mae")] == [2.0, 1.0, 16.0, 16.0]


def test_without_tensorboard(tmp_path, clock, monkeypatch):
    """It is looked for once, in silence."""
    name = "torch.utils.tensorboard"
    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        monkeypatch.setitem(sys.modules, name, None)
        reporter.row(row(1))
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(SummaryWriter=pytest.fail))
        reporter.row(row(2))
    assert set(os.listdir(tmp_path)) == {"history.csv", "learning_curve.png"}


def test_a_failing_tensorboard_does_not_end_the_run(tmp_path, clock):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    with Reporter(tmp_path, CONFIG, Progress(), 10, clock=clock) as reporter:
        with pytest.warns(RuntimeWarning, match="TensorBoard's log cannot be written"):
            reporter.row(row(1))
        (tmp_path / "tensorboard").unlink()
        reporter.row(row(2))
    assert len(read(tmp_path / "history.csv")) == 2
    assert not (tmp_path / "tensorboard").exists()  # half a run would be no use
