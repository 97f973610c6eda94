r"""QM9: errors by the number of molecules to train on, beside Table 1 of the paper.

    python benchmarks/run.py qm9 --root data/QM9 --rows schnet-fast dtnn --budget 10m
    python benchmarks/run.py qm9 --data qm9.npz --rows schnet-paper --curve --budget 20m
    python benchmarks/run.py qm9 --targets mu gap r2 --rows schnet-fast --budget 2m

The networks share loop, schedule, atom references and split. Every row is kept: others are added by
later commands. A row that was stopped goes on when the command is given again; one that is done is
not run again, unless ``--again`` asks for it. Without ``--rows`` only the tables are written anew.

``enn-s2s-ens5`` trains nothing: it combines the five rows ``enn-s2s`` of ``--seed`` and the next
four, which must be done.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from environment import commit, environment
from loader import add_source, source_words
from qm9_data import CURVE, TARGETS, Source, network, open_qm9, split
from qm9_report import as_markdown, draw
from rows import (
    Parts,
    add_row_arguments,
    budget,
    command,
    errors,
    folder_of,
    read_budget,
    results_file,
    run_once,
    validations,
    write_rows,
)

from pyg_schnet.data.statistics import atom_references
from pyg_schnet.training import Evaluation, Labelled, TrainConfig

SUMMARY = "U0 of QM9 beside the paper's Table 1, with DTNN and enn-s2s; learning curves; targets"
NETWORKS = ("schnet-paper", "schnet-fast", "dtnn", "enn-s2s")
ENSEMBLE, MEMBERS = "enn-s2s-ens5", 5
FITS = ("mean", "linear")
ROWS = (*NETWORKS, ENSEMBLE, *FITS)
# Highest learning rates in place of the preset's: that of PyG's example of NNConv.
RATES = {"enn-s2s": 1e-3}
# Molecules of the quick version.
QUICK = 600
# Steps between validations: fewer where a step takes longer.
EVERY = {"enn-s2s": 250}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    add_row_arguments(
        *(parser, "qm9"),
        quick="all rows, a few steps of each",
        seed="of weights and order",
        device=True,
    )
    add_source(parser)
    parser.add_argument("--rows", nargs="*", default=[], choices=ROWS, metavar="ROW", help="which")
    parser.add_argument(
        *("--targets", "--target"), nargs="+", default=["U0"], choices=TARGETS, metavar="TARGET"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--num-train", type=int, nargs="+", metavar="N", help="molecules to train on (default: all)"
    )
    sizes.add_argument("--curve", action="store_true", help="1,000 and more of them, up to all")
    parser.add_argument("--lr", type=float, help="highest learning rate (default: of the row)")
    parser.add_argument("--split", type=int, default=0, help="seed of the split (default: 0)")
    words = "go on with the rows of this budget, which are done; the schedule is that of --budget"
    parser.add_argument("--after", type=read_budget, metavar="BUDGET", help=words)


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    rows = quick_rows(args) if args.quick else all_rows(args)
    write_rows(rows, results_file(args, "qm9"), as_markdown, draw, at_once=args.quick)


def quick_rows(args: argparse.Namespace) -> Iterator[dict[str, dict]]:
    """Some of everything."""
    with TemporaryDirectory() as folder:
        args.directory, args.budget, args.num_train = Path(folder), "10steps", [100]
        for args.seed in range(1, MEMBERS):
            args.rows = ["enn-s2s"]
            yield from all_rows(args)
        args.seed, args.rows = 0, list(ROWS)
        yield from all_rows(args)
        args.rows, args.targets = ["schnet-fast"], ["mu", "gap", "r2"]
        yield from all_rows(args)


def all_rows(args: argparse.Namespace) -> Iterator[dict[str, dict]]:
    """Every target with every size and row."""
    for target in args.targets if args.rows else []:
        source = open_qm9(args.root, args.data, target, QUICK if args.quick else None)
        for num_train in sizes_of(args, source):
            parts = split(source.dataset, num_train, args.split)
            for name in args.rows:
                yield run_row(args, source, parts, name)


def sizes_of(args: argparse.Namespace, source: Source) -> Sequence[int | None]:
    """How many molecules to train on, in each table."""
    if args.num_train:
        return args.num_train
    if not args.curve:
        return [None]
    most = len(split(source.dataset, None, args.split).train)
    return [size for size in CURVE if size < most] + [most]


def run_row(args: argparse.Namespace, source: Source, parts: Parts, name: str) -> dict[str, dict]:
    """One row of the tables, by its name; none if an ensemble is not complete."""
    row = {
        "data": source.name,
        "molecules": len(source.dataset),
        "target": source.target,
        "name": name,
        "num_train": len(parts.train),
        "unit": source.unit,
        "split": args.split,
        "command": command_of(args, source.target, name, len(parts.train)),
    }
    about = f"{source.target}, {source.name}, N = {len(parts.train)}, split {args.split}, {name}"
    if name in FITS:
        return {about: row | fit_row(name, parts, source.target)}
    row |= {"budget": trained(args), "seed": args.seed}
    key = f"{about}, {trained(args)}, seed {args.seed}"
    print(f"{key}: {parts.sizes}", flush=True)
    if name == ENSEMBLE:
        members = [
            folder_of(args, f"{about.removesuffix('-ens5')}, {trained(args)}, seed {seed}")
            for seed in range(args.seed, args.seed + MEMBERS)
        ]
        combined = combine(members)
        return {} if combined is None else {key: row | combined}
    torch.manual_seed(args.seed)
    model = network(name, source)
    config = config_of(args, name, source.target, len(parts.train))
    options: dict[str, Any] = {"again": args.again, "device": args.device}
    if args.after is not None:
        shorter = f"{about}, {with_rate(args, args.after)}, seed {args.seed}"
        options["begin_with"] = folder_of(args, shorter)
    return {key: row | run_once(folder_of(args, key), model, parts, config, **options)}


def trained(args: argparse.Namespace) -> str:
    """Budget, and the earlier budget and the learning rate if they were given."""
    after = "" if args.after is None else f" after {args.after}"
    return with_rate(args, args.budget + after)


def with_rate(args: argparse.Namespace, budget: str) -> str:
    """A budget, and the learning rate if it was given."""
    return budget + ("" if args.lr is None else f", lr {args.lr:g}")


def config_of(args: argparse.Namespace, name: str, target: str, num_train: int) -> TrainConfig:
    """How a network is trained: by the fast preset, unless it is told from the paper's."""
    preset = TrainConfig.paper if name == "schnet-paper" else TrainConfig.fast
    settings: dict[str, Any] = {"label": target, "seed": args.seed, **budget(args.budget)}
    rate = RATES.get(name) if args.lr is None else args.lr
    if rate is not None:
        settings["lr"] = rate
    often = validations(num_train, preset(**settings).batch_size, EVERY.get(name, 1_000))
    return preset(**settings, **often)


def fit_row(name: str, parts: Parts, target: str) -> dict[str, Any]:
    """What needs no network: the mean of the labels, or references of the atoms."""
    train, test = (Labelled.read(part, target) for part in (parts.train, parts.test))
    if name == "mean":
        predicted = train.labels.nanmean().expand_as(test.labels)
        number = 1
    else:
        references = atom_references(train.counts, train.labels)
        predicted, number = test.counts @ references, int(references.count_nonzero())
    return {
        "parameters": number,
        "sizes": parts.sizes,
        "environment": environment(),
        "commit": commit(),
        "test": errors(Evaluation.of(predicted, test.labels)),
    }


def is_done(folder: Path) -> bool:
    """Whether a network was trained and tested there."""
    # Written in this order: first what was predicted, then the result.
    return (folder / "test.npz").exists() and (folder / "result.json").exists()


def combine(members: list[Path]) -> dict[str, Any] | None:
    """The mean of what trained networks predict; ``None`` if some are not done.

    Raises:
        SystemExit: If they were tested with different molecules.
    """
    missing = [folder.name for folder in members if not is_done(folder)]
    if missing:
        print(f"{ENSEMBLE}: not run, since these rows are not done: {', '.join(missing)}")
        return None
    saved = []
    for folder in members:
        with np.load(folder / "test.npz") as arrays:
            saved.append({name: torch.from_numpy(arrays[name]) for name in arrays})
    reference = saved[0]["reference"]
    for folder, arrays in zip(members, saved):
        if not arrays["reference"].equal(reference):
            raise SystemExit(f"'{folder}' was tested with other molecules: --again replaces it")
    results = [json.loads((folder / "result.json").read_text()) for folder in members]
    predicted = torch.stack([arrays["predicted"] for arrays in saved]).mean(dim=0)
    return {
        **{name: results[0][name] for name in ("threads", "sizes", "environment", "commit")},
        **{name: sum(result[name] for result in results) for name in ("parameters", "seconds")},
        "step": sum(result["step"] for result in results),
        "members": [result["test"] for result in results],
        "test": errors(Evaluation.of(predicted, reference)),
    }


def command_of(args: argparse.Namespace, target: str, name: str, num_train: int) -> str:
    """The command that makes a row."""
    if args.quick:
        return command(args, "qm9")
    words = [*source_words(args), f"--rows {name} --targets {target} --num-train {num_train}"]
    words += [f"--split {args.split}"]
    if name not in FITS:
        words += [] if args.lr is None else [f"--lr {args.lr:g}"]
        words += [f"--budget {args.budget} --seed {args.seed}"]
        words += [] if args.after is None else [f"--after {args.after}"]
    return command(args, "qm9", *words)
