r"""Does jobs for one contender on a device, and prints a line of JSON for each.

    python benchmarks/device/worker.py DEVICE CONTENDER JOBS.json FIRST

A job that takes longer than its ``patience`` ends this process by the signal SIGALRM, and so does
one that fails for want of anything but memory; :mod:`device.launch` goes on with the next.
"""

import json
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from worker import tune

from device.clock import is_out_of_memory, release
from device.jobs import KINDS, failure
from device.launch import MARK


def main(words: list[str]) -> int:
    """Does the jobs from number FIRST on."""
    device, name, path, first = words
    if device == "cpu":
        tune()
    for job in json.loads(Path(path).read_text())[int(first) :]:
        signal.setitimer(signal.ITIMER_REAL, job["patience"])
        lost = False
        try:
            result = KINDS[job["kind"]](name, job, device)
        except Exception as error:
            result, lost = failure(error), not is_out_of_memory(error)
            traceback.print_exc()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(MARK + json.dumps(result), flush=True)
        # A GPU that has met a bad address fails from then on, and so do larger systems.
        if lost or ("failure" in result and job.get("ladder")):
            return 1
        release(device)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
