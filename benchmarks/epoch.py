r"""What the training loop costs beside the training step: a whole epoch of ``fit``, and its parts.

The bare step is what the suite ``speed`` times: loss, gradients and Adam, on batches that lie
ready. The loop adds loading, the search for edges, checks of loss and gradient, the moving average
of the weights, and reports. Each is timed alone on the same batches, in turn for several rounds.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from environment import environment
from loader import add_source, read_molecules, source_words
from report import save_report
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from worker import tune

from pyg_schnet import SchNet
from pyg_schnet.loader import MoleculeLoader
from pyg_schnet.training import TrainConfig, fit, label_reader
from pyg_schnet.training.loss import Objective, mean_loss

SUMMARY = "molecules per second of a whole epoch of training, and what the loop adds to the steps"
TASKS = {"energies": False, "energies + forces": True}
HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument("--quick", action="store_true", help="under a minute: few molecules")
    add_source(parser)
    parser.add_argument(
        "--molecules", type=int, default=10_000, help="how many to take, at most (default: 10000)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="(default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each part (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of molecules and their order")


def run(args: argparse.Namespace) -> None:
    """Times all parts and writes the results."""
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
    results |= {"molecules": len(molecules), "batch_size": args.batch_size, "tasks": {}}
    jobs = [(task, turn) for task in TASKS for turn in range(args.rounds)]
    for task, _ in tqdm(jobs, desc="epoch", disable=not sys.stderr.isatty()):
        rounds = results["tasks"].setdefault(task, {})
        for part, seconds in time_parts(molecules, TASKS[task], args).items():
            rounds.setdefault(part, []).append(seconds)
    for task, rounds in results["tasks"].items():
        results["tasks"][task] = summary(rounds, len(molecules))
    path = args.json or (None if args.quick else HERE / "results" / "epoch.json")
    save_report(results, path, as_markdown, draw)


def time_parts(molecules: Any, forces: bool, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of an epoch and of its parts."""
    config = TrainConfig.paper(
        forces=forces, label=0, epochs=1, batch_size=args.batch_size, lr=1e-5, seed=args.seed
    )
    model = SchNet.paper()
    objective = Objective(model, label_reader(molecules, 0), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    batches: list = []
    loader = MoleculeLoader(molecules, args.batch_size, shuffle=True)

    def steps() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            mean_loss(*objective(batch)).backward()
            optimizer.step()

    def checks() -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        for _ in batches:
            get_total_norm(gradients).item()

    def averages() -> None:
        for _ in batches:
            average.update_parameters(model)

    batches.extend(loader)
    steps()  # compiles kernels, warms caches
    times = {"steps": _timed(steps), "loader": _timed(lambda: list(loader))}
    times |= {"check of gradients": _timed(checks), "moving average": _timed(averages)}
    with tempfile.TemporaryDirectory() as folder:
        history = fit(SchNet.paper(), molecules, molecules[:1], config, folder)
    times["epoch"] = history[0]["seconds"]
    return times


def _timed(function: Callable[[], object]) -> float:
    begin = perf_counter()
    function()
    return perf_counter() - begin


def summary(rounds: dict[str, list[float]], molecules: int) -> dict[str, Any]:
    """Medians over rounds; what is left of the epoch is the loop itself."""
    parts = {name: statistics.median(times) for name, times in rounds.items()}
    whole = parts.pop("epoch")
    parts["rest of the loop"] = whole - sum(parts.values())
    added = [(e - s) / s for e, s in zip(rounds["epoch"], rounds["steps"])]
    return {
        "rounds": rounds,
        "epoch": whole,
        "parts": parts,
        "molecules_per_second": molecules / whole,
        "added": statistics.median(added),
        "added_rounds": added,
    }


def as_markdown(results: dict) -> str:
    """One table: parts down, tasks across."""
    about = ", ".join(f"{key} {value}" for key, value in results["environment"].items())
    tasks = results["tasks"]
    lines = [
        "# An epoch of training",
        "",
        f"Made by `{results['command']}`, seed {results['seed']}. {about}.",
        "",
        f"The network of the paper on {results['molecules']:,} molecules in batches of "
        f"{results['batch_size']}, edges found in",
        "passing. Microseconds per molecule, medians of the rounds; each part timed alone, the",
        "rest is what is left of the epoch.",
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
    added = [
        f"**{t['added']:+.1%}** [{min(t['added_rounds']):+.1%}, {max(t['added_rounds']):+.1%}]"
        for t in tasks.values()
    ]
    lines.append("| added to the steps [lowest, highest round] | " + " | ".join(added) + " |")
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
    words = ["python benchmarks/run.py epoch"] + (["--quick"] if args.quick else [])
    words += source_words(args)
    words += [f"--molecules {args.molecules} --batch-size {args.batch_size}"]
    return " ".join([*words, f"--rounds {args.rounds} --seed {args.seed}"])
