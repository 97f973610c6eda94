r"""The race: every implementation of SchNet on the same systems, with the same edges, in one run.

Each contender runs in a process of its own, in turn, for several rounds; the medians of single
calls are compared. All run as installed and tuned: with denormal numbers flushed to zero, which can
make Gaussians far from their centre five times as fast, and freed memory kept in the process.

With ``--device`` the race is another one, see :mod:`device.speed`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from device import speed as device_speed
from device.options import add_device_options
from environment import command_line, environment
from peers.processes import (
    add_python_option,
    call_worker,
    installed,
    read_pythons,
    without_paths,
)
from report import save_report, spread
from speed_report import as_markdown, draw
from systems import NETWORKS, SYSTEMS, write_system
from tqdm import tqdm
from worker import RACERS

SUMMARY = "time and memory of inference and training beside PyG, SchNetPack and graph-pes"
TASKS = ("forward", "energies + forces", "energy step", "energy + force step")
HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: two systems, tuned, one round"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="per task and round (default: 3)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="turns of each contender (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of molecules and labels")
    add_device_options(parser, "race PyG, eager and compiled, there; else all peers on the CPU")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=device_speed.CONTENDERS,
        default=list(device_speed.CONTENDERS),
        help="on a device: which (default: all)",
    )
    add_python_option(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the race and writes the results."""
    if args.device is not None:
        device_speed.run(args)
        return
    pythons = read_pythons(args)
    systems = list(SYSTEMS)
    if args.quick:
        systems, args.seconds, args.rounds = [systems[0], systems[3]], 0.3, 1
    versions = (True,) if args.quick else (False, True)
    entrants = [(name, tuned) for name in installed(RACERS, pythons) for tuned in versions]
    results: dict = {"environment": environment(), "command": _command(args), "seed": args.seed}
    results["systems"] = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(s, e) for s in systems for _ in range(args.rounds) for e in entrants]
        for name in systems:
            size = write_system(name, Path(folder) / f"{systems.index(name)}.npz", args.seed)
            results["systems"][name] = {"size": size, "entrants": {}}
        for name, entrant in tqdm(jobs, desc="race", disable=not sys.stderr.isatty()):
            file = Path(folder) / f"{systems.index(name)}.npz"
            measured = _work(name, entrant, file, args.seconds, pythons)
            _add(results["systems"][name]["entrants"], entrant, measured)
    _summarise(results)
    path = args.json or (None if args.quick else HERE / "results" / "speed.json")
    save_report(results, path, as_markdown, draw)


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results, without paths of this machine."""
    words = f"--seconds {args.seconds:g} --rounds {args.rounds} --seed {args.seed}"
    return command_line(args, "speed", words, *without_paths(args))


def _work(
    system: str, entrant: tuple[str, bool], file: Path, seconds: float, pythons: dict[str, str]
) -> dict:
    name, tuned = entrant
    network = json.dumps(NETWORKS[SYSTEMS[system][0]])
    arguments = [name, network, str(file), str(seconds)] + (["--tuned"] if tuned else [])
    done = call_worker("worker.py", name, arguments, pythons)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed on {system}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _add(entrants: dict, entrant: tuple[str, bool], measured: dict) -> None:
    name, tuned = entrant
    entry = entrants.setdefault(
        name + (", tuned" if tuned else ""), {"about": measured["about"], "tasks": {}}
    )
    for task, values in measured["tasks"].items():
        known = entry["tasks"].setdefault(task, {"times_ms": [], "rounds_ms": []})
        known["times_ms"] += values["times_ms"]
        known["rounds_ms"].append(statistics.median(values["times_ms"]))
        for name in ("memory_mb", "first_ms", "product_gflop"):
            known[name] = max(known.get(name, 0.0), values[name])


def _summarise(results: dict) -> None:
    """Medians and quartiles in place of single times, and ratios to the fastest peer."""
    for system in results["systems"].values():
        for entry in system["entrants"].values():
            for values in entry["tasks"].values():
                times = values.pop("times_ms")
                values |= spread(times) | {"calls": len(times)}
        # Everybody at their best: tuned peers against tuned ours.
        peers = [
            entry
            for name, entry in system["entrants"].items()
            if not name.startswith("ours") and name.endswith(", tuned")
        ]
        ours = system["entrants"]["ours, tuned"]["tasks"]
        system["speedup"] = {task: _speedup(task, ours, peers) for task in TASKS if peers}


def _speedup(task: str, ours: dict, peers: list[dict]) -> dict:
    """Ratio to the fastest peer by medians of all calls, and those of single rounds."""
    times = [peer["tasks"][task] for peer in peers]
    rounds = zip(ours[task]["rounds_ms"], *(t["rounds_ms"] for t in times))
    return {
        "median": min(t["median_ms"] for t in times) / ours[task]["median_ms"],
        "rounds": [min(theirs) / mine for mine, *theirs in rounds],
    }
