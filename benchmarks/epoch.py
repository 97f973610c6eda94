r"""What the training loop costs beside the training step: a whole epoch of ``fit``, and its parts.

The bare step is what the suite ``speed`` times: loss, gradients and Adam, on batches that lie
ready. The loop adds loading, checks of loss and gradient, the moving average of the weights,
validation, reports and checkpoints. Its parts are timed while it runs; after each epoch as many
bare steps are timed alone.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from device.options import add_device_options
from environment import command_line, environment
from loader import add_source, read_molecules, source_words
from report import origin, quartiles, save_report
from tqdm import tqdm
from worker import tune

import pyg_schnet.training.run as run_module
from pyg_schnet import SchNet
from pyg_schnet.data.slicer import Slicer
from pyg_schnet.loader import MoleculeLoader
from pyg_schnet.training import TrainConfig, fit, label_reader
from pyg_schnet.training.loss import Objective, mean_loss
from pyg_schnet.training.weights import FlatWeights, MovingAverage

SUMMARY = "molecules per second of a whole epoch of training, and what the loop adds to the steps"
TASKS = {"energies": False, "energies + forces": True}
# What the loop calls, by parts.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "steps": [
        (Objective, "forward"),
        (FlatWeights, "zero_grad"),
        (torch.Tensor, "backward"),
        (torch.optim.AdamW, "step"),
    ],
    "loader": [(Slicer, "__call__")],
    "checks of loss and gradients": [
        (run_module, "check_loss"),
        (FlatWeights, "gradient_norm"),
        (run_module, "check_gradient"),
    ],
    "moving average": [(MovingAverage, "update")],
}
ALONE = "steps alone"
HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument("--quick", action="store_true", help="under a minute: few molecules")
    add_source(parser)
    parser.add_argument(
        "--molecules",
        type=int,
        help="how many to take, at most (default: 3200; on a device those of the paper, 110462)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="(default: 32)")
    parser.add_argument("--rounds", type=int, default=15, help="epochs to time (default: 15)")
    parser.add_argument("--seed", type=int, default=0, help="of molecules and their order")
    add_device_options(parser, "whole epochs there, packed; else what the loop adds on the CPU")


def run(args: argparse.Namespace) -> None:
    """Times all parts and writes the results."""
    if args.device is not None:
        from device import epoch as device_epoch

        args.molecules = args.molecules or device_epoch.MOLECULES
        device_epoch.run(args)
        return
    args.molecules = args.molecules or 3_200
    if args.quick:
        args.molecules, args.rounds = min(args.molecules, 640), 1
    tune()
    torch.manual_seed(args.seed)
    molecules = read_molecules(args)
    molecules._data.y = molecules._data.y[:, :1].double()
    # Random forces do to time them; energies are real.
    molecules._data.force = torch.randn(molecules._data.pos.shape)
    assert molecules.slices is not None
    molecules.slices["force"] = molecules.slices["pos"]
    results: dict = {"environment": environment(), "command": _command(args), "seed": args.seed}
    results |= {"molecules": len(molecules), "batch_size": args.batch_size}
    results["tasks"] = {
        task: summary(time_rounds(molecules, forces, args), len(molecules))
        for task, forces in tqdm(TASKS.items(), desc="epoch", disable=not sys.stderr.isatty())
    }
    path = args.json or (None if args.quick else HERE / "results" / "epoch.json")
    save_report(results, path, as_markdown, draw)


def time_rounds(molecules: Any, forces: bool, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of an epoch, of its parts, and of the steps alone, in each round.

    After every epoch the same number of steps is taken outside of the loop, so that both meet the
    same moods of the machine. The first epoch does not count: it compiles, and warms caches.
    """
    config = TrainConfig.paper(
        forces=forces,
        label=0,
        epochs=args.rounds + 1,
        batch_size=args.batch_size,
        lr=1e-5,
        seed=args.seed,
    )
    steps_alone = bare_steps(molecules, config)
    rounds: dict[str, list[float]] = {name: [] for name in ("epoch", ALONE, *PARTS)}
    ended = 0.0

    with timed_parts() as parts:

        def after_epoch(row: dict[str, float]) -> None:
            nonlocal ended
            measured = {"epoch": row["seconds"] - ended, **parts}
            begin = perf_counter()
            steps_alone()
            measured[ALONE] = perf_counter() - begin
            for name, times in rounds.items():
                times.append(measured[name])
            for name in parts:
                parts[name] = 0.0
            ended = row["seconds"] + perf_counter() - begin

        with tempfile.TemporaryDirectory() as folder:
            fit(SchNet.paper(), molecules, molecules[:1], config, folder, log=after_epoch)
    return {name: times[1:] for name, times in rounds.items()}


def bare_steps(molecules: Any, config: TrainConfig) -> Callable[[], None]:
    """Steps on batches that lie ready: loss, gradients, and Adam."""
    model = SchNet.paper()
    objective = Objective(model, label_reader(molecules, 0), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    batches = list(MoleculeLoader(molecules, config.batch_size, shuffle=True))

    def steps() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            mean_loss(*objective(batch)).backward()
            optimizer.step()

    return steps


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Adds up the seconds that the loop spends in each of its parts."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(function: Callable, part: str) -> Callable:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += perf_counter() - begin

        return run

    with ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                changed = timed(getattr(owner, name), part)
                stack.enter_context(patch.object(owner, name, changed))
        yield spent


def summary(rounds: dict[str, list[float]], molecules: int) -> dict[str, Any]:
    """Medians over rounds; what is left of the epoch is the rest of the loop."""
    parts = {name: statistics.median(rounds[name]) for name in PARTS}
    whole = statistics.median(rounds["epoch"])
    parts["rest"] = whole - sum(parts.values())
    return {
        "rounds": rounds,
        "epoch": whole,
        "parts": parts,
        "molecules_per_second": molecules / whole,
        "added": _added(rounds, "steps"),
        "added_to_steps_alone": _added(rounds, ALONE),
    }


def _added(rounds: dict[str, list[float]], steps: str) -> list[float]:
    """By what part of the steps an epoch is longer, round by round: median and quartiles."""
    added = [whole / part - 1 for whole, part in zip(rounds["epoch"], rounds[steps])]
    first, middle, third = quartiles(added)
    return [middle, first, third]


def as_markdown(results: dict) -> str:
    """One table: parts down, tasks across."""
    tasks = results["tasks"]
    lines = [
        "# An epoch of training",
        "",
        origin(results),
        "",
        f"The network of the paper on {results['molecules']:,} molecules in batches of "
        f"{results['batch_size']}, edges found in",
        "passing. Microseconds per molecule, medians of rounds: of the parts of the loop, timed",
        "while it runs, and of its epochs. *Steps alone* are as many bare steps outside of it, on",
        "batches that lie ready, taken after each epoch.",
        "",
        "| | " + " | ".join(tasks) + " |",
        "|---|" + "---|" * len(tasks),
    ]
    for part in next(iter(tasks.values()))["parts"]:
        cells = []
        for task in tasks.values():
            time, share = task["parts"][part], task["parts"][part] / task["epoch"]
            cells.append(f"{1e6 * time / results['molecules']:.3g} ({share:.1%})")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    whole = [f"{1e6 / task['molecules_per_second']:.3g}" for task in tasks.values()]
    lines.append("| **whole epoch** | " + " | ".join(whole) + " |")
    rates = [f"{task['molecules_per_second']:,.0f}" for task in tasks.values()]
    lines.append("| molecules per second | " + " | ".join(rates) + " |")
    for name, key in (("steps", "added"), (ALONE, "added_to_steps_alone")):
        cells = ["**{:+.1%}** [{:+.1%}, {:+.1%}]".format(*task[key]) for task in tasks.values()]
        lines.append(f"| added to the {name} [quartiles] | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: dict) -> Any:
    """Stacked bars of the parts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    names, tasks = list(results["tasks"]), list(results["tasks"].values())
    left = [0.0] * len(names)
    for part in tasks[0]["parts"]:
        widths = [1e6 * task["parts"][part] / results["molecules"] for task in tasks]
        axes.barh(names, widths, left=left, label=part)
        left = [a + b for a, b in zip(left, widths)]
    axes.set(xlabel="µs per molecule")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results, without paths of this machine."""
    words = [*source_words(args), f"--molecules {args.molecules} --batch-size {args.batch_size}"]
    return command_line(args, "epoch", *words, f"--rounds {args.rounds} --seed {args.seed}")
