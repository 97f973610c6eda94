r"""The race on a device: PyG as it is and compiled, single calls and whole training steps.

Each contender has a process of its own. Whatever fails, or is not done in time, is told in its
place; all other results are kept.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from environment import command_line
from report import save_report
from systems import NETWORKS, SYSTEMS, write_system, write_water

from device import report
from device.jobs import TASKS
from device.launch import run_jobs
from device.options import PATIENCE, begin, device_file, share_of

CONTENDERS = ("ours", "pyg", "pyg_compiled")
# Shares of the time.
_WEIGHTS = {"ours": 2.5, "pyg": 2.0, "pyg_compiled": 2.0}
# Batch sizes of training steps, and what is trained.
BATCH_SIZES = (32, 100)
STEPS = {"energies": False, "energies + forces": True}
# Processes of PyG's loader, beside none; the faster counts.
WORKERS = 4
MOLECULES = 2_900  # of the shipped sample
RACES = [
    "paper, batch 32",
    "128/6/50/10 A, batch 100",
    "128/3/20/5 A, batch 100",
    "paper, one molecule of 18 atoms",
    "128/3/20/5 A, cluster of 2,000 atoms",
]
# What the compiler has the patience for.
COMPILED = RACES[:2]
# Where each primitive is timed: what fits the caches, and what does not.
KERNELS = {"128/3/20/5 A, batch 100": None, "water, 30,000 atoms": 30_000}
RATES = {"kind": "machine", "gib": 1.0, "size": 8192}


def run(args: argparse.Namespace) -> None:
    """Runs the race and writes the results."""
    results, deadline = begin(args, _command(args))
    results |= {"machine": {}, "steps": {}, "systems": {}, "kernels": {}, "about": {}}
    with tempfile.TemporaryDirectory() as folder:
        plan = _quick(Path(folder)) if args.quick else _whole(Path(folder), args)
        names = list(plan)
        for k, name in enumerate(names):
            jobs = [{"seconds": args.seconds, "patience": PATIENCE} | job for _, job in plan[name]]
            weights = [_WEIGHTS[other] for other in names[k:]]
            done = run_jobs(name, jobs, args.device, share_of(deadline, weights))
            for (where, job), found in zip(plan[name], done):
                _enter(results, name, where, job, found)
            print(f"{name}: {len(jobs)} jobs", flush=True)
    report.summarise(results)
    save_report(results, device_file(args, "speed"), report.as_markdown, report.draw)


def _whole(folder: Path, args: argparse.Namespace) -> dict[str, list[tuple[str, dict]]]:
    """All jobs of each contender, the most important ones first; each with the name of its row."""
    files = {name: str(folder / f"{k}.npz") for k, name in enumerate(SYSTEMS)}
    for name in RACES:
        write_system(name, Path(files[name]), args.seed)
    plan: dict[str, list[tuple[str, dict]]] = {}
    for name in args.contenders:
        jobs = _steps(MOLECULES, BATCH_SIZES, 1.0)
        races = COMPILED if name == "pyg_compiled" else RACES
        jobs += [(race, _race(race, files[race])) for race in races]
        if name != "ours":
            jobs += _steps(MOLECULES, BATCH_SIZES, 1.0, WORKERS)
        if name == "ours":
            jobs = [("", RATES | {"seconds": 0.5}), *jobs]
            for system, atoms in KERNELS.items():
                network = NETWORKS["128/3/20/5"]
                file = files.get(system, str(folder / "water.npz"))
                if atoms is not None:
                    write_water(atoms, Path(file), None, args.seed)
                job = {"kind": "kernels", "file": file, "network": network, "seconds": 0.1}
                jobs.append((system, job))
        plan[name] = jobs
    return plan


def _quick(folder: Path) -> dict[str, list[tuple[str, dict]]]:
    """Some of everything, with hardly any work."""
    system, file = RACES[3], folder / "system.npz"
    write_system(system, file)
    race = _race(system, str(file)) | {"seconds": 0.02}
    steps = [(case, job | {"epochs": 1}) for case, job in _steps(24, (8,), 0.0)]
    plan = {name: [*steps, (system, race)] for name in CONTENDERS[:2]}
    small: dict[str, Any] = {"kind": "machine", "gib": 0.01, "size": 256, "seconds": 0.01}
    kernels = {**race, "kind": "kernels", "seconds": 0.0}
    plan["ours"] = [("", small), *plan["ours"], (system, kernels)]
    return plan


def _race(name: str, file: str) -> dict:
    return {"kind": "race", "network": NETWORKS[SYSTEMS[name][0]], "file": file}


def _steps(
    molecules: int, sizes: tuple[int, ...], seconds: float, workers: int = 0
) -> list[tuple[str, dict]]:
    network = NETWORKS["paper"]
    shared: dict[str, Any] = {"kind": "steps", "data": None, "network": network}
    shared["molecules"] = molecules
    shared |= {"seconds": seconds, "warm_up": 1, "workers": workers}
    return [
        (f"batch {size}, {what}", shared | {"batch_size": size, "forces": forces})
        for what, forces in STEPS.items()
        for size in sizes
    ]


def _enter(results: dict[str, Any], name: str, where: str, job: dict, found: dict) -> None:
    """Puts the result of a job into its place."""
    if "about" in found:
        results["about"][name] = found.pop("about")
    if job["kind"] == "machine":
        results["machine"] = found
    elif job["kind"] == "kernels":
        results["kernels"][where] = found
    elif job["kind"] == "steps":
        entrant = name + (f", {job['workers']} workers" if job["workers"] else "")
        results["steps"].setdefault(where, {})[entrant] = found
    else:
        if "failure" in found:
            found = {"tasks": dict.fromkeys(TASKS, found)}
        results["systems"].setdefault(where, {})[name] = found["tasks"]


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results."""
    words = f"--contenders {' '.join(args.contenders)} --seconds {args.seconds:g}"
    return command_line(args, "speed", f"--device {args.device}", words, f"--seed {args.seed}")
