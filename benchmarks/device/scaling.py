r"""Time and memory of energies and forces on a device, from 100 to a million atoms of water.

A contender works on one size after the other in one process, until it runs out of memory or time.
Peers are given their edges; ours is timed both ways.
"""

import argparse
import tempfile
from pathlib import Path

import scaling
from environment import command_line
from report import save_report
from systems import NETWORKS, write_water

from device.launch import run_jobs
from device.options import begin, device_file, share_of

SIZES = (*scaling.SIZES, 316_228, 1_000_000)
# Contenders, and their shares of the time.
CONTENDERS = {"ours": 3.0, "ours_edges": 1.0, "pyg": 2.0}


def run(args: argparse.Namespace) -> None:
    """Measures all sizes and writes the results."""
    results, deadline = begin(args, _command(args))
    if args.quick:
        args.largest, args.seconds = min(args.largest, 316), min(args.seconds, 0.02)
    contenders = ["ours", "pyg"] if args.quick else list(CONTENDERS)
    sizes = [size for size in SIZES if size <= args.largest]
    network = NETWORKS[scaling.NETWORK]
    results |= {"patience_s": args.patience, "about": {}, "systems": []}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{size}.npz" for size in sizes]
        for size, file in zip(sizes, files):
            about = write_water(size, file, None, args.seed)
            results["systems"].append({"size": about, "entrants": {}})
        for k, entrant in enumerate(contenders):
            name = entrant.removesuffix("_edges")
            job = {"kind": "scale", "network": network, "edges": entrant != "ours"}
            job |= {"seconds": args.seconds, "patience": args.patience + 60.0, "ladder": True}
            jobs = [job | {"file": str(file)} for file in files]
            until = share_of(deadline, [CONTENDERS[other] for other in contenders[k:]])
            for system, found in zip(results["systems"], run_jobs(name, jobs, args.device, until)):
                results["about"].setdefault(entrant, found.pop("about", None))
                if "edges" in found:
                    system["size"]["edges"] = found.pop("edges")
                if "median_ms" in found:
                    atoms = system["size"]["atoms"]
                    found["atom_steps_per_s"] = 1e3 * atoms / found["median_ms"]
                system["entrants"][entrant] = found
                if "failure" in found:
                    break
            print(f"{entrant}: {len(jobs)} sizes", flush=True)
    results["about"] = {name: of for name, of in results["about"].items() if of is not None}
    for entrant in scaling.ENTRANTS:
        results.setdefault("exponents", {})[entrant] = scaling.exponents(results, entrant)
    save_report(results, device_file(args, "scaling"), scaling.as_markdown, scaling.draw)


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results."""
    words = f"--largest {args.largest} --seconds {args.seconds:g} --patience {args.patience:g}"
    return command_line(args, "scaling", f"--device {args.device}", words, f"--seed {args.seed}")
