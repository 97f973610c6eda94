r"""Dynamics of one molecule: steps per second of ASE, TorchSim and a bare loop, beside peers.

A model is trained briefly on real frames, so that the molecule stays one. All contenders then run
the same network with the same weights from the same atoms and velocities, each in a process of its
own, in turn for several rounds. Energies and forces at the start show that they are the same.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device.options import check_device
from environment import command_line, environment
from md_worker import TIMESTEP
from peers.processes import add_python_option, call_worker, installed, read_pythons, without_paths
from report import origin, quartiles, save_report
from tqdm import tqdm

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import TrainConfig, fit

SUMMARY = "steps per second of dynamics with ASE, TorchSim and a bare loop, beside peers"
NETWORK = {
    "hidden_channels": 64,
    "num_filters": 64,
    "num_interactions": 3,
    "num_gaussians": 25,
    "cutoff": 5.0,
}
MOLECULES = ("ethanol", "aspirin")
NAMES = {
    "loop": "bare loop + pyg-schnet",
    "ours": "ASE + pyg-schnet",
    "torchsim": "TorchSim + pyg-schnet",
    "pyg": "bare loop + PyG",
    "schnetpack": "ASE + SchNetPack",
}
# What may be in environments of their own; that of TorchSim must have this package too.
PEERS = {"torchsim": "torch_sim", "schnetpack": "schnetpack"}
TEMPERATURE = 300.0  # K
HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument("--quick", action="store_true", help="half a minute: ethanol, few steps")
    parser.add_argument(
        "--molecules", nargs="+", choices=MOLECULES, default=list(MOLECULES), help="(default: both)"
    )
    parser.add_argument(
        "--steps", type=int, default=2000, help="of dynamics a round (default: 2000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument(
        "--train-steps", type=int, default=2000, help="of training before (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and velocities")
    words = "where networks are evaluated; on a GPU ours beside PyG only (default: cpu)"
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=words)
    add_python_option(parser)


def run(args: argparse.Namespace) -> None:
    """Trains, runs the dynamics, writes the results."""
    if args.quick:
        args.molecules, args.rounds = ["ethanol"], 1
        args.steps, args.train_steps = min(args.steps, 100), min(args.train_steps, 100)
    check_device(args.device)
    pythons = read_pythons(args, PEERS)
    contenders = ["loop", "ours", "pyg"]
    if args.device == "cpu":
        contenders += installed(PEERS, pythons, PEERS)
    about = environment(args.device)
    results: dict = {"environment": about, "command": _command(args), "seed": args.seed}
    results |= {"network": NETWORK, "timestep_fs": TIMESTEP, "molecules": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.molecules:
            atoms = write_system(name, Path(folder) / f"{name}.npz", args)
            results["molecules"][name] = {"atoms": atoms, "contenders": {}}
        jobs = [(m, c) for m in args.molecules for _ in range(args.rounds) for c in contenders]
        for molecule, contender in tqdm(jobs, desc="md", disable=not sys.stderr.isatty()):
            system = Path(folder) / f"{molecule}.npz"
            arguments = [contender, str(system), str(args.steps), args.device]
            done = call_worker("md_worker.py", contender, arguments, pythons)
            if done.returncode != 0:
                raise SystemExit(f"{contender} failed on {molecule}:\n{done.stderr}")
            measured = json.loads(done.stdout.splitlines()[-1])
            rounds = results["molecules"][molecule]["contenders"].setdefault(contender, [])
            rounds.append(measured)
    for entry in results["molecules"].values():
        summarise(entry)
    file = "md.json" if args.device == "cpu" else f"md_{args.device}.json"
    path = args.json or (None if args.quick else HERE / "results" / file)
    save_report(results, path, as_markdown, draw)


def write_system(molecule: str, path: Path, args: argparse.Namespace) -> int:
    """Trains a network on a molecule, writes both, and tells the number of atoms."""
    from ase import Atoms, units
    from ase.md.velocitydistribution import Stationary

    torch.manual_seed(args.seed)
    frames = MD17Sample(molecule, train=True, cutoff=NETWORK["cutoff"])
    model = SchNet(**NETWORK)  # type: ignore[arg-type] # numbers of two kinds
    config = TrainConfig.fast(
        forces=True, max_steps=args.train_steps, eval_epochs=1000, seed=args.seed
    )
    fit(model, frames[50:], frames[:50], config, device=args.device)
    model.cpu()
    assert model.units == "kcal/mol"
    frame = frames[0]
    atoms = Atoms(numbers=frame.z.numpy(), positions=frame.pos.double().numpy())
    spread = np.sqrt(atoms.get_masses() * units.kB * TEMPERATURE)
    noise = np.random.default_rng(args.seed).standard_normal((len(atoms), 3))
    atoms.set_momenta(spread[:, None] * noise)
    Stationary(atoms)
    state: dict[str, Any] = {f"state.{k}": v.numpy() for k, v in model.state_dict().items()}
    np.savez(
        path,
        z=frame.z.numpy(),
        pos=atoms.positions,
        velocities=atoms.get_velocities(),
        network=np.array(json.dumps(NETWORK)),
        **state,
    )
    return len(atoms)


def summarise(entry: dict) -> None:
    """Medians over the segments of all rounds, and how far each is from pyg-schnet at the start."""
    rounds = entry["contenders"]
    reference = rounds["ours"][0]["start"]
    for name, turns in rounds.items():
        times = [time for turn in turns for time in turn["step_ms"]]
        low, median, high = quartiles(times)
        start = turns[0]["start"]
        forces = np.subtract(start["forces_ev_per_ang"], reference["forces_ev_per_ang"])
        rounds[name] = {
            "about": turns[0]["about"],
            "step_ms": median,
            "quartiles_ms": [low, high],
            "rounds_ms": [statistics.median(turn["step_ms"]) for turn in turns],
            "steps_per_second": 1e3 / median,
            "energy_difference_ev": start["energy_ev"] - reference["energy_ev"],
            "largest_force_difference_ev_per_ang": float(np.abs(forces).max()),
        }
        for part in ("potential_ms", "predict_ms", "calculator_ms"):
            if part in turns[0]:
                entry[part] = statistics.median(time for turn in turns for time in turn[part])
    entry["overhead_ms"] = entry["calculator_ms"] - entry["predict_ms"]


def as_markdown(results: dict) -> str:
    """One table for each molecule."""
    network = ", ".join(f"{key} {value}" for key, value in results["network"].items())
    lines = [
        "# Dynamics of one molecule",
        "",
        origin(results),
        "",
        f"Velocity Verlet with steps of {results['timestep_fs']:g} fs from {TEMPERATURE:g} K, "
        "float32, without output. All have the",
        f"same weights ({network}) and start: the last columns",
        "are differences to ASE + pyg-schnet there, in energy and in the largest component of a",
        "force. Medians over segments of all rounds [quartiles]. The list of neighbours of",
        "SchNetPack has a skin of 1 A.",
    ]
    for molecule, entry in results["molecules"].items():
        rows = entry["contenders"]
        lines += ["", f"## {molecule}, {entry['atoms']} atoms", ""]
        lines += [
            "| | steps/s | ms per step | | energy, eV | force, eV/A |",
            "|---|---|---|---|---|---|",
        ]
        slowest = max(row["step_ms"] for row in rows.values())
        for name, row in rows.items():
            low, high = row["quartiles_ms"]
            version = f"{row['about']['version']} (torch {row['about']['torch']})"
            lines.append(
                f"| {NAMES[name]} {version} | **{row['steps_per_second']:,.0f}** "
                f"| {row['step_ms']:.3g} [{low:.3g}, {high:.3g}] "
                f"| {slowest / row['step_ms']:.1f}x | {row['energy_difference_ev']:.1e} "
                f"| {row['largest_force_difference_ev_per_ang']:.1e} |"
            )
        lines += [
            "",
            "Energy and forces at positions that change: `Potential` "
            f"{entry['potential_ms']:.3f} ms, `predict` {entry['predict_ms']:.3f} ms,",
            f"calculator {entry['calculator_ms']:.3f} ms: **{entry['overhead_ms']:.3f} ms** "
            "more than `predict`.",
        ]
    return "\n".join(lines) + "\n"


def draw(results: dict) -> Any:
    """Bars of the steps per second."""
    from matplotlib.figure import Figure

    molecules = results["molecules"]
    figure = Figure(figsize=(4.0 * len(molecules), 3), dpi=120, layout="constrained")
    for axes, (molecule, entry) in zip(
        figure.subplots(1, len(molecules), squeeze=False)[0], molecules.items()
    ):
        rows = entry["contenders"]
        rates = [row["steps_per_second"] for row in rows.values()]
        names = [NAMES[name].replace(" + ", "\n+ ") for name in rows]
        bars = axes.bar(names, rates, color=["C3" if name == "ours" else "C0" for name in rows])
        axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], fontsize=8)
        axes.set(title=f"{molecule}, {entry['atoms']} atoms", ylabel="steps per second")
        axes.tick_params(axis="x", labelsize=8)
    return figure


def _command(args: argparse.Namespace) -> str:
    """The command that makes the results, without paths of this machine."""
    words = [f"--molecules {' '.join(args.molecules)} --steps {args.steps}"]
    words += [f"--rounds {args.rounds} --train-steps {args.train_steps} --seed {args.seed}"]
    words += [] if args.device == "cpu" else [f"--device {args.device}"]
    return command_line(args, "md", *words, *without_paths(args))
