"""Two processes that train in one directory: the second is told, unless the first is dead."""

import os
import signal
import socket
import subprocess
import sys
import threading

import filelock
import pytest
from training_runs import CONFIG, changed, new_model, without_time

from pyg_schnet.training import fit, lock
from pyg_schnet.training.lock import HOLDER, LOCK, locked

# Holds a lock as a run does, without the seconds that importing torch takes.
PROCESS = """
import json, os, socket, sys, time
from filelock import FileLock
held = FileLock(sys.argv[1] + "/.lock")
held.acquire(timeout=0)
with open(sys.argv[1] + "/.lock.json", "w") as file:
    json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
print("ready", flush=True)
time.sleep(600)
"""


def test_the_second_process_is_refused_and_a_killed_one_forgotten(parts, tmp_path):
    """The run of the first stays as it is; when it is killed, its run goes on."""
    assert (LOCK, HOLDER) == (".lock", ".lock.json")
    expected = fit(new_model(), *parts[:2], CONFIG)
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=2), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    unfinished = tmp_path / "last.safetensors.1.part"  # that the first is writing
    unfinished.touch()
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            holder = f"is in use: process {process.pid} on {socket.gethostname()} trains there"
            for resume in (True, False):
                with pytest.raises(BlockingIOError, match=holder) as caught:
                    fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=resume)
                assert "Wait for it or stop it, or name another directory" in str(caught.value)
            assert unfinished.exists()
            assert all(path.read_bytes() == content for path, content in before.items())
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / HOLDER).exists()
    history = fit(new_model(seed=9), *parts[:2], CONFIG, tmp_path, resume=True)
    assert without_time(history) == without_time(expected)
    assert not (tmp_path / HOLDER).exists()


def test_two_threads_are_two(tmp_path):
    """As of two notebooks in one process."""
    raised = []

    def other():
        try:
            with locked(tmp_path):
                pass
        except BlockingIOError as error:
            raised.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on" in raised[0]
        (tmp_path / HOLDER).unlink()  # it had not got there yet
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "is in use: another process trains there" in raised[1]
    other()
    assert len(raised) == 2


def test_released_after_errors(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / HOLDER).exists()
    with locked(tmp_path):
        assert (tmp_path / HOLDER).exists()


def test_what_is_not_there_is_not_made_to_resume_it(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last.safetensors"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    with locked(None):
        pass


def fails(error):
    def acquire(self, *args, **kwargs):
        raise error

    return acquire


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("flock")])
def test_file_systems_without_locks(tmp_path, monkeypatch, error):
    monkeypatch.setattr(filelock.FileLock, "acquire", fails(error))
    with (
        pytest.warns(RuntimeWarning, match="cannot be locked .*: see to it that no other process"),
        locked(tmp_path),
    ):
        assert not (tmp_path / HOLDER).exists()


def test_no_lock_that_outlives_its_process(tmp_path, monkeypatch):
    """On some file systems filelock takes a file that is there for a lock."""
    monkeypatch.setattr(lock, "FileLock", filelock.SoftFileLock)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="has no locks"), locked(tmp_path):
            assert not (tmp_path / LOCK).exists()
