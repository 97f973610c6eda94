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

sys.path.insert(0, str(Path(__file__).parent))

from contenders.common import Contender, Inputs

CONTENDERS = {
    "ours": ("ours", "Ours", "pyg_schnet"),
    "ours_exact": ("ours", "OursExact", "pyg_schnet"),
    "pyg": ("pyg", "PyG", "torch_geometric"),
    "schnetpack": ("schnetpack", "SchNetPack", "schnetpack"),
    "graph_pes": ("graph_pes", "GraphPES", "graph_pes"),
}


def main() -> None:
    """Runs the four tasks."""
    name, network, system, seconds = sys.argv[1:5]
    if "--tuned" in sys.argv:
        tune()
    torch.manual_seed(0)
    module, kind, package = CONTENDERS[name]
    contender: Contender = getattr(importlib.import_module(f"contenders.{module}"), kind)()
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
    before = peak_memory()
    for task, run in tasks.items():
        prepare = contender.prepare_training if "step" in task else contender.prepare_inference
        prepare()
        results[task] = measure(run, float(seconds))
        # The peak of a process only grows, so the tasks go from the least to the most.
        results[task]["memory_mb"] = peak_memory() - before
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "version": version(package),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({"tasks": results, "about": about}))


def tune() -> None:
    """Settings of the process that are good for every contender; ours makes them in ``fit``."""
    torch.set_flush_denormal(True)
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 512 << 20)  # M_TRIM_THRESHOLD


def measure(run: Callable[[], None], seconds: float) -> dict:
    """Times of single calls in milliseconds, after a warm-up."""
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    for _ in range(2):
        run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - started < seconds and len(times) < 1000):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return {"first_ms": 1e3 * first, "times_ms": times}


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def as_batch(inputs: Inputs) -> Any:
    """The system as PyG's loader would hand it over, edges included."""
    from torch_geometric.data import Batch, Data

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
    """Version of an installed package."""
    from importlib.metadata import version as installed

    return installed(package.replace("_", "-"))


if __name__ == "__main__":
    main()
