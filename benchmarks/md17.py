r"""MD17: energies and forces learned from 1,000 frames, beside Table 2 of the paper.

Runs the paper's network, by the protocol of the paper and by our fast preset, for a given budget.
Every row is kept: other molecules, presets, budgets and seeds are added by later commands.

    python benchmarks/run.py md17 --root data/MD17 --molecules ethanol aspirin --budget 20m

A row that was stopped goes on when the command is given again; one that is done is not run again,
unless ``--again`` asks for it. Without ``--molecules`` only the tables are written anew.
"""

import argparse
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from report import save_report
from rows import (
    Parts,
    budget,
    errors,
    exponent,
    made_by,
    merge,
    run_once,
    validations,
)
from torch import Tensor

from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import MD17, MD17Sample
from pyg_schnet.datasets.md17 import UNITS, collate_frames
from pyg_schnet.datasets.md17_files import read_frames
from pyg_schnet.datasets.molecules import InMemoryMolecules
from pyg_schnet.training import Evaluation, TrainConfig

SUMMARY = "energies + forces of MD17 from 1,000 frames, beside the paper's Table 2"
# Typed in from the paper: test MAE of SchNet trained on energies and forces of 1,000 frames, in
# kcal/mol and kcal/mol/Ang; and the number of frames of the published trajectories.
PAPER = {
    "benzene": (0.08, 0.31),
    "toluene": (0.12, 0.57),
    "malonaldehyde": (0.13, 0.66),
    "salicylic acid": (0.20, 0.85),
    "aspirin": (0.37, 1.35),
    "ethanol": (0.08, 0.39),
    "uracil": (0.14, 0.56),
    "naphthalene": (0.16, 0.58),
}
TRAJECTORY = {
    "aspirin": 211_762,
    "benzene": 627_983,
    "ethanol": 555_092,
    "malonaldehyde": 993_237,
    "naphthalene": 326_250,
    "salicylic acid": 320_231,
    "toluene": 442_790,
    "uracil": 133_770,
}
PRESETS = ("paper", "fast")
NUM_VAL = 1_000
# Steps between validations.
EVERY = 1_000
CUTOFF = 30.0
HERE = Path(__file__).parent


class Frames(InMemoryMolecules):
    """The frames of an npz file in the layout of MD17, wherever it lies."""

    def __init__(self, path: Path, molecule: str, cutoff: float):
        super().__init__(None)
        self.name = molecule
        self._hold(*collate_frames(read_frames(path, molecule)), UNITS, cutoff=cutoff)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: a few steps on the shipped sample"
    )
    parser.add_argument(
        "--root", type=Path, help="folder of md17_ethanol.npz and others, or of pyg_schnet's MD17"
    )
    parser.add_argument(
        "--molecules", nargs="*", default=[], choices=list(PAPER), metavar="NAME", help="which"
    )
    parser.add_argument(
        "--preset", nargs="+", default=list(PRESETS), choices=PRESETS, help="(default: both)"
    )
    parser.add_argument(
        "--num-train", type=int, default=1_000, help="frames to train on (default: 1000)"
    )
    parser.add_argument(
        "--budget", type=budget_of_a_row, default="20m", help="of a row: 20m, 2h, 50000steps, ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and order")
    parser.add_argument(
        "--directory", type=Path, default=Path("runs/md17"), help="(default: runs/md17)"
    )
    parser.add_argument("--again", action="store_true", help="run rows anew that are done")


def budget_of_a_row(text: str) -> str:
    """A budget, as it was given."""
    budget(text)
    return text


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    path = args.json or (None if args.quick else HERE / "results" / "md17.json")
    if args.quick:
        with TemporaryDirectory() as folder:
            args.directory, args.budget, args.num_train = Path(folder), "40steps", 100
            rows: dict[str, dict] = {}
            for preset in args.preset:
                rows |= run_row(args, MD17Sample("ethanol", cutoff=CUTOFF), preset, num_val=50)
            save_report({"rows": merge(path, rows)}, path, as_markdown, draw)
        return
    if args.molecules and args.root is None:
        raise SystemExit("--root: where are the trajectories, or shall MD17 download them?")
    rows = {}
    for molecule in args.molecules:
        dataset = open_frames(args.root, molecule)
        for preset in args.preset:
            rows |= run_row(args, dataset, preset)
            save_report({"rows": merge(path, rows)}, path, as_markdown, draw)
    if not args.molecules:
        save_report({"rows": merge(path, rows)}, path, as_markdown, draw)


def open_frames(root: Path, molecule: str) -> Any:
    """A trajectory with its edges: a file in a folder, or the data set that downloads it."""
    short = molecule.removesuffix(" acid")
    for name in (MD17.file_names[molecule], f"md17_{short}.npz"):
        if (root / name).is_file():
            return Frames(root / name, molecule, CUTOFF)
    return MD17(root, molecule, cutoff=CUTOFF)


def run_row(
    args: argparse.Namespace, dataset: Any, preset: str, num_val: int = NUM_VAL
) -> dict[str, dict]:
    """One row of the table, by its name."""
    molecule = dataset.name
    parts = Parts(*random_split(dataset, [args.num_train, num_val, -1], args.seed))
    start = getattr(TrainConfig, preset)(forces=True, seed=args.seed, **budget(args.budget))
    often = validations(args.num_train, start.batch_size, EVERY)
    config = getattr(TrainConfig, preset)(
        forces=True, seed=args.seed, **budget(args.budget), **often
    )
    key = f"{molecule}, {preset}, N = {args.num_train}, {args.budget}, seed {args.seed}"
    print(f"{key}: {parts.sizes}", flush=True)
    torch.manual_seed(args.seed)
    model = SchNet.paper(units=dataset.units["energy"])
    folder = key.replace(", ", "_").replace(" = ", "").replace(" ", "_")
    result = run_once(args.directory / folder, model, parts, config, again=args.again)
    row = {
        "molecule": molecule,
        "preset": preset,
        "budget": args.budget,
        "seed": args.seed,
        "frames": frames_of(dataset),
        "mean_predictor": errors(mean_predictor(parts)),
        "command": command(args, molecule, preset),
    }
    return {key: row | result}


def frames_of(dataset: Any) -> dict[str, int]:
    """How many frames there are, and which of the trajectory, which they follow in time."""
    numbers = dataset._data.frame
    return {"number": len(dataset), "first": int(numbers.min()), "last": int(numbers.max())}


def mean_predictor(parts: Parts) -> Evaluation:
    """The mean energy, and the mean force of each atom, of the frames to train on."""

    def fields(part: Any) -> tuple[Tensor, Tensor]:
        frames = list(part)
        force = torch.stack([frame.force for frame in frames]).double()
        return torch.cat([frame.energy for frame in frames]), force.flatten(1)

    (energy, force), (wanted, acting) = fields(parts.train), fields(parts.test)
    return Evaluation.of(
        energy.mean().expand_as(wanted),
        wanted,
        forces=Evaluation.of(force.mean(dim=0).repeat(len(acting)), acting.flatten()),
    )


def command(args: argparse.Namespace, molecule: str, preset: str) -> str:
    """The command that makes a row, without paths of this machine."""
    if args.quick:
        return f"python benchmarks/run.py md17 --quick --preset {preset} --seed {args.seed}"
    name = f"'{molecule}'" if " " in molecule else molecule
    return (
        f"python benchmarks/run.py md17 --root ... --molecules {name} --preset {preset} "
        f"--num-train {args.num_train} --budget {args.budget} --seed {args.seed}"
    )


def as_markdown(results: dict) -> str:
    """One table, molecule by molecule."""
    rows: dict[str, dict] = results["rows"]
    parameters = sorted({row["parameters"] for row in rows.values()})
    lines = ["# MD17", ""]
    lines += [
        "Energies and forces learned together from N frames of a trajectory, by the network of the",
        f"paper ({' or '.join(f'{number:,}' for number in parameters) or 'no'} parameters). Test "
        "MAE; of forces over components. Rows in",
        "*italics* are published, typed in from Table 2 of Schütt et al. (2017): trained on 1,000",
        "frames, tested on the rest of the whole trajectory, for up to millions of steps.",
        "`paper`: the protocol of the paper (Adam 1e-3, batches of 32). `fast`: our preset. The",
        "last column is the power of the steps by which the validation error of forces fell over",
        "the second half of the run, which tells what more time would give where the learning rate",
        "is as good as constant. Times are by the clock, which does not stop for other programs.",
        "",
        "| | N | budget | steps | time | threads | energy, kcal/mol | forces, kcal/mol/A | slope |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for molecule in [*PAPER, *sorted({row["molecule"] for row in rows.values()} - PAPER.keys())]:
        lines += _lines_of(molecule, rows)
    if rows:
        lines += ["", "## Frames", "", *_frames(rows), "", "## Made by", "", *made_by(rows)]
    return "\n".join(lines) + "\n"


def _lines_of(molecule: str, rows: dict[str, dict]) -> list[str]:
    of = [row for row in rows.values() if row["molecule"] == molecule]
    lines = []
    for row in of[:1]:
        mean = row["mean_predictor"]
        lines.append(
            f"| **{molecule}**, mean predictor | {row['sizes']['train']:,} | | | | | "
            f"{mean['energy_mae']:.2f} | {mean['force_mae']:.2f} | |"
        )
    if molecule in PAPER:
        energy, force = PAPER[molecule]
        published = f"{molecule}, SchNet, published"
        lines.append(f"| *{published}* | 1,000 | | | | | *{energy:.2f}* | *{force:.2f}* | |")
    for preset in PRESETS:
        done = sorted(
            (row for row in of if row["preset"] == preset),
            key=lambda row: (row["sizes"]["train"], row.get("seconds", 0), row["seed"]),
        )
        lines += [_line(row) for row in done]
        if not done:
            lines.append(f"| {molecule}, SchNet, `{preset}` | | | | | | not run | not run | |")
    return lines


def _line(row: dict) -> str:
    cells = [
        f"{row['molecule']}, SchNet, `{row['preset']}`, seed {row['seed']}",
        f"{row['sizes']['train']:,}",
        row["budget"],
    ]
    if "failure" in row:
        return f"| {' | '.join([*cells, '', '', '', row['failure'], '', ''])} |"
    test, power = row["test"], exponent(row["curve"], "force_mae")
    cells += [
        f"{row['step']:,}",
        f"{row['seconds'] / 60:.1f} min",
        str(row["threads"]),
        f"**{test['energy_mae']:.3f}**",
        f"**{test['force_mae']:.3f}**",
        "" if power is None else f"steps^{power:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _frames(rows: dict[str, dict]) -> list[str]:
    """What was split, per molecule."""
    lines: dict[str, None] = {}
    for row in rows.values():
        frames, molecule, sizes = row["frames"], row["molecule"], row["sizes"]
        whole = TRAJECTORY.get(molecule)
        part = f"of the {whole:,} frames of the published trajectory" if whole else "frames"
        text = f"- {molecule}: {frames['number']:,} {part}"
        if frames["number"] < (whole or frames["last"] + 1):
            text += f" (a subset, in order of time: numbers {frames['first']:,} to "
            text += f"{frames['last']:,})"
        text += f"; {sizes['train']:,} to train on, {sizes['val']:,} to validate, "
        lines[f"{text}{sizes['test']:,} to test with, at random."] = None
    return list(lines)


def draw(results: dict) -> Any:
    """Validation errors over steps, one column of panels for each molecule."""
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"].values() if "failure" not in row]
    molecules = list(dict.fromkeys(row["molecule"] for row in rows)) or ["no rows"]
    figure = Figure(figsize=(4.5 * len(molecules), 7), dpi=120, layout="constrained")
    panels = figure.subplots(2, len(molecules), squeeze=False)
    for column, molecule in enumerate(molecules):
        for k, (error, name) in enumerate(
            (("energy_mae", "energy, MAE, kcal/mol"), ("force_mae", "forces, MAE, kcal/mol/Å"))
        ):
            axes = panels[1 - k, column]
            for preset, color in zip(PRESETS, ("C0", "C3")):
                of = [r for r in rows if (r["molecule"], r["preset"]) == (molecule, preset)]
                for row, style in zip(of, itertools.cycle(("-", "--", "-.", ":"))):
                    label = f"{preset}, {row['budget']}, seed {row['seed']}"
                    steps = row["curve"]["step"]
                    axes.plot(steps, row["curve"][error], style, label=label, color=color)
                    axes.plot(steps[-1:], [row["test"][error]], "o", color=color)
            if molecule in PAPER:
                axes.axhline(PAPER[molecule][k], color="0.4", ls=":", label="published, test")
            axes.set(xscale="log", yscale="log", xlabel="steps", ylabel=name)
            axes.grid(alpha=0.3, which="both")
        panels[0, column].set_title(f"{molecule}: validation (dots: test)")
        if rows:
            panels[0, column].legend(fontsize=8, frameon=False)
    return figure
