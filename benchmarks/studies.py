r"""Studies that exchange a part of the network: U0 of QM9 learned by each variant, all else equal.

A suite states its variants and what it measures of them beside errors, parameters and speed; the
rows, the table and the figure are the same for all.
"""

import argparse
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from loader import add_source, source_words
from rows import (
    Parts,
    add_row_arguments,
    budget,
    command,
    made_by,
    results_file,
    run_once,
    validations,
    write_rows,
)

from pyg_schnet import MoleculeLoader, SchNet
from pyg_schnet.data import atom_references, composition, random_split
from pyg_schnet.datasets import QM9, MoleculeDataset, QM9Sample
from pyg_schnet.training import TrainConfig, label_reader
from pyg_schnet.training.loss import Objective, mean_loss

UNITS = "kcal/mol"
# Molecules to validate and, at most, to test with; of the sample, which is small; and of --quick.
SIZES = {"QM9": (1_000, 10_000), "QM9Sample": (200, 10_000), "quick": (30, 100)}
# Steps between validations, if an epoch is not longer.
EVERY = 500
# A step is timed on so many batches, as often.
BATCHES, TURNS = 4, 5


@dataclass(frozen=True)
class Variant:
    """A row of a study.

    Attributes:
        about: What it is, for the table.
        build: Makes the network, with new weights.
    """

    about: str
    build: Callable[[], SchNet]


@dataclass(frozen=True)
class Study:
    """A suite.

    Attributes:
        name: Name of the suite, of its files and its folder.
        title: Heading of the report.
        text: What the table shows, in Markdown.
        variants: Rows by name; errors are compared with the first.
        columns: Further columns: heading, and what a row that was run shows there.
        fresh: Measures more of a network before it is trained.
        trained: Measures more of a trained network, or draws it, given the folder of the run.
        finish: Called with the file of results, the folder of a run that is done and its name.
        lr: Learning rate by default, in place of that of the preset.
    """

    name: str
    title: str
    text: list[str]
    variants: dict[str, Variant]
    columns: dict[str, Callable[[dict], str]] = field(default_factory=dict)
    fresh: Callable[[SchNet], dict[str, Any]] = lambda model: {}
    trained: Callable[[SchNet, Parts, str, Path], dict[str, Any]] = lambda *args: {}
    finish: Callable[[Path, Path, str], None] = lambda *args: None
    lr: float | None = None


def add_arguments(parser: argparse.ArgumentParser, study: Study) -> None:
    """Options of a study."""
    add_row_arguments(parser, study.name, budget="10m")
    add_source(parser)
    parser.add_argument(
        "--num-train", type=int, help="molecules to train on (default: 10000; of the sample 2400)"
    )
    names = list(study.variants)
    parser.add_argument(
        "--only", nargs="*", default=names, choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument(
        "--preset", default="fast", choices=("fast", "paper"), help="(default: fast)"
    )
    parser.add_argument(
        "--lr",
        type=float,
        default=study.lr,
        help=f"highest learning rate (default: {study.lr or 'that of the preset'})",
    )


def run(args: argparse.Namespace, study: Study) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    if args.quick:
        with TemporaryDirectory() as folder:
            args.directory, args.budget, args.num_train = Path(folder), "10steps", 160
            write_all(args, study)
    else:
        write_all(args, study)


def write_all(args: argparse.Namespace, study: Study) -> None:
    """One row after the other; without any, only the tables are written anew."""
    path = results_file(args, study.name)
    write_rows(all_rows(args, study, path), path, partial(as_markdown, study), partial(draw, study))


def all_rows(
    args: argparse.Namespace, study: Study, path: Path | None
) -> Iterator[dict[str, dict]]:
    """Every row that is asked for."""
    data = open_molecules(args) if args.only else None
    for name in args.only:
        assert data is not None
        yield run_row(args, study, name, *data, path)


def open_molecules(args: argparse.Namespace) -> tuple[str, str, Parts]:
    """Name of the data, label, and molecules to train, validate and test with; without edges."""
    if args.data is not None:
        with np.load(args.data) as arrays:
            whole = {key: arrays[key] for key in ("n_atoms", "Z", "R", "U0")}
            keep = ~arrays["uncharacterized"] if "uncharacterized" in arrays else None
        name, label = "QM9", "energy"
        dataset: Any = MoleculeDataset.from_arrays(
            whole, labels={"energy": "U0"}, units={"energy": "Hartree"}, energy=UNITS, keep=keep
        )
    elif args.root is not None:
        name, label, dataset = "QM9", "U0", QM9(args.root, targets=["U0"], units=UNITS)
    else:
        name, label, dataset = "QM9Sample", "U0", QM9Sample(targets=["U0"], units=UNITS)
    num_val, num_test = SIZES["quick" if args.quick else name]
    num_train = args.num_train or (10_000 if name == "QM9" else 2_400)
    left = len(dataset) - num_train - num_val
    if num_train < 1 or left < 1:
        raise SystemExit(
            f"--num-train: cannot take {num_train:,} of {len(dataset):,} molecules and leave some "
            f"to test with, beside {num_val:,} to validate"
        )
    sizes = [num_train, num_val, min(left, num_test)]
    return name, label, Parts(*random_split(dataset, sizes, args.seed))


def run_row(
    args: argparse.Namespace,
    study: Study,
    name: str,
    data: str,
    label: str,
    parts: Parts,
    path: Path | None,
) -> dict[str, dict]:
    """One row of the table, by its name."""
    preset, recipe = getattr(TrainConfig, args.preset), args.preset
    changes = {"label": label, "seed": args.seed, **budget(args.budget)}
    if args.lr is not None:
        changes["lr"], recipe = args.lr, f"{recipe} at {args.lr:g}"
    often = validations(len(parts.train), preset(**changes).batch_size, EVERY)
    config = preset(**changes, **often)
    same = {"data": data, "recipe": recipe, "budget": args.budget, "seed": args.seed}
    key = f"{data}, N = {len(parts.train)}, {name}, {recipe}, {args.budget}, seed {args.seed}"
    print(f"{key}: {parts.sizes}", flush=True)
    torch.manual_seed(args.seed)
    model = study.variants[name].build()
    row = {"name": name, **same, "atom_references": reference_mae(parts, label)}
    row |= {"command": command_of(args, study), **study.fresh(model)}
    folder = args.directory / re.sub(r"\W+", "_", key)
    result = run_once(
        *(folder, model, parts, config),
        again=args.again,
        measure=lambda: {
            "step_ms": step_ms(model, parts, config),
            **study.trained(model, parts, label, folder),
        },
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        study.finish(path, folder, name)
    return {key: row | result}


def reference_mae(parts: Parts, label: str) -> float:
    """Test MAE of a sum of one number per atom, fitted: what is known without any interaction."""

    def read(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
        reader, counts, labels = label_reader(part, label), [], []
        for batch in MoleculeLoader(part, 1_000):
            counts.append(composition(batch.z, batch.batch, batch.num_graphs))
            labels.append(reader(batch))
        return torch.cat(counts).double(), torch.cat(labels).double()

    (counts, energy), (test_counts, wanted) = read(parts.train), read(parts.test)
    return (test_counts @ atom_references(counts, energy) - wanted).abs().mean().item()


def step_ms(model: SchNet, parts: Parts, config: TrainConfig) -> float:
    """Milliseconds of a training step on a batch that lies ready, search for edges included.

    It is that of the quietest of several turns, as other programs can only make it longer.
    """
    model = copy.deepcopy(model).train()
    objective = Objective(model, label_reader(parts.train, config.label), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    loader = MoleculeLoader(parts.train, config.batch_size)
    batches = [batch for _, batch in zip(range(BATCHES), loader)]
    times = []
    for _ in range(TURNS):
        begin = perf_counter()
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            mean_loss(*objective(batch)).backward()
            optimizer.step()
        times.append(perf_counter() - begin)
    return 1e3 * min(times) / len(batches)


def command_of(args: argparse.Namespace, study: Study) -> str:
    """The command that makes the rows."""
    words: list[str] = []
    if not args.quick:
        words += source_words(args)
        words += [f"--num-train {args.num_train}"] if args.num_train is not None else []
        words += [f"--budget {args.budget}"]
    words += [f"--preset {args.preset}"]
    words += [f"--lr {args.lr:g}"] if args.lr is not None else []
    return command(args, study.name, *words, f"--seed {args.seed}")


def as_markdown(study: Study, results: dict) -> str:
    """A table for each set of data, recipe and budget; variants that were not run say so."""
    rows = results["rows"]
    lines = [f"# {study.title}", "", *study.text]
    heads = ["", "seed", "parameters", "ms a step", "steps", "time", f"test MAE, {UNITS}", "ratio"]
    heads += list(study.columns)
    for (data, num_train, recipe, spent), group in grouped(rows, study).items():
        first = group[0]
        sizes = ", ".join(f"{size:,} to {name}" for name, size in first["sizes"].items())
        threads = ", ".join(str(n) for n in sorted({row["threads"] for row in group}))
        lines += ["", f"## {data}, N = {num_train:,}, recipe `{recipe}`, {spent}", ""]
        lines += [f"{sizes}; threads: {threads}. Test MAE of fitted atom references alone: "]
        lines[-1] += f"{first['atom_references']:.2f} {UNITS}."
        if spent.endswith(("epochs", "steps")):
            lines += ["Times are those of a machine that other programs shared; errors after a"]
            lines += ["budget of steps do not depend on it."]
        lines += ["", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for name, variant in study.variants.items():
            of = [row for row in group if row["name"] == name]
            lines += [_line(row, group, study) for row in of]
            if not of:
                lines.append(_padded([f"**{name}**: {variant.about}", "not run"], len(heads)))
    if rows:
        lines += ["", "## Made by", "", *made_by(rows)]
    else:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| **{name}**: {v.about} | not run |" for name, v in study.variants.items()]
    return "\n".join(lines) + "\n"


def grouped(rows: dict[str, dict], study: Study) -> dict[tuple[str, int, str, str], list[dict]]:
    """Rows that can be compared, in the order of the variants."""
    order = list(study.variants)
    groups: dict[tuple[str, int, str, str], list[dict]] = {}
    for row in rows.values():
        key = (row["data"], row["sizes"]["train"], row["recipe"], row["budget"])
        groups.setdefault(key, []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: (order.index(row["name"]), row["seed"]))
    return groups


def _line(row: dict, group: list[dict], study: Study) -> str:
    name = row["name"]
    cells = [f"**{name}**: {study.variants[name].about}", str(row["seed"])]
    cells += [f"{row['parameters']:,}"]
    if "failure" in row:
        return _padded([*cells, "", "", "", row["failure"]], 8 + len(study.columns))
    base = next(iter(study.variants))
    known = [r for r in group if r["name"] == base and r["seed"] == row["seed"] and "test" in r]
    mae = row["test"]["energy_mae"]
    cells += [f"{row['step_ms']:.2f}", f"{row['step']:,}", f"{row['seconds'] / 60:.1f} min"]
    cells += [f"{mae:.3f}", f"{mae / known[0]['test']['energy_mae']:.2f}" if known else ""]
    return _padded([*cells, *(show(row) for show in study.columns.values())], len(cells))


def _padded(cells: list[str], length: int) -> str:
    return f"| {' | '.join(cells + [''] * (length - len(cells)))} |"


def draw(study: Study, results: dict) -> Any:
    """Learning curves beside bars of the test errors, for each set of data, recipe and budget."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    groups = grouped(results["rows"], study)
    names = list(study.variants)
    size = (11, (1.4 + 0.27 * len(names)) * max(1, len(groups)))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(max(1, len(groups)), 2, squeeze=False)
    for (left, right), (key, rows) in zip(panels, groups.items()):
        done = [row for row in rows if "failure" not in row]
        for k, row in enumerate(done):
            number = names.index(row["name"])
            color = "k" if number == 0 else colormaps["tab20"](number % 20)
            curve = row["curve"]
            style = {"color": color, "lw": 1.5 + (number == 0), "marker": "."}
            left.plot(curve["step"], curve["energy_mae"], **style)
            bar = right.barh(k, row["test"]["energy_mae"], color=color)
            right.bar_label(bar, fmt="%.2f", padding=3, fontsize=8)
        labels = [row["name"] + (f" ({row['seed']})" if row["seed"] else "") for row in done]
        right.set_yticks(range(len(done)), labels, fontsize=8)
        right.invert_yaxis()
        right.set(title="test", xlabel=f"MAE, {UNITS}")
        right.margins(x=0.1)
        title = f"{key[0]}, N = {key[1]:,}, {key[2]}, {key[3]}: validation"
        left.axhline(rows[0]["atom_references"], color="0.5", ls=":", label="atom references")
        left.set(title=title, xlabel="step", ylabel=f"MAE, {UNITS}", xscale="log", yscale="log")
        left.legend(frameon=False, fontsize=8)
        left.grid(alpha=0.3, which="both")
    return figure
