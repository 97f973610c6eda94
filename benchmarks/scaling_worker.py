r"""Times energies and forces of one contender on one periodic system, and prints JSON.

    python benchmarks/scaling_worker.py ENTRANT NETWORK.json SYSTEM.npz SECONDS PATIENCE GIB

A call that takes longer than PATIENCE seconds ends this process by the signal SIGALRM. Memory is
limited to GIB beyond what the process needs before the first call.
"""

import json
import resource
import signal
import sys

import torch
from contenders.common import Inputs
from worker import about, forget_peak, make, measure, memory, tune


def main() -> None:
    """Measures, or prints that memory was not enough."""
    entrant, network, system, seconds, patience, gib = sys.argv[1:7]
    tune()
    torch.manual_seed(0)
    name = entrant.removesuffix("_edges")
    contender = make(name)
    inputs = Inputs.read(system)
    if name == "ours":
        from contenders.ours import as_data

        inputs.data = as_data(inputs, with_edges=entrant.endswith("_edges"))
    contender.build(json.loads(network))
    contender.prepare_inference()
    before = memory("VmRSS")
    limit_memory(float(gib))
    forget_peak()

    def predict() -> None:
        signal.setitimer(signal.ITIMER_REAL, float(patience))
        contender.predict(inputs)
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    try:
        measured = measure(predict, float(seconds), warm_up=2, at_least=3)
    except (MemoryError, RuntimeError) as error:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        if not is_out_of_memory(error):
            raise
        print(json.dumps({"failure": "out of memory", "about": about(name)}))
        return
    measured["memory_mb"] = memory("VmHWM") - before
    print(json.dumps(measured | {"about": about(name)}))


def limit_memory(gib: float) -> None:
    """Has allocations fail that take this process further than so much above what it maps now."""
    if sys.platform.startswith("linux"):  # elsewhere there is no such limit, or it is not kept
        limit = int(memory("VmSize") * 2**20 + gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how PyTorch, or Python, says that there is not enough memory."""
    words = ("allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


if __name__ == "__main__":
    main()
