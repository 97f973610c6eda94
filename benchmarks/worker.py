r"""Times one contender on one system, in a process of its own, and prints JSON.

    python benchmarks/worker.py CONTENDER NETWORK.json SYSTEM.npz SECONDS [--tuned]

Needs nothing but the contender's own packages, torch and numpy, so as to run in the environments of
peers. ``--tuned`` flushes denormal numbers to zero and keeps freed memory in the process.
"""

import ctypes
import importlib
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parent))

from contenders.common import Contender, Inputs

CONTENDERS = {
    "ours": ("ours", "Ours", "pyg_schnet"),
    "ours_exact": ("ours", "OursExact", "pyg_schnet"),
    "pyg": ("pyg", "PyG", "torch_geometric"),
    "pyg_compiled": ("pyg_compiled", "PyGCompiled", "torch_geometric"),
    "schnetpack": ("schnetpack", "SchNetPack", "schnetpack"),
    "graph_pes": ("graph_pes", "GraphPES", "graph_pes"),
}
# Who races on the CPU; compilation takes minutes there.
RACERS = [name for name in CONTENDERS if name != "pyg_compiled"]


def main() -> None:
    """Runs the four tasks."""
    name, network, system, seconds = sys.argv[1:5]
    if "--tuned" in sys.argv:
        tune()
    torch.manual_seed(0)
    contender = make(name)
    inputs = Inputs.read(system)
    if name.startswith("ours"):
        inputs.data = as_batch(inputs)
    contender.build(json.loads(network))
    optimizer = torch.optim.Adam(contender.model.parameters(), lr=1e-5, fused=True)
    tasks = {
        "forward": lambda: contender.forward(inputs),
        "energies + forces": lambda: contender.predict(inputs),
        "energy step": lambda: contender.energy_step(inputs, optimizer),
        "energy + force step": lambda: contender.force_step(inputs, optimizer),
    }
    results = {}
    before = memory("VmRSS")
    for task, run in tasks.items():
        prepare = contender.prepare_training if "step" in task else contender.prepare_inference
        prepare()
        forget_peak()
        results[task] = measure(run, float(seconds))
        # Freed memory may stay in the process, so the tasks go from the least to the most.
        results[task]["memory_mb"] = memory("VmHWM") - before
        results[task]["product_gflop"] = products(run)
    print(json.dumps({"tasks": results, "about": about(name)}))


def make(name: str) -> Contender:
    """One of the contenders, to be built."""
    module, kind, _ = CONTENDERS[name]
    return getattr(importlib.import_module(f"contenders.{module}"), kind)()


def about(name: str) -> dict[str, str | int]:
    """With what a contender ran."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "version": version(CONTENDERS[name][2]),
        "threads": torch.get_num_threads(),
    }


def tune() -> None:
    """Settings of the process that are good for every contender; ours makes them in ``fit``."""
    torch.set_flush_denormal(True)
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 512 << 20)  # M_TRIM_THRESHOLD


def measure(
    run: Callable[[], None], seconds: float, warm_up: int = 3, at_least: int = 5
) -> dict[str, Any]:
    """Times of single calls in milliseconds, after a warm-up."""
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    for _ in range(warm_up - 1):
        run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < at_least or (time.perf_counter() - started < seconds and len(times) < 1000):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return {"first_ms": 1e3 * first, "times_ms": times}


def memory(entry: str) -> float:
    """Memory of this process in MB: resident now ("VmRSS") or at its peak ("VmHWM"), or mapped."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS knows the peak only, and that of the whole process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    line = next(line for line in status.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Has Linux measure the peak of memory anew from here on."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def products(run: Callable[[], None]) -> float:
    """Billions of operations in the matrix products of a call, convolutions left out."""
    with CountProducts() as counter:
        run()
    return counter.operations / 1e9


class CountProducts(TorchDispatchMode):
    """Counts operations of matrix products; ``FlopCounterMode`` stumbles over leaf gradients."""

    operations = 0

    def __torch_dispatch__(
        self, function: Any, kinds: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs and counts an operator."""
        out = function(*args, **(kwargs or {}))
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


def as_batch(inputs: Inputs) -> Any:
    """The system as PyG's loader would hand it over, edges included.

    A lone small molecule comes without: ``predict`` then does everything in one kernel, the search
    included, which takes less time than the rest alone.
    """
    from torch_geometric.data import Batch, Data

    if inputs.size == 1 and len(inputs.z) <= 100:
        return Data(z=inputs.z, pos=inputs.pos)
    from pyg_schnet import edge_lengths

    sizes = torch.bincount(inputs.batch).tolist()
    ends = torch.tensor(sizes).cumsum(0)
    molecules = []
    for size, end in zip(sizes, ends.tolist()):
        part = (inputs.edge_index[1] >= end - size) & (inputs.edge_index[1] < end)
        edges = inputs.edge_index[:, part] - (end - size)
        pos = inputs.pos[end - size : end]
        molecules.append(
            Data(
                z=inputs.z[end - size : end],
                pos=pos,
                edge_index=edges,
                edge_weight=edge_lengths(pos, edges),
            )
        )
    return Batch.from_data_list(molecules)


def version(package: str) -> str:
    """Version of a package; it may be on the path without being installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(package.replace("_", "-"))
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
