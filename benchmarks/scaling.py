r"""Time and memory of energies and forces, from 100 to 100,000 atoms of liquid water.

Every contender works on every size in a process of its own, until it runs out of memory or of time.
All run tuned: denormal numbers are flushed to zero and freed memory is kept in the process. Peers
are given their edges, as they have no search that could be compared; ours is timed both ways.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from device.options import add_device_options
from environment import command_line, environment
from peers.processes import (
    add_python_option,
    call_worker,
    installed,
    read_pythons,
    without_paths,
)
from report import origin, save_report, spread, timing
from systems import NETWORKS, write_water
from tqdm import tqdm

SUMMARY = "time and memory of energies + forces from 100 to 100,000 atoms"
NETWORK = "128/3/20/5"
SIZES = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
ENTRANTS = {
    "ours": "pyg-schnet, neighbours searched",
    "ours_edges": "pyg-schnet, edges given",
    "pyg": "PyG, edges given",
    "schnetpack": "SchNetPack, edges given",
    "graph_pes": "graph-pes, edges given",
}
# How sizes share processes, on the CPU and on a device.
_PLACES = ("Every size in a process of its own, tuned", "All sizes in one process")
HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: to 3,162 atoms, PyG the only peer"
    )
    parser.add_argument(
        "--largest",
        type=int,
        help="skip larger systems (default: 100000 atoms, 1000000 on a device)",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="per contender and size (default: 3)"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, help="longest call, in seconds (default: 60)"
    )
    parser.add_argument(
        "--memory", type=float, default=12.0, help="limit for each process, in GiB (default: 12)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the systems")
    add_device_options(parser, "to a million atoms there, beside PyG; else all peers on the CPU")
    add_python_option(parser)


def run(args: argparse.Namespace) -> None:
    """Measures all sizes and writes the results."""
    if args.largest is None:
        args.largest = 100_000 if args.device is None else 1_000_000
    if args.device is not None:
        from device import scaling as device_scaling

        device_scaling.run(args)
        return
    pythons = read_pythons(args)
    if args.quick:
        args.largest, args.seconds = min(args.largest, 3_162), min(args.seconds, 0.3)
        entrants = ["ours", "pyg"]
    else:
        entrants = ["ours", "ours_edges", *installed(["pyg", "schnetpack", "graph_pes"], pythons)]
    sizes = [size for size in SIZES if size <= args.largest]
    if not sizes:
        raise SystemExit(
            f"--largest: the smallest system has {SIZES[0]} atoms (got {args.largest})"
        )
    results: dict = {"environment": environment(), "command": _command(args), "seed": args.seed}
    results |= {"patience_s": args.patience, "memory_gib": args.memory, "about": {}, "systems": []}
    jobs = tqdm(total=len(sizes) * len(entrants), desc="scaling", disable=not sys.stderr.isatty())
    with jobs, tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            file = Path(folder) / "system.npz"
            about = write_water(size, file, NETWORKS[NETWORK]["cutoff"], args.seed)
            system: dict = {"size": about, "entrants": {}}
            for entrant in list(entrants):
                measured = _work(entrant, file, args, pythons)
                if "about" in measured:
                    results["about"][entrant] = measured.pop("about")
                system["entrants"][entrant] = measured
                if "failure" in measured:
                    entrants.remove(entrant)
                jobs.update()
            results["systems"].append(system)
    results["exponents"] = {entrant: exponents(results, entrant) for entrant in ENTRANTS}
    path = args.json or (None if args.quick else HERE / "results" / "scaling.json")
    save_report(results, path, as_markdown, draw)


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results, without paths of this machine."""
    words = [f"--largest {args.largest} --seconds {args.seconds:g} --patience {args.patience:g}"]
    words += [f"--memory {args.memory:g} --seed {args.seed}"]
    return command_line(args, "scaling", *words, *without_paths(args))


def _work(entrant: str, file: Path, args: argparse.Namespace, pythons: dict[str, str]) -> dict:
    """Median and quartiles of the time, and the memory; or why there are none."""
    name = entrant.removesuffix("_edges")
    arguments = [entrant, json.dumps(NETWORKS[NETWORK]), str(file)]
    arguments += [str(args.seconds), str(args.patience), str(args.memory)]
    done = call_worker("scaling_worker.py", name, arguments, pythons)
    if done.returncode == -signal.SIGALRM:
        return {"failure": f"over {args.patience:g} s"}
    if done.returncode == 0:
        measured = json.loads(done.stdout.splitlines()[-1])
    elif done.returncode == -signal.SIGKILL or "bad_alloc" in done.stderr:
        # The system ends processes that take too much; some libraries end themselves.
        measured = {"failure": "out of memory"}
    else:
        raise SystemExit(f"{entrant} failed:\n{done.stderr}")
    if "failure" in measured:
        return measured | {"failure": f"{measured['failure']} (limit {args.memory:g} GiB)"}
    times = measured.pop("times_ms")
    return measured | spread(times) | {"calls": len(times)}


def exponents(results: dict, entrant: str) -> dict[str, float]:
    """Slopes of time and memory over atoms, both as logarithms, from 1,000 atoms on."""
    slopes = {}
    for key in ("median_ms", "memory_mb"):
        atoms, values = _points(results, entrant, key)
        large = atoms >= 1_000
        if large.sum() > 1 and (values[large] > 0).all():
            slope = np.polyfit(np.log(atoms[large]), np.log(values[large]), 1)[0]
            slopes[key] = float(slope)
    return slopes


def _points(results: dict, entrant: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of atoms, and what was measured with them."""
    pairs = [
        (system["size"]["atoms"], values[key])
        for system in results["systems"]
        if key in (values := system["entrants"].get(entrant, {}))
    ]
    atoms, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return atoms, values


def as_markdown(results: dict) -> str:
    """A table of times and one of memory, with a row for each size."""
    versions = ", ".join(
        f"{ENTRANTS[entrant].split(',')[0]} {of['version']} (torch {of['torch']})"
        for entrant, of in results["about"].items()
        if entrant != "ours_edges"
    )
    network = NETWORKS[NETWORK]
    lines = ["# Scaling", ""]
    lines += [f"{origin(results)} {versions}.", ""]
    lines += [
        "Energies and forces of periodic boxes of water, 0.1 atoms per cubic angstrom, by a",
        f"network of {network['features']} features, {network['blocks']} blocks, "
        f"{network['gaussians']} Gaussians and a cutoff of {network['cutoff']:g} A.",
        f"{_PLACES['device' in results]}; a contender that fails is not tried on larger",
        "systems.",
        "",
        "## Median time of a call [quartiles]",
        "",
        *_table(results, _time, "median_ms"),
        "",
        "## Peak memory beyond what the process had before the first call",
        "",
        *_table(results, _memory, "memory_mb"),
    ]
    if "device" in results:
        lines += ["", "## Atoms times steps per second", "", *_rates(results)]
    return "\n".join(lines) + "\n"


def _table(results: dict, cell: Any, key: str) -> list[str]:
    entrants = [entrant for entrant in ENTRANTS if entrant in results["systems"][0]["entrants"]]
    heads = ["atoms", "edges", *(ENTRANTS[entrant] for entrant in entrants)]
    lines = ["| " + " | ".join([*heads, "best peer / pyg-schnet, searched"]) + " |"]
    lines.append("|" + "---|" * (len(heads) + 1))
    for system in results["systems"]:
        of = system["entrants"]
        cells = [f"{system['size'].get(name, 0):,}" for name in ("atoms", "edges")]
        for entrant in entrants:
            values = of.get(entrant)
            cells.append("" if values is None else values.get("failure") or cell(values))
        best = min((of[e][key] for e in of if not e.startswith("ours") and key in of[e]), default=0)
        ratio = best / of["ours"][key] if of.get("ours", {}).get(key, 0) > 0 else 0
        lines.append("| " + " | ".join([*cells, f"**{ratio:.1f}x**" if ratio else ""]) + " |")
    slopes = [results["exponents"][entrant].get(key) for entrant in entrants]
    cells = ["" if slope is None else f"N^{slope:.2f}" for slope in slopes]
    lines.append("| " + " | ".join(["growth from 1,000 atoms on", "", *cells, ""]) + " |")
    return lines


def _rates(results: dict) -> list[str]:
    """A table of the rates of dynamics that these times allow."""
    entrants = [entrant for entrant in ENTRANTS if entrant in results["systems"][0]["entrants"]]
    lines = ["| " + " | ".join(["atoms", *(ENTRANTS[entrant] for entrant in entrants)]) + " |"]
    lines.append("|---|" + "---|" * len(entrants))
    for system in results["systems"]:
        of = system["entrants"]
        rates = [of.get(entrant, {}).get("atom_steps_per_s") for entrant in entrants]
        cells = ["" if rate is None else f"{1e-6 * rate:.3g} million" for rate in rates]
        lines.append("| " + " | ".join([f"{system['size']['atoms']:,}", *cells]) + " |")
    return lines


def _time(values: dict) -> str:
    scale, unit = (1.0, "ms") if values["median_ms"] < 1000 else (1e-3, "s")
    return timing(values, scale, unit)


def _memory(values: dict) -> str:
    megabytes = values["memory_mb"]
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.2f} GiB"


def draw(results: dict) -> Any:
    """Time and memory over the number of atoms, with their slopes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=120, layout="constrained")
    panels = zip(figure.subplots(1, 2), ("median_ms", "memory_mb"), ("time, ms", "memory, MB"))
    for axes, key, unit in panels:
        lows, atoms = [], np.empty(0)
        for k, (entrant, name) in enumerate(ENTRANTS.items()):
            places, values = _points(results, entrant, key)
            places, values = places[values > 0], values[values > 0]
            if not len(places):
                continue
            slope = results["exponents"][entrant].get(key)
            label = name + ("" if slope is None else f": $N^{{{slope:.2f}}}$")
            last = [s["entrants"][entrant] for s in results["systems"] if entrant in s["entrants"]]
            if why := last[-1].get("failure"):
                label += f", then {why.split(' (')[0]}"
            color = "C3" if entrant.startswith("ours") else f"C{k + 2}"
            style = "o--" if entrant == "ours_edges" else "o-"
            axes.plot(places, values, style, color=color, label=label, markersize=4)
            lows.append(values[-1] / places[-1])
            atoms = np.union1d(atoms, places)
        if lows:
            guide = 0.4 * min(lows) * atoms[[0, -1]]
            axes.plot(atoms[[0, -1]], guide, ":", color="grey", label="slope 1", zorder=0)
        axes.set(xscale="log", yscale="log", xlabel="atoms N", ylabel=unit)
        axes.grid(alpha=0.3)
        if lows:
            axes.legend(fontsize=8, frameon=False)
    return figure
