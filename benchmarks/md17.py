r"""MD17: energies and forces learned from frames of a trajectory, beside Table 2 of the paper.

    python benchmarks/run.py md17 --root data/MD17 --molecules ethanol aspirin --budget 20m
    python benchmarks/run.py md17 --root data/MD17 --molecules ethanol --rows dtnn --num-train 50000
    python benchmarks/run.py md17 --root data/MD17 --molecules ethanol --rows gdml sgdml \
        --python sgdml=/path/to/its/python --memory 14
    python benchmarks/run.py md17 --root data/MD17 --molecules ethanol --labels revised --split 1

The network of the paper, by its protocol and by our fast preset, learns energies alone or with
forces, DTNN energies alone; GDML and sGDML, by the package ``sgdml`` in an environment of its own,
learn forces, and energies as their integral. All are tested with the same frames.

Every row is kept: others are added by later commands. A row that was stopped goes on when the
command is given again (a kernel begins anew); one that is done is not run again, unless ``--again``
asks for it. Without ``--molecules`` only the tables are written anew.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from baselines.dtnn import DTNN
from environment import commit, environment
from md17_data import (
    CUTOFF,
    OFFICIAL,
    OFFICIAL_VAL,
    Source,
    mean_predictor,
    open_sample,
    open_source,
)
from md17_kernels import KERNELS, run_kernel
from md17_report import MOLECULES, as_markdown, draw
from peers.processes import add_python_option, installed, read_pythons, without_paths
from rows import (
    add_row_arguments,
    budget,
    command,
    errors,
    home_of,
    results_file,
    run_once,
    validations,
    write_rows,
)

from pyg_schnet import SchNet
from pyg_schnet.training import TrainConfig

SUMMARY = "energies and forces of MD17 beside the paper's Table 2, with DTNN, GDML and sGDML"
TASKS = ("energies", "forces")
# What each method can learn; "forces" are learned with energies.
METHODS = {"paper": TASKS, "fast": TASKS, "dtnn": TASKS[:1], "gdml": TASKS[1:], "sgdml": TASKS[1:]}
LABELS = ("original", "revised")
# Steps between validations.
EVERY = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    add_row_arguments(parser, "md17", device=True)
    parser.add_argument(
        "--root", type=Path, help="folder of md17_ethanol.npz and others, or of pyg_schnet's MD17"
    )
    parser.add_argument(
        "--molecules", nargs="*", default=[], choices=MOLECULES, metavar="NAME", help="which"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=METHODS, metavar="ROW", help="which (default: paper fast)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        choices=TASKS,
        help="to learn energies alone, or with forces (default: both)",
    )
    parser.add_argument(
        "--num-train",
        type=int,
        help=f"frames to train on (default: 1000; of revised labels {OFFICIAL - OFFICIAL_VAL})",
    )
    parser.add_argument("--labels", default="original", choices=LABELS, help="(default: original)")
    parser.add_argument(
        "--split",
        type=int,
        choices=range(1, 6),
        help="official split of revised labels (default 1)",
    )
    parser.add_argument(
        "--memory", type=float, default=14.0, help="for a kernel matrix, in GiB (default: 14)"
    )
    add_python_option(parser)


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    path = results_file(args, "md17")
    pythons = read_pythons(args, {"sgdml": "sgdml"})
    if args.quick:
        with TemporaryDirectory() as folder:
            args.directory, args.budget, args.num_train = Path(folder), "40steps", 100
            args.rows = args.rows or [n for n in METHODS if n not in KERNELS or pythons]
            source = open_sample(100, 50, args.seed, cutoff_on(args))
            rows = rows_of(args, source, "revised", pythons)
            write_rows(rows, path, as_markdown, draw, at_once=True)
        return
    if args.molecules and args.root is None:
        raise SystemExit("--root: where are the trajectories, or shall MD17 download them?")
    if args.device != "cpu" and KERNELS & set(args.rows or []):
        raise SystemExit(f"--device {args.device}: GDML and sGDML are trained on the CPU")
    if args.split is not None and args.labels == "original":
        raise SystemExit(f"--split {args.split}: the original labels have no official split")
    write_rows(all_rows(args, pythons), path, as_markdown, draw)


def all_rows(args: argparse.Namespace, pythons: dict[str, str]) -> Iterator[dict[str, dict]]:
    """Every row, of every molecule."""
    args.rows = args.rows or ["paper", "fast"]
    if args.num_train is None:
        args.num_train = 1_000 if args.labels == "original" else OFFICIAL - OFFICIAL_VAL
    if args.molecules and not any(set(METHODS[name]) & set(args.tasks) for name in args.rows):
        raise SystemExit(f"--tasks: {', '.join(args.rows)} cannot learn {', '.join(args.tasks)}")
    for molecule in args.molecules:
        source = open_source(
            *(args.root, molecule, args.labels, args.split, args.num_train, args.seed),
            cutoff=cutoff_on(args),
        )
        yield from rows_of(args, source, args.labels, pythons)


def cutoff_on(args: argparse.Namespace) -> float | None:
    """Radius of stored edges; on a GPU the packed batches have edges of their own."""
    return CUTOFF if args.device == "cpu" else None


def rows_of(
    args: argparse.Namespace, source: Source, labels: str, pythons: dict[str, str]
) -> Iterator[dict[str, dict]]:
    """Every row of a molecule."""
    mean = None if source.parts is None else errors(mean_predictor(source.parts))
    needed = {"sgdml": "sgdml"} if KERNELS & set(args.rows) else {}
    can_run = installed(needed, pythons, needed)
    for name in args.rows:
        if name in KERNELS and not can_run:
            continue
        for task in METHODS[name]:
            if task not in args.tasks:
                continue
            row = {
                "molecule": source.name.removeprefix("revised "),
                "labels": labels,
                "split": source.split,
                "name": name,
                "task": task,
                "num_train": args.num_train,
                "seed": args.seed,
                "frames": source.frames,
                "mean_predictor": mean,
                "command": command_of(args, source, name, task),
            }
            if name not in KERNELS:
                row["budget"] = args.budget
            key = key_of(args, source, name, task)
            yield {key: row | run_row(args, source, key, name, task, pythons)}


def key_of(args: argparse.Namespace, source: Source, name: str, task: str) -> str:
    """Name of a row."""
    words = [source.name, "" if source.split is None else f"split {source.split}", name]
    # Rows that learn forces are the older ones, and say no more.
    words += ["energies" if task == "energies" else "", f"N = {args.num_train}"]
    words += ["" if name in KERNELS else args.budget, f"seed {args.seed}"]
    return ", ".join(word for word in words if word)


def run_row(
    args: argparse.Namespace,
    source: Source,
    key: str,
    name: str,
    task: str,
    pythons: dict[str, str],
) -> dict[str, Any]:
    """What came of a row, or why it could not be run."""
    parts = source.parts
    if parts is None:
        why = f"not run: only {source.frames['number']:,} frames here"
        print(f"{key}: {why}", flush=True)
        return {"failure": why, "environment": environment(), "commit": commit()}
    print(f"{key}: {parts.sizes}", flush=True)
    folder = home_of(args) / key.replace(", ", "_").replace(" = ", "").replace(" ", "_")
    if name in KERNELS:
        return run_kernel(folder, parts, name, args.memory, pythons, again=args.again)
    preset = TrainConfig.paper if name == "paper" else TrainConfig.fast
    settings = {"forces": task == "forces", "seed": args.seed, **budget(args.budget)}
    often = validations(args.num_train, preset(**settings).batch_size, EVERY)
    config = preset(**settings, **often)
    torch.manual_seed(args.seed)
    model = DTNN(units="kcal/mol") if name == "dtnn" else SchNet.paper(units="kcal/mol")
    options = {"again": args.again, "forces": True, "device": args.device}
    return run_once(folder, model, parts, config, **options)


def command_of(args: argparse.Namespace, source: Source, name: str, task: str) -> str:
    """The command that makes a row."""
    words = []
    if not args.quick:
        molecule = source.name.removeprefix("revised ")
        words += ["--root ... --molecules", f"'{molecule}'" if " " in molecule else molecule]
        words += [] if source.split is None else [f"--labels revised --split {source.split}"]
    words += [f"--rows {name} --tasks {task}"]
    if not args.quick:
        words += [f"--num-train {args.num_train}"]
        if name in KERNELS:
            words += [*without_paths(args), f"--memory {args.memory:g}"]
        else:
            words += [f"--budget {args.budget}"]
    return command(args, "md17", *words, f"--seed {args.seed}")
