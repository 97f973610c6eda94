r"""Loading mini-batches: MoleculeLoader beside PyG's DataLoader, on the same molecules in one run.

All shuffle. Edges are found at each access (by ``RadiusGraph`` as the transform of PyG's data set)
or stored in the data set. PyG keeps molecules that it has separated once, and has separated all of
them before its time is taken. Batches are timed sixteen in a row, so that workers cannot shine with
one they had ready.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders.common import Inputs
from contenders.ours import Ours
from environment import command_line, environment
from report import origin, quartiles, save_report
from systems import NETWORKS
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader
from tqdm import tqdm
from worker import measure, tune

from pyg_schnet import RadiusGraph
from pyg_schnet.datasets import QM9, QM9Sample
from pyg_schnet.datasets.collated import Slices, add_edges, collate
from pyg_schnet.loader import MoleculeLoader

SUMMARY = "time to load mini-batches, without and with edges, beside PyG's DataLoader"
TASKS = {"no edges": None, "edges within 5 A": 5.0, "all pairs": float("inf")}
BATCH_SIZES = (32, 100)
# Name: whether edges are stored, and the workers of PyG's loader.
SETTINGS: dict[str, tuple[bool, int | None]] = {
    "pyg-schnet": (False, None),
    "pyg-schnet, stored edges": (True, None),
    "PyG": (False, 0),
    "PyG, 2 workers": (False, 2),
    "PyG, stored edges": (True, 0),
    "PyG, stored edges, 2 workers": (True, 2),
}
IN_A_ROW = 16
HERE = Path(__file__).parent


class Molecules(InMemoryDataset):
    """Collated molecules as a data set."""

    def __init__(self, data: Data, slices: Slices):
        super().__init__(None)
        self._data, self.slices = data, slices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument("--quick", action="store_true", help="under a minute: two tasks, one round")
    add_source(parser)
    parser.add_argument(
        "--molecules", type=int, default=20_000, help="how many to take, at most (default: 20000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="per setting and round (default: 0.5)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of each setting (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of molecules and their order")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Options that say which molecules :func:`read_molecules` reads."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--root", type=Path, help="folder of QM9 (default: the shipped sample)")
    source.add_argument(
        "--data", type=Path, help="npz file in place of it: n_atoms [M], Z [N], R [N, 3], U0 [M]"
    )


def source_words(args: argparse.Namespace) -> list[str]:
    """The same as words of a command, without paths of this machine."""
    words = ["--root ..."] if args.root is not None else []
    return words + ([f"--data {args.data.name}"] if args.data is not None else [])


def run(args: argparse.Namespace) -> None:
    """Times all settings and writes the results."""
    tasks = list(TASKS)
    if args.quick:
        tasks = tasks[:2]
        args.seconds, args.rounds, args.molecules = 0.2, 1, min(args.molecules, 3000)
    tune()
    torch.manual_seed(args.seed)
    molecules = read_molecules(args)
    results: dict = {"environment": environment(), "command": _command(args), "seed": args.seed}
    results["molecules"] = len(molecules)
    results["systems"] = {f"batch of {size}": {"entrants": {}} for size in BATCH_SIZES}
    jobs = [(t, s) for t in tasks for s in SETTINGS if TASKS[t] is not None or not SETTINGS[s][0]]
    for task, setting in tqdm(jobs, desc="loader", disable=not sys.stderr.isatty()):
        dataset = prepare(molecules, setting, TASKS[task])
        for size in BATCH_SIZES:
            times: list[float] = []
            for _ in range(args.rounds):
                batches = endless(load(dataset, setting, TASKS[task], size))
                times += time_batches(batches, args.seconds)
            entrants = results["systems"][f"batch of {size}"]["entrants"]
            entrants.setdefault(setting, {"tasks": {}})["tasks"][task] = summary(times, size)
    for size in BATCH_SIZES:
        system = results["systems"][f"batch of {size}"]
        batch = next(iter(MoleculeLoader(molecules, size, cutoff=30.0)))
        system["step_ms"] = training_step(batch, args.seconds)
        system["speedup"] = speedup(system["entrants"])
    path = args.json or (None if args.quick else HERE / "results" / "loader.json")
    save_report(results, path, as_markdown, draw)


def read_molecules(args: argparse.Namespace) -> Molecules:
    """Atomic numbers, positions, labels and numbers of molecules chosen at random; no strings."""
    if args.data is not None:
        with np.load(args.data) as arrays:
            n_atoms, z, pos, y = (torch.from_numpy(arrays[k]) for k in ("n_atoms", "Z", "R", "U0"))
        atoms = {"z": z.long(), "pos": pos}
        of_molecules = {"y": y.unsqueeze(1), "idx": torch.arange(len(y))}
        whole = Molecules(*collate(n_atoms.long(), atoms, of_molecules))
    else:
        source = QM9Sample() if args.root is None else QM9(args.root)
        keys = ("z", "pos", "y", "idx")
        assert source.slices is not None
        data = Data(**{key: source._data[key] for key in keys})
        whole = Molecules(data, {key: source.slices[key] for key in keys})
    chosen = torch.randperm(len(whole))[: args.molecules]
    return whole.copy(chosen)


def prepare(molecules: Molecules, setting: str, cutoff: float | None) -> Molecules:
    """The data set of a setting, with PyG's memory of it filled."""
    stored, workers = SETTINGS[setting]
    dataset = Molecules(molecules._data, molecules.slices)
    if stored and cutoff is not None:
        dataset = Molecules(*add_edges(dataset._data, dataset.slices, cutoff))
    if workers is not None:
        for i in range(len(dataset)):
            dataset[i]
        if cutoff is not None and not stored:
            dataset.transform = RadiusGraph(cutoff)
    return dataset


def load(dataset: Molecules, setting: str, cutoff: float | None, size: int) -> Any:
    """The loader of a setting."""
    workers = SETTINGS[setting][1]
    if workers is None:
        return MoleculeLoader(dataset, size, shuffle=True, drop_last=True, cutoff=cutoff)
    return DataLoader(dataset, size, shuffle=True, drop_last=True, num_workers=workers)


def endless(loader: Any) -> Iterator[Batch]:
    """Batches of one epoch after the other."""
    while True:
        yield from loader


def time_batches(batches: Iterator[Batch], seconds: float) -> list[float]:
    """Milliseconds per batch."""

    def some() -> None:
        for _ in range(IN_A_ROW):
            next(batches)

    return [time / IN_A_ROW for time in measure(some, seconds)["times_ms"]]


def summary(times: list[float], size: int) -> dict[str, Any]:
    """Median and quartiles, in microseconds per molecule too."""
    low, median, high = quartiles(times)
    return {
        "us_per_molecule": 1e3 * median / size,
        "quartiles_us": [1e3 * low / size, 1e3 * high / size],
        "median_ms": median,
        "rows": len(times),
    }


def speedup(entrants: dict) -> dict[str, float]:
    """How many times longer PyG's best setting takes than ours by default."""
    ratios = {}
    for task, ours in entrants["pyg-schnet"]["tasks"].items():
        peers = [e["tasks"].get(task) for name, e in entrants.items() if name.startswith("PyG")]
        ratios[task] = min(p["median_ms"] for p in peers if p is not None) / ours["median_ms"]
    return ratios


def training_step(batch: Batch, seconds: float) -> float:
    """Median milliseconds of a step on energies, of the network of the paper."""
    contender = Ours()
    contender.build(NETWORKS["paper"])
    optimizer = torch.optim.Adam(contender.model.parameters(), lr=1e-5, fused=True)
    energy, forces = torch.randn(batch.num_graphs), torch.zeros_like(batch.pos)
    inputs = Inputs(
        batch.z, batch.pos, batch.batch, batch.edge_index, energy, forces, batch.num_graphs
    )
    contender.prepare_training()
    times = measure(lambda: contender.energy_step(inputs, optimizer), seconds)["times_ms"]
    return statistics.median(times)


def as_markdown(results: dict) -> str:
    """One table for each size of batches."""
    lines = [
        "# Loading",
        "",
        origin(results),
        "",
    ]
    lines += [
        f"Median microseconds per molecule [quartiles], of {results['molecules']:,} molecules in",
        "memory, shuffled. Edges that are not stored are found: by pyg-schnet in each batch, for",
        "PyG in each molecule.",
    ]
    for name, system in results["systems"].items():
        ours = system["entrants"]["pyg-schnet"]["tasks"]
        lines += ["", f"## {name}", "", "| | " + " | ".join(ours) + " |"]
        lines += ["|---|" + "---|" * len(ours)]
        for setting, entry in system["entrants"].items():
            cells = [_cell(entry["tasks"].get(task)) for task in ours]
            lines.append(f"| {setting} | " + " | ".join(cells) + " |")
        ratios = [f"**{ratio:.0f}x**" for ratio in system["speedup"].values()]
        lines.append("| PyG's best / pyg-schnet | " + " | ".join(ratios) + " |")
        shares = [f"{100 * t['median_ms'] / system['step_ms']:.1f} %" for t in ours.values()]
        step = f"pyg-schnet / energy step of the paper's network ({system['step_ms']:.2g} ms)"
        lines.append(f"| {step} | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def draw(results: dict) -> Any:
    """Bars of all settings, one panel for each size of batches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    width = 0.8 / len(SETTINGS)
    panels = figure.subplots(1, len(results["systems"]), sharey=True)
    for axes, (name, system) in zip(panels, results["systems"].items()):
        order = list(system["entrants"]["pyg-schnet"]["tasks"])
        for k, (setting, entry) in enumerate(system["entrants"].items()):
            shift = (k - len(SETTINGS) / 2 + 0.5) * width
            places = [order.index(task) + shift for task in entry["tasks"]]
            heights = [values["us_per_molecule"] for values in entry["tasks"].values()]
            axes.bar(places, heights, width, label=setting)
        axes.set(title=name, yscale="log", ylabel="µs per molecule")
        axes.set_xticks(range(len(order)), order)
        axes.grid(axis="y", alpha=0.3)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _cell(values: dict | None) -> str:
    if values is None:
        return ""
    low, high = values["quartiles_us"]
    return f"{values['us_per_molecule']:.3g} [{low:.3g}, {high:.3g}]"


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results, without paths of this machine."""
    words = f"--molecules {args.molecules} --seconds {args.seconds:g} --rounds {args.rounds}"
    return command_line(args, "loader", *source_words(args), words, f"--seed {args.seed}")
