"""Real processes, started by torchrun, against one process; see ``tests/ranks.py``."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
import ranks
import torch
from matplotlib.figure import Figure

from pyg_schnet.training import evaluate, fit, reporting
from pyg_schnet.training.distributed import World
from pyg_schnet.training.order import BatchOrder
from pyg_schnet.training.process_group import share_cores

# Largest difference from one process, relative to the largest value of a tensor.
RTOL = {torch.float64: 1e-10, torch.float32: 1e-5}


@contextmanager
def launch(scenario: str, size: int, folder: Path) -> Iterator[subprocess.Popen]:
    """Starts processes as torchrun does, and leaves none behind."""
    command = [sys.executable, ranks.__file__, scenario, str(size), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()  # the agent takes its processes along; nothing if it has ended


def run(size: int, folder: Path) -> list[dict]:
    """What each of some processes found."""
    with launch("everything", size, folder) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    paths = [folder / f"everything-{size}-{rank}.pt" for rank in range(size)]
    return [torch.load(path, weights_only=False) for path in paths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    return run(2, folder)


@pytest.fixture(scope="module")
def one(folder, two) -> Iterator[dict]:
    """A single process, after two of them: it goes on with a run of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "learning_curve", lambda *args: Figure())
        yield ranks.compared(folder)


@pytest.fixture(scope="module")
def three(folder, one) -> list[dict]:
    return run(3, folder)


@pytest.fixture(params=[2, 3])
def several(request) -> list[dict]:
    """What each of two or three processes found."""
    return request.getfixturevalue({2: "two", 3: "three"}[request.param])


def rows_of(history: list[dict], *without: str) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", *without)} for row in history]


def assert_close(found: list[dict], expected: list[dict], rel: float) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=rel)


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("kind", ranks.KINDS)
def test_gradients_are_those_of_one_process(one, several, kind, dtype):
    """Of a batch in uneven shares with missing labels, and of one that is too small for three."""
    expected = one["gradients"][kind, dtype]["gradients"]
    assert len(expected) == 2
    for rank in several:
        found = rank["gradients"][kind, dtype]["gradients"]
        for step, gradients in enumerate(expected):
            scale = max(g.abs().max() for g in gradients if g is not None)
            assert scale > 1e-3
            for gradient, wanted in zip(found[step], gradients, strict=True):
                assert (gradient is None) == (wanted is None)
                if wanted is not None:
                    assert (gradient - wanted).abs().max() < RTOL[dtype] * scale


def test_all_ranks_have_the_same_gradients_to_the_bit(several):
    first, *others = (rank["gradients"] for rank in several)
    for other in others:
        for key, value in first.items():
            for mine, theirs in zip(value["gradients"], other[key]["gradients"], strict=True):
                for gradient, same in zip(mine, theirs, strict=True):
                    assert (gradient is None and same is None) or torch.equal(gradient, same)


def test_only_forces_leave_the_last_bias_alone(several):
    """It has no gradient, which must not hold up the others."""
    initial = ranks.network().readout.lin2.bias.detach()
    for rank in several:
        assert torch.equal(rank["gradients"]["forces", torch.float64]["bias"], initial)
        assert not torch.equal(rank["gradients"]["energies", torch.float64]["bias"], initial)


def test_a_run_is_that_of_one_process(one, several):
    expected = one["history"]
    assert len(expected["history"]) == 4
    for rank in several:
        found = rank["history"]
        assert found["history"] == several[0]["history"]["history"]  # the clock too
        assert_close(rows_of(found["history"]), rows_of(expected["history"]), rel=1e-9)
        for name, value in expected["state"].items():
            assert torch.equal(found["state"][name], several[0]["history"]["state"][name])
            assert torch.allclose(found["state"][name], value, rtol=1e-7, atol=1e-9)


def test_two_begin_one_goes_on_three_end(one, three, two):
    """A run that is cut within epochs, by numbers of steps."""
    assert [row["step"] for row in two[0]["part"]["history"]] == [5, 6]
    assert [row["step"] for row in one["part"]["history"]] == [5, 6, 10, 11]
    # The train loss of an epoch that is cut counts what came after the cut.
    expected = rows_of(one["history"]["history"], "train_loss")
    for rank in three:
        whole = [row for row in rank["part"]["history"] if row["epoch"] == int(row["epoch"])]
        assert_close(rows_of(whole, "train_loss"), expected, rel=1e-9)
        for name, value in one["history"]["state"].items():
            assert torch.allclose(rank["part"]["state"][name], value, rtol=1e-7, atol=1e-9)


def test_evaluation_is_that_of_one_process_to_the_bit(one, several):
    for rank in several:
        for found, expected in zip(rank["evaluation"], one["evaluation"], strict=True):
            for part, wanted in expected.items():
                assert found[part].mae == wanted.mae
                assert found[part].rmse == wanted.rmse
                assert torch.equal(found[part].predicted, wanted.predicted)
                assert torch.equal(found[part].reference, wanted.reference)


def test_random_numbers_differ_and_repeat(several):
    numbers = [tuple(rank["noisy"]["numbers"]) for rank in several]
    assert len(set(numbers)) == len(several)
    assert not set(numbers[0]) & set(numbers[1])
    for rank in several:
        noisy = rank["noisy"]
        assert rows_of(noisy["again"]) == rows_of(noisy["whole"])
        # An interrupted run goes on with the numbers of each rank.
        resumed = [row for row in noisy["resumed"] if row["epoch"] == int(row["epoch"])]
        assert rows_of(resumed, "train_loss") == rows_of(noisy["whole"], "train_loss")


def test_all_follow_one_clock(several):
    history = several[0]["timed"]
    assert 0.4 <= history[-1]["seconds"] < 20
    assert all(rank["timed"] == history for rank in several)


def test_errors_are_the_same_in_all_ranks(several):
    """A directory that was in use when they began is free for the next run."""
    errors = several[0]["errors"]
    assert all(rank["errors"] == errors for rank in several)
    assert errors["divergence"].startswith("FloatingPointError: the loss is inf in batch ")
    assert "of molecule 10 of the training set (6 atoms)" in errors["divergence"]
    assert "The last good checkpoint, of step 0, is in" in errors["divergence"]
    assert errors["settings"] == (
        "ValueError: the processes must train the same: 'lr' is 0.001 in rank 0 and 0.002 in rank 1"
    )
    assert errors["writing"].startswith("NotADirectoryError:")
    assert errors["in use"].startswith("BlockingIOError: '")
    assert "is in use: another process trains there" in errors["in use"]


def test_an_error_in_one_rank_ends_the_others(several, folder):
    size = len(several)
    assert several[-1]["failing"]["error"] == "KeyError: 'no such thing'"
    for rank in range(size - 1):
        assert several[rank]["failing"]["error"].startswith(
            f"LostProcessError: rank {rank} cannot go on without the others: rank {size - 1} "
            f"failed (KeyError: 'no such thing'); the last checkpoint, of step "
        )
    rows = fit(
        *(ranks.network(), ranks.TRAIN, ranks.VALIDATION, ranks.CONFIG),
        *(folder / f"failing{size}",),
        resume=True,
    )
    assert [row["step"] for row in rows] == [5, 10, 15, 20]


def test_the_first_rank_prepares_the_data(several):
    found = [rank["first"]["found"] for rank in several]
    assert found == [False] + [True] * (len(several) - 1)
    in_groups = [rank["first"]["in a group"] for rank in several]
    assert in_groups == [[False] * 2] + [[True] * 2] * (len(several) - 1)
    errors = [rank["first"]["error"] for rank in several]
    assert errors[0] == "OSError: disk full"
    assert set(errors[1:]) == {
        "RuntimeError: the data could not be prepared: see the error of rank 0"
    }


def test_a_killed_rank_ends_the_others(tmp_path, one):
    """The others say who it was, and the run goes on where it was."""
    start = time.monotonic()
    with launch("killed", 3, tmp_path) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - start < 100
    for rank in (0, 2):
        assert (
            f"rank {rank} cannot go on without the others: rank 1 ended without a word "
            "(killed, out of memory?) or hangs; the last checkpoint, of step "
        ) in errors
    rows = fit(
        *(ranks.network(), ranks.TRAIN, ranks.VALIDATION, ranks.CONFIG, tmp_path / "killed"),
        resume=True,
    )
    # The steps before the end are not lost, though no time had come to save them.
    assert "the last checkpoint, of step 7, is in" in errors
    assert_close(rows_of(rows), rows_of(one["history"]["history"]), rel=1e-9)


def test_a_signal_to_torchrun_leaves_a_checkpoint(tmp_path):
    history = tmp_path / "endless" / "history.csv"
    with launch("endless", 2, tmp_path) as process:
        deadline = time.monotonic() + 100
        while not history.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt: training was stopped by a signal; go on with fit") == 2
    assert "LostProcessError" not in errors
    config = ranks.replace(ranks.CONFIG, epochs=1)
    rows = fit(
        *(ranks.network(), ranks.TRAIN, ranks.VALIDATION, config, tmp_path / "endless"),
        resume=True,
    )
    assert rows[0]["step"] == 5


def test_one_process_communicates_with_nobody():
    with World.current() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        module = torch.nn.Linear(1, 1)
        assert world.parallel(module, None) is module
        assert world.gather("this") == ["this"]
        assert world.from_main(lambda: "this") == "this"
        values = torch.arange(3)
        assert world.total(values) is values
        world.check_same(this="that")
        with World.current() as same:
            assert same is world
    with World.current() as other:
        assert other is not world


def test_shares_make_up_the_batches():
    whole = list(BatchOrder(17, 5, seed=4))
    assert [len(batch) for batch in whole] == [5, 5, 5, 2]
    orders = [BatchOrder(17, 5, seed=4, rank=rank, world_size=3) for rank in range(3)]
    for number, shares in enumerate(zip(*orders, strict=True)):
        counted = [share for order, share in zip(orders, shares) if not order.stands_in(number)]
        assert sorted(chain.from_iterable(counted)) == sorted(whole[number])
        assert all(shares)
    assert [order.stands_in(3) for order in orders] == [False, False, True]


def test_seeds_can_be_large():
    """Such as a time in nanoseconds."""
    orders = [next(iter(BatchOrder(50, 50, seed=seed))) for seed in (0, 10**18, 10**18 + 1)]
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize(
    ("processes", "variable", "expected"),
    [
        (4, "1", 4),  # as torchrun sets it
        (4, None, 4),
        (5, None, 3),
        (40, None, 1),
        (4, "2", None),  # as a user sets it
    ],
)
def test_processes_share_the_cores(monkeypatch, processes, variable, expected):
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    share_cores(None, processes)
    assert seen == ([] if expected is None else [expected])


def test_more_ranks_than_molecules_evaluate(monkeypatch):
    """A rank without molecules waits for what the others have."""
    model, molecules = ranks.network(), ranks.VALIDATION[:1]
    whole = evaluate(model, molecules)

    class Second(World):
        def __init__(self) -> None:
            self.rank, self.size = 1, 2

        def gather(self, value):
            assert value == []
            return [[{"energy": (whole.predicted, whole.reference)}], value]

    assert evaluate(model, molecules, world=Second()).mae == whole.mae
