r"""What the ``fast`` preset is made of: one change at a time, all for the same cost.

Every run may spend the same processor time in its steps. The time of a step is measured once for
each size of batches, and kept in the folder of the runs; from then on the number of steps is fixed,
and results do not depend on what else the machine does.

    python benchmarks/run.py recipes --md17 data/MD17 --qm9 qm9.npz --seconds 150
    python benchmarks/run.py recipes --md17 data/MD17 --tasks forces --only "batch 4" "lr 4e-3"

Without ``--md17`` and ``--qm9`` the samples of the package are learned. Runs that were stopped go
on, those that are done are not run again unless ``--again`` asks for it.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import torch
from md17_data import open_frames
from rows import (
    Parts,
    add_row_arguments,
    command,
    folder_of,
    made_by,
    results_file,
    run_once,
    validations,
    write_rows,
)

from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import MD17Sample, MoleculeDataset, QM9Sample
from pyg_schnet.storage import write_atomically
from pyg_schnet.training import TrainConfig, fit

SUMMARY = "the experiments behind TrainConfig.fast: one change at a time, for the same cost"
TASKS = ("forces", "energies")
# What is changed below; all else is as in the paper, its network included.
BASE: dict[str, Any] = {
    "batch_size": 16,
    "lr": 8e-3,
    "schedule": "cosine",
    "ema_decay": 0.999,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "as in the paper": {"batch_size": 32, "lr": 1e-3, "schedule": "exponential", "ema_decay": 0.99},
    "lr 2e-3": {"lr": 2e-3},
    "lr 4e-3": {"lr": 4e-3},
    "lr 16e-3": {"lr": 16e-3},
    "warm-up": {"warmup_steps": 1_000},
    "lr 16e-3, warm-up": {"lr": 16e-3, "warmup_steps": 1_000},
    "clipping": {"clip_norm": 100.0},
    "lr 16e-3, clipping": {"lr": 16e-3, "clip_norm": 100.0},
    "clip ratio": {"clip_ratio": 1.5},
    "lr 4e-3, clip ratio": {"lr": 4e-3, "clip_ratio": 1.5},
    "lr 4e-3, clip ratio, batch 32": {"lr": 4e-3, "clip_ratio": 1.5, "batch_size": 32},
    "lr 2e-3, clip ratio, batch 32": {"lr": 2e-3, "clip_ratio": 1.5, "batch_size": 32},
    "l1, lr 4e-3, clip ratio": {"loss": "l1", "lr": 4e-3, "clip_ratio": 1.5},
    "batch 4": {"batch_size": 4},
    "batch 8": {"batch_size": 8},
    "batch 32": {"batch_size": 32},
    "exponential": {"schedule": "exponential"},
    "EMA 0.99": {"ema_decay": 0.99},
    "EMA 0.9997": {"ema_decay": 0.9997},
    "no EMA": {"ema_decay": 0.0},
    "weight decay": {"weight_decay": 0.01},
    "l1": {"loss": "l1"},
    "l1, lr 4e-3": {"loss": "l1", "lr": 4e-3},
    "l1, lr 16e-3": {"loss": "l1", "lr": 16e-3},
    "l1, batch 8": {"loss": "l1", "batch_size": 8},
    "huber": {"loss": "huber"},
}
# Weights of the energy, beside 1 of the forces; 0.01 is the paper's.
OF_FORCES: dict[str, dict[str, Any]] = {
    "rho 0.001": {"energy_weight": 0.001},
    "rho 0.1": {"energy_weight": 0.1},
    "rho 1": {"energy_weight": 1.0},
    "l1, rho 0.1": {"loss": "l1", "energy_weight": 0.1},
    "l1, rho 1": {"loss": "l1", "energy_weight": 1.0},
}
BATCH_SIZES = (4, 8, 16, 32)
VALIDATIONS = 12
CUTOFF = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    names = [*VARIANTS, *OF_FORCES]
    add_row_arguments(parser, "recipes", quick="two recipes, a few steps each", budget=None)
    parser.add_argument("--md17", type=Path, help="folder of md17_ethanol.npz, for the forces")
    parser.add_argument(
        "--qm9", type=Path, help="npz file for the energies: n_atoms [M], Z, R and U0 in Hartree"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--only", nargs="*", default=names, choices=names, metavar="NAME")
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="processor time of a run's steps (default 150)"
    )


def run(args: argparse.Namespace) -> None:
    """Runs all variants that are asked for, and writes the results after each."""
    path = results_file(args, "recipes")
    if args.quick:
        with TemporaryDirectory() as folder:
            args.directory, args.seconds, args.only = Path(folder), 0.5, ["base", "batch 32"]
            write_rows(all_rows(args), path, as_markdown, draw)
    else:
        write_rows(all_rows(args), path, as_markdown, draw)


def all_rows(args: argparse.Namespace) -> Iterator[dict[str, dict]]:
    """Every task with every variant that it has."""
    for task in args.tasks:
        forces = task == "forces"
        variants = VARIANTS | (OF_FORCES if forces else {})
        wanted = [name for name in variants if name in args.only]
        if not wanted:
            continue
        data, label, parts = read_forces(args) if forces else read_energies(args)
        for name in wanted:
            yield run_variant(args, task, name, variants[name], data, label, parts)


def read_forces(args: argparse.Namespace) -> tuple[str, str, Parts]:
    """Ethanol: 1,000 frames to train on, original labels where there are any."""
    if args.md17 is None:
        sample = MD17Sample("ethanol", cutoff=CUTOFF)
        parts = Parts(*random_split(sample, [900, 100, -1], args.seed))
        return "MD17Sample, ethanol", "energy", parts
    dataset = open_frames(args.md17, "ethanol")
    return "MD17, ethanol", "energy", Parts(*random_split(dataset, [1_000, 1_000, -1], args.seed))


def read_energies(args: argparse.Namespace) -> tuple[str, str, Parts]:
    """U0 of QM9: of 10,000 molecules, where there are as many."""
    if args.qm9 is None:
        sample = QM9Sample(targets=["U0"], units="kcal/mol", cutoff=CUTOFF)
        return "QM9Sample, U0", "U0", Parts(*random_split(sample, [2_400, 200, -1], args.seed))
    with np.load(args.qm9) as arrays:
        names = ("n_atoms", "Z", "R", "U0")
        whole = {name: arrays[name] for name in names}
        usable = ~arrays["uncharacterized"] if "uncharacterized" in arrays else None
    chosen = np.arange(len(whole["U0"])) if usable is None else np.flatnonzero(usable)
    # Twenty thousand of them, in an order that does not depend on the split.
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:20_000])
    dataset = MoleculeDataset.from_arrays(
        whole,
        labels={"energy": "U0"},
        units={"energy": "Hartree"},
        energy="kcal/mol",
        keep=chosen,
        cutoff=CUTOFF,
    )
    parts = Parts(*random_split(dataset, [10_000, 1_000, -1], args.seed))
    return "QM9, U0", "energy", parts


def run_variant(
    args: argparse.Namespace,
    task: str,
    name: str,
    changes: dict[str, Any],
    data: str,
    label: str,
    parts: Parts,
) -> dict[str, dict]:
    """One row of the table, by its name."""
    config = TrainConfig.paper(
        forces=task == "forces", label=label, seed=args.seed, **(BASE | changes)
    )
    turns = 1 if args.quick else 5
    costs = step_costs(args.directory / "costs.json", data, config, parts, turns)
    cost = costs[str(config.batch_size)]
    steps = max(1, round(args.seconds / cost))
    often = validations(len(parts.train), config.batch_size, steps // VALIDATIONS)
    config = replace(config, max_steps=steps, **often)
    key = f"{data}, {name}, {args.seconds:g} s, seed {args.seed}"
    print(f"{key}: {steps:,} steps of {1e3 * cost:.2f} ms", flush=True)
    torch.manual_seed(args.seed)
    result = run_once(folder_of(args, key), network(), parts, config, again=args.again)
    row = {"data": data, "name": name, "changes": changes, "budget_s": args.seconds}
    row |= {"seed": args.seed, "step_cost_ms": 1e3 * cost, "command": command_of(args, task)}
    return {key: row | result}


def network() -> SchNet:
    """The network of the paper."""
    return SchNet.paper(units="kcal/mol")


def step_costs(
    file: Path, data: str, config: TrainConfig, parts: Parts, turns: int
) -> dict[str, float]:
    """Processor seconds of a training step by size of batches, measured once.

    Loading and averaging of weights are included. It is the shortest of several turns, since other
    programs can only make it longer.

    Args:
        file: Where measured times are kept.
        data: The name of the data there.
        config: Settings; the size of batches is varied.
        parts: Molecules.
        turns: How often to measure.
    """
    known = json.loads(file.read_text()) if file.exists() else {}
    if data not in known:
        few = parts.val[:8]

        def spent(size: int, steps: int) -> float:
            often = validations(len(parts.train), size, 10**6)
            begin = process_time()
            settings = replace(config, batch_size=size, max_steps=steps, **often)
            fit(network(), parts.train, few, settings)
            return process_time() - begin

        spent(BATCH_SIZES[0], 20)  # compiles
        times = [
            {size: (spent(size, 20), spent(size, 120)) for size in BATCH_SIZES}
            for _ in range(turns)
        ]
        known[data] = {}
        for size in BATCH_SIZES:
            short, long = (min(turn[size][i] for turn in times) for i in (0, 1))
            known[data][str(size)] = (long - short) / 100
        write_atomically(file, json.dumps(known, indent=1).encode())
    return known[data]


def command_of(args: argparse.Namespace, task: str) -> str:
    """The command that makes the rows of a task."""
    file = args.md17 if task == "forces" else args.qm9
    source = "" if file is None else ("--md17 ..." if task == "forces" else f"--qm9 {file.name}")
    words = f"--tasks {task} --seconds {args.seconds:g} --seed {args.seed}"
    return command(args, "recipes", source, words)


def as_markdown(results: dict) -> str:
    """A table for each set of data and budget."""
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    lines = ["# Recipes", ""]
    lines += [
        "The network of the paper, trained by changes of one recipe, the base, for the same cost:",
        "as many steps as fit into the processor time of the budget, by the time of a step that",
        "was measured once for each size of batches (loading and averaging of weights included,",
        "validation not). Test MAE, and how it compares with that of the base with the same seed.",
        "Differences of a few per cent mean nothing without several seeds.",
        "",
        f"Base: {base}; else as in the paper.",
    ]
    for (data, budget), rows in grouped(results["rows"]).items():
        forces = rows[0]["config"]["force_weight"] > 0
        sizes = ", ".join(f"{size:,} {name}" for name, size in rows[0]["sizes"].items())
        lines += ["", f"## {data}, {budget:g} s", "", f"{sizes}; {rows[0]['threads']} thread.", ""]
        heads = ["change", "seed", "batch", "ms a step", "steps", "energy, kcal/mol"]
        heads += ["forces, kcal/mol/A", "forces / base"] if forces else ["energy / base"]
        lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        lines += [_line(row, rows, forces) for row in rows]
        done = {row["name"] for row in rows}
        missing = [n for n in VARIANTS | (OF_FORCES if forces else {}) if n not in done]
        lines += ["", f"Not run: {'; '.join(missing) or 'nothing'}."]
        named = {f"{row['name']} ({row['seed']})": row for row in rows}
        lines += ["", "Made by, with the seed in brackets:", "", *made_by(named)]
    return "\n".join(lines) + "\n"


def grouped(rows: dict[str, dict]) -> dict[tuple[str, float], list[dict]]:
    """Rows that can be compared, in the order of the variants."""
    order = [*VARIANTS, *OF_FORCES]
    groups: dict[tuple[str, float], list[dict]] = {}
    for row in rows.values():
        groups.setdefault((row["data"], row["budget_s"]), []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: (order.index(row["name"]), row["seed"]))
    return groups


def _line(row: dict, rows: list[dict], forces: bool) -> str:
    error = "force_mae" if forces else "energy_mae"
    base = [r for r in rows if r["name"] == "base" and r["seed"] == row["seed"]]
    cells = [row["name"], str(row["seed"]), str(row["config"]["batch_size"])]
    cells += [f"{row['step_cost_ms']:.2f}", f"{row['config']['max_steps']:,}"]
    if "failure" in row:
        cells += [row["failure"]] + [""] * (1 + forces)
    else:
        cells += [f"{row['test']['energy_mae']:.3f}"]
        cells += [f"{row['test']['force_mae']:.3f}"] if forces else []
        known = base and "failure" not in base[0]
        cells += [f"{row['test'][error] / base[0]['test'][error]:.2f}" if known else ""]
    return f"| {' | '.join(cells)} |"


def draw(results: dict) -> Any:
    """Bars of the errors, one panel for each set of data, budget and kind of error."""
    from matplotlib.figure import Figure

    panels = []
    for (data, budget), rows in grouped(results["rows"]).items():
        done = [row for row in rows if "failure" not in row]
        for error in ("force_mae", "energy_mae"):
            if done and error in done[0]["test"]:
                panels.append((f"{data}, {budget:g} s", error, done))
    height = max([len(rows) for _, _, rows in panels] or [1])
    width = max(1, len(panels))
    figure = Figure(figsize=(5 * width, 1.2 + 0.3 * height), dpi=120, layout="constrained")
    for axes, (title, error, rows) in zip(figure.subplots(1, width, squeeze=False)[0], panels):
        values = [row["test"][error] for row in rows]
        names = [row["name"] + (f" ({row['seed']})" if row["seed"] else "") for row in rows]
        colors = ["C3" if row["name"] == "base" else "C0" for row in rows]
        axes.barh(range(len(rows)), values, color=colors)
        # Those that learned nothing would leave no room for the others.
        limit = min(max(values), 2.5 * statistics.median(values)) * 1.15
        for place, value in enumerate(values):
            inside = min(value, 0.88 * limit)
            axes.annotate(f" {value:.3f}", (inside, place), va="center", fontsize=7)
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.invert_yaxis()
        unit = "forces, MAE, kcal/mol/Å" if error == "force_mae" else "energy, MAE, kcal/mol"
        axes.set(title=title, xlabel=unit, xlim=(0, limit))
    return figure
