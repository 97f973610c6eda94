r"""Whole epochs of ``fit`` on a device, on as many molecules as the paper trains on.

Steps are packed, and captured on a GPU. What comes before the first step, which is to find all
edges and to move the molecules to the device, is told beside them.
"""

import argparse
from typing import Any

from environment import command_line
from loader import source_words
from report import origin, save_report, timing
from systems import NETWORKS

from device.launch import run_jobs
from device.options import PATIENCE, begin, device_file
from device.report import summarise

MOLECULES = 110_462  # of the paper's training set
BATCH_SIZES = (100, 32)


def run(args: argparse.Namespace) -> None:
    """Times all batch sizes and writes the results."""
    if args.root is not None:
        raise SystemExit("--root: on a device molecules come from --data, or from the sample")
    sizes = (8,) if args.quick else BATCH_SIZES
    args.molecules = 24 if args.quick else args.molecules
    results, deadline = begin(args, _command(args))
    rates: dict[str, Any] = {"kind": "machine", "gib": 1.0, "size": 8192, "seconds": 0.2}
    if args.quick:
        rates |= {"gib": 0.01, "size": 256}
    job: dict[str, Any] = {
        "kind": "steps",
        "data": None if args.data is None else str(args.data),
        "epochs": 1,
    }
    job |= {"molecules": args.molecules, "forces": False, "network": NETWORKS["paper"]}
    job |= {"seconds": 0.0, "warm_up": 1, "workers": 0, "patience": 4 * PATIENCE}
    jobs = [rates | {"patience": PATIENCE}] + [job | {"batch_size": size} for size in sizes]
    machine, *found = run_jobs("ours", jobs, args.device, deadline)
    steps = {f"batch {size}": {"ours": times} for size, times in zip(sizes, found)}
    results |= {"machine": machine, "steps": steps, "systems": {}, "kernels": {}}
    summarise(results)
    save_report(results, device_file(args, "epoch"), as_markdown, draw)


def as_markdown(results: dict) -> str:
    """A table with a row for each batch size."""
    lines = [
        f"# An epoch of training on {results['device']}",
        "",
        origin(results),
        "",
        "The network of the paper on energies, by `fit`: packed steps with moving average, and a",
        "validation of one molecule after each epoch. *Before*: seconds from the call to the first",
        "step, in which the edges are found. *Floor*: what the bytes and operations of the steps",
        "take at the rates of a copy and of a matrix product, and their share.",
        "",
        "| | molecules | epoch, s | step, ms [quartiles] | molecules/s | before, s | floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, entrants in results["steps"].items():
        values = entrants["ours"]
        if "failure" in values:
            lines.append(f"| {case} | {values['failure']} | | | | | |")
            continue
        cells = [f"{values['molecules']:,}", f"**{values['epoch_s']:.3g}**"]
        cells.append(timing(values))
        cells.append(f"{values['molecules'] / values['epoch_s']:,.0f}")
        cells.append(f"{values['before_s']:.3g}")
        reached = values.get("reached")
        share = "" if reached is None else f"{reached['of_floor']:.0%}"
        lines.append(f"| {case} | " + " | ".join([*cells, share]) + " |")
        lines += [f"| warned: {warning} | | | | | | |" for warning in values["warnings"]]
    return "\n".join(lines) + "\n"


def draw(results: dict) -> Any:
    """Bars of the seconds of an epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    steps = results["steps"]
    axes.bar(list(steps), [entrants["ours"].get("epoch_s", 0.0) for entrants in steps.values()])
    axes.set(ylabel="seconds per epoch")
    return figure


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results, without paths of this machine."""
    words = [*source_words(args), f"--molecules {args.molecules}"]
    return command_line(args, "epoch", f"--device {args.device}", *words)
