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
from md17 import budget_of_a_row
from report import save_report
from rows import Parts, budget, errors, merge, run_once, validations
from torch import Tensor

from pyg_schnet import SchNet
from pyg_schnet.loader import MoleculeLoader
from pyg_schnet.training import Evaluation, TrainConfig

SUMMARY = "known and unknown isomers of ISO17 or ISO17-GFN2, beside the paper's Table 3"
PRESETS = ("paper", "fast")
ROWS = (*PRESETS, "mean")
TASKS = ("energies", "forces")
# Steps between validations.
EVERY = 1_000
HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: a few steps on a shipped sample"
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
    parser.add_argument(
        "--budget", type=budget_of_a_row, default="20m", help="of a row: 20m, 2h, 50000steps, ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    parser.add_argument("--split", type=int, default=0, help="seed of the split of --data")
    parser.add_argument(
        "--directory", type=Path, default=Path("runs/iso17"), help="(default: runs/iso17)"
    )
    parser.add_argument("--again", action="store_true", help="run rows anew that are done")


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    path = args.json or (None if args.quick else HERE / "results" / "iso17.json")
    rows: dict[str, dict] = {}
    if args.quick:
        with TemporaryDirectory() as folder:
            args.directory, args.budget, args.rows = Path(folder), "20steps", list(ROWS)
            args.data, args.num_train = SAMPLE, 100
            for row in all_rows(args):
                rows |= row
        save_report({"rows": merge(path, rows)}, path, as_markdown, draw)
        return
    if args.rows and args.root is None and args.data is None:
        raise SystemExit("--root or --data: where are the conformations?")
    for row in all_rows(args):
        rows |= row
        save_report({"rows": merge(path, rows)}, path, as_markdown, draw)
    if not rows:
        save_report({"rows": merge(path, rows)}, path, as_markdown, draw)


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
        "command": command(args, name, task, number),
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
    folder = args.directory / key.replace(", ", "_").replace(" = ", "").replace(" ", "-")
    config = preset(**settings, **often)
    result = run_once(folder, model, parts, config, again=args.again, forces=True)
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


def fields(part: Any) -> tuple[Tensor, Tensor]:
    """Energies ``[B]`` and components of forces ``[3 N]`` of conformations, in float64."""
    batches = list(MoleculeLoader(part, 4096))
    energy = torch.cat([batch.energy for batch in batches])
    return energy, torch.cat([batch.force for batch in batches]).double().flatten()


def command(args: argparse.Namespace, name: str, task: str, number: int) -> str:
    """The command that makes a row, without paths of this machine."""
    if args.quick:
        return "python benchmarks/run.py iso17 --quick"
    words = ["python benchmarks/run.py iso17"]
    words += ["--root ..."] if args.root is not None else [f"--data {args.data.name}"]
    words += [f"--rows {name}"] + ([f"--tasks {task}"] if task else [])
    words += [f"--num-train {number}"]
    words += [f"--split {args.split}"] if args.root is None else []
    words += [] if name == "mean" else [f"--budget {args.budget} --seed {args.seed}"]
    return " ".join(words)
