"""Jobs in processes of their own, against a deadline."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MARK = "result: "
NO_TIME = "not run: no time was left"
NO_WORKER = "not run: workers end without a result"
# Lines of its errors that are shown of a worker that failed.
_SHOWN = 15
# Workers in a row that end without a single result: those after them would, too.
_SILENT = 3


def run_jobs(name: str, jobs: list[dict], device: str, deadline: float) -> list[dict]:
    """Results of jobs, in their order; those that failed say why, in ``failure``.

    Args:
        name: The contender.
        jobs: What to do, see :mod:`device.jobs`; each with ``patience`` in seconds. Where they
            are a ``ladder``, the first failure ends them.
        device: Where.
        deadline: When to stop, by ``time.monotonic``.
    """
    done: list[dict] = []
    silent = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.json"
        file.write_text(json.dumps(jobs))
        while len(done) < len(jobs):
            left = deadline - time.monotonic()
            if left <= 0:
                done += [{"failure": NO_TIME}] * (len(jobs) - len(done))
                break
            found, why = _work([device, name, str(file), str(len(done))], Path(folder), left)
            done += found
            if why is not None and len(done) < len(jobs):
                done.append({"failure": why or f"over {jobs[len(done)]['patience']:g} s"})
            if jobs[0].get("ladder") and done and "failure" in done[-1]:
                break
            silent = 0 if found else silent + 1
            if silent == _SILENT:
                done += [{"failure": NO_WORKER}] * (len(jobs) - len(done))
    return done


def _work(words: list[str], folder: Path, seconds: float) -> tuple[list[dict], str | None]:
    """What a worker did, and why it did not tell of the next job; ``""`` if that took too long."""
    out, errors = folder / "out", folder / "errors"
    command = [sys.executable, str(HERE / "worker.py"), *words]
    # To files: a pipe would wait for whatever processes the worker leaves behind.
    with out.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        why = None
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            why = "not finished: no time was left"
        except BaseException:
            process.kill()
            raise
    lines = out.read_text().splitlines()
    done = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    if process.returncode != 0 and why is None:
        shown = "\n".join(errors.read_text().splitlines()[-_SHOWN:])
        print(f"{words[1]} failed:\n{shown}", file=sys.stderr, flush=True)
        if process.returncode == -signal.SIGALRM:
            why = ""
        elif process.returncode == -signal.SIGKILL:
            why = "killed, for want of memory maybe"
        elif not (done and "failure" in done[-1]):  # else it has told why itself
            last = shown.splitlines()[-1:] or ["no message"]
            why = f"the worker ended with {process.returncode}: {last[0]}"
    return done, why
