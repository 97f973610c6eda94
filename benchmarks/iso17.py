r"""ISO17: known and unknown molecules, beside Table 3 of the paper.

    python benchmarks/run.py iso17 --root data/ISO17 --rows fast --budget 2h
    python benchmarks/run.py iso17 --data frames.npz --rows paper fast --tasks energies

Networks learn from conformations of some isomers of C7O2H10, and are tested with others of these
and with other isomers. Data that repeat the protocol with GFN2-xTB in place of DFT are told by
their energies, and are ISO17-GFN2 in all results: their errors are not those of ISO17.

Every row is kept: others are added by later commands. A row that was stopped goes on when the
command is given again; one that is done is not run again, unless ``--again`` asks for it. Without
``--rows`` only the tables are written anew.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from environment import commit, environment
from iso17_data import SAMPLE, Source, open_file, open_folder
from iso17_report import as_markdown, draw
from loader import source_words
from rows import (
    Parts,
    add_row_arguments,
    budget,
    command,
    errors,
    fields,
    folder_of,
    results_file,
    run_once,
    validations,
    write_rows,
)

from pyg_schnet import SchNet
from pyg_schnet.training import Evaluation, TrainConfig

SUMMARY = "known and unknown isomers of ISO17 or ISO17-GFN2, beside the paper's Table 3"
PRESETS = ("paper", "fast")
ROWS = (*PRESETS, "mean")
TASKS = ("energies", "forces")
# Steps between validations.
EVERY = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    add_row_arguments(
        *(parser, "iso17"),
        quick="a few steps on a shipped sample",
        seed="of weights and order",
        device=True,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--root", type=Path, help="folder of ISO17, or of files in its layout")
    source.add_argument("--data", type=Path, help="npz file of ISO17-GFN2: z, R, E, F, molecule")
    parser.add_argument("--rows", nargs="*", default=[], choices=ROWS, metavar="ROW", help="which")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        choices=TASKS,
        help="to learn energies alone, or with forces (default: both)",
    )
    parser.add_argument("--num-train", type=int, help="conformations to train on (default: all)")
    parser.add_argument("--split", type=int, default=0, help="seed of the split of --data")


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    path = results_file(args, "iso17")
    if args.quick:
        with TemporaryDirectory() as folder:
            args.directory, args.budget, args.rows = Path(folder), "20steps", list(ROWS)
            args.data, args.num_train = SAMPLE, 100
            write_rows(all_rows(args), path, as_markdown, draw, at_once=True)
        return
    if args.rows and args.root is None and args.data is None:
        raise SystemExit("--root or --data: where are the conformations?")
    write_rows(all_rows(args), path, as_markdown, draw)


def all_rows(args: argparse.Namespace) -> Iterator[dict[str, dict]]:
    """Every row, of every task."""
    if not args.rows:
        return
    if args.root is not None:
        source = open_folder(args.root, args.num_train)
    else:
        source = open_file(args.data, args.num_train, args.split)
    for name in args.rows:
        for task in args.tasks if name != "mean" else [""]:
            yield run_row(args, source, name, task)


def run_row(args: argparse.Namespace, source: Source, name: str, task: str) -> dict[str, dict]:
    """One row of the table, by its name."""
    parts = source.parts
    number = len(parts.train)
    row: dict[str, Any] = {
        "data": source.name,
        "name": name,
        "task": task,
        "num_train": number,
        "molecules": source.molecules,
        "split": args.split if args.root is None else None,
        "command": command_of(args, name, task, number),
    }
    about = f"{source.name}, N = {number}"
    about += f", split {args.split}" if args.root is None else ""
    if name == "mean":
        return {f"{about}, mean": row | mean_row(parts)}
    forces = task == "forces"
    preset = getattr(TrainConfig, name)
    settings = {"forces": forces, "seed": args.seed, **budget(args.budget)}
    often = validations(number, preset(**settings).batch_size, EVERY)
    key = f"{about}, {name}, {task}, {args.budget}, seed {args.seed}"
    print(f"{key}: {parts.sizes}", flush=True)
    torch.manual_seed(args.seed)
    model = SchNet.paper(units="kcal/mol")
    config = preset(**settings, **often)
    folder = folder_of(args, key)
    options = {"again": args.again, "forces": True, "device": args.device}
    result = run_once(folder, model, parts, config, **options)
    return {key: row | {"budget": args.budget, "seed": args.seed} | result}


def mean_row(parts: Parts) -> dict[str, Any]:
    """The mean energy of the conformations to train on, and no forces.

    Isomers differ in the order of their atoms, so there is no mean force of an atom but zero.
    """
    energy = fields(parts.train)[0].mean()

    def tested(part: Any) -> dict[str, float]:
        wanted, force = fields(part)
        forces = Evaluation.of(torch.zeros_like(force), force)
        return errors(Evaluation.of(energy.expand_as(wanted), wanted, forces=forces))

    return {
        "sizes": parts.sizes,
        "environment": environment(),
        "commit": commit(),
        "test": tested(parts.test),
        "also": {name: tested(part) for name, part in parts.also.items()},
    }


def command_of(args: argparse.Namespace, name: str, task: str, number: int) -> str:
    """The command that makes a row."""
    if args.quick:
        return command(args, "iso17")
    words = [*source_words(args), f"--rows {name}", f"--tasks {task}" if task else ""]
    words += [f"--num-train {number}", f"--split {args.split}" if args.root is None else ""]
    words += [] if name == "mean" else [f"--budget {args.budget} --seed {args.seed}"]
    return command(args, "iso17", *words)
