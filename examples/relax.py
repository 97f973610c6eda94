r"""Relaxing a molecule, its vibrations, and what it costs to stretch a bond.

    python examples/relax.py

takes a hot frame of ethanol to the nearest minimum of a trained model (see ``ase_md.py``; the model
in ``--model`` is shared) with BFGS and with FIRE, computes its frequencies from the exact Hessian
and, for comparison, from displaced atoms as ``ase.vibrations`` does, and scans the C-O bond. The
directory of the run then holds ``bond_scan.png``, ``relaxed.xyz`` and ``relax.json``.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixBondLength
from ase.io import write
from ase.optimize import BFGS, FIRE
from ase.vibrations import Vibrations
from ethanol import add_model_arguments, frame_of_ethanol, trained_model
from matplotlib.figure import Figure

from pyg_schnet import SchNetCalculator, vibrations
from pyg_schnet.data import from_ase
from pyg_schnet.datasets import MD17Sample


def main() -> None:
    """Relaxes, vibrates, stretches."""
    args = parse_arguments()
    args.directory.mkdir(parents=True, exist_ok=True)
    model = trained_model(args)
    summary: dict[str, Any] = {}

    # 1. The same minimum by two ways.
    relaxed = {}
    for optimizer in (FIRE, BFGS):
        atoms = frame_of_ethanol()
        atoms.calc = SchNetCalculator(model)
        search = optimizer(atoms, logfile=None)
        converged = bool(search.run(fmax=args.fmax, steps=args.steps))
        name, energy = optimizer.__name__, atoms.get_potential_energy()
        relaxed[name] = atoms
        summary[name] = {"steps": search.nsteps, "converged": converged, "energy_ev": energy}
        state = "" if converged else ", not converged"
        print(f"{name:<5} {search.nsteps:>4} steps{state}, {energy:.6f} eV")
    atoms = relaxed["BFGS"]
    write(args.directory / "relaxed.xyz", atoms)

    # 2. Frequencies, from second derivatives and from displaced atoms.
    found = vibrations(model, from_ase(atoms, dtype=torch.float64))
    displaced = by_displacements(atoms)[-len(found.frequencies) :]
    print("Frequencies in 1/cm, exact and by displacing atoms:")
    for exact, approximate in zip(found.frequencies.tolist(), displaced):
        print(f"{exact:>9.1f} {approximate:>9.1f}")
    print(f"Zero-point energy {found.zero_point_energy:.4f} eV")
    summary["frequencies_per_cm"] = found.frequencies.tolist()
    summary["frequencies_by_displacements_per_cm"] = displaced.tolist()
    summary["zero_point_energy_ev"] = found.zero_point_energy

    # 3. The C-O bond: all else stiff, and all else relaxed.
    carbon, oxygen = bond_of(atoms)
    lengths = np.linspace(1.15, 1.85, args.points)
    stiff, soft = scan(atoms, carbon, oxygen, lengths, args.steps)
    pos = np.stack([frame.pos.numpy() for frame in MD17Sample("ethanol", train=True)])
    seen = np.linalg.norm(pos[:, carbon] - pos[:, oxygen], axis=1)
    draw(lengths, stiff, soft, seen).savefig(args.directory / "bond_scan.png")
    summary["scan"] = {
        "length_ang": lengths.tolist(),
        "stiff_ev": stiff.tolist(),
        "relaxed_ev": soft.tolist(),
        "seen_in_training_ang": [float(seen.min()), float(seen.max())],
    }
    (args.directory / "relax.json").write_text(json.dumps(summary, indent=2))
    print(
        f"C-O bond: {atoms.get_distance(carbon, oxygen):.3f} Ang; in training from "
        f"{seen.min():.3f} to {seen.max():.3f}, beyond that the curve is a guess"
    )
    print(f"Everything is in {args.directory}")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--fmax", type=float, default=1e-3, help="eV/Ang (default: 0.001)")
    parser.add_argument("--steps", type=int, default=1000, help="at most (default: 1000)")
    parser.add_argument("--points", type=int, default=36, help="of the scan (default: 36)")
    parser.add_argument("--directory", type=Path, default=Path("runs/relax"), help="for results")
    return parser.parse_args()


def by_displacements(atoms: Atoms) -> np.ndarray:
    """All 3N frequencies in 1/cm by finite differences, imaginary ones negative."""
    with tempfile.TemporaryDirectory() as folder:
        differences = Vibrations(atoms, name=str(Path(folder) / "displaced"))
        differences.run()
        frequencies = differences.get_frequencies()
    signed = frequencies.real - frequencies.imag
    # Translations and rotations, near zero, come first.
    return signed[np.argsort(np.abs(signed), kind="stable")]


def bond_of(atoms: Atoms) -> tuple[int, int]:
    """The oxygen and the carbon next to it."""
    oxygen = int(np.flatnonzero(atoms.numbers == 8)[0])
    carbons = np.flatnonzero(atoms.numbers == 6)
    nearest = np.argmin(atoms.get_distances(oxygen, carbons))
    return int(carbons[nearest]), oxygen


def scan(
    relaxed: Atoms, carbon: int, oxygen: int, lengths: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Energies in eV above the minimum, with the rest of the molecule stiff, and relaxed."""
    minimum = relaxed.get_potential_energy()
    # The hydroxyl group moves as one.
    hydrogens = np.flatnonzero(relaxed.numbers == 1)
    hydroxyl = [oxygen, int(hydrogens[np.argmin(relaxed.get_distances(oxygen, hydrogens))])]
    stiff, soft = [], []
    for length in lengths:
        atoms = relaxed.copy()
        atoms.calc = relaxed.calc
        atoms.set_distance(carbon, oxygen, length, fix=0, indices=hydroxyl)
        stiff.append(atoms.get_potential_energy() - minimum)
        atoms.set_constraint(FixBondLength(carbon, oxygen))
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=steps)
        soft.append(atoms.get_potential_energy() - minimum)
    return np.array(stiff), np.array(soft)


def draw(lengths: np.ndarray, stiff: np.ndarray, soft: np.ndarray, seen: np.ndarray) -> Figure:
    """Energy over the length of the bond, and the lengths in the training set."""
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axvspan(seen.min(), seen.max(), color="0.92", label="lengths in training")
    axes.plot(lengths, stiff, label="rest of the molecule stiff")
    axes.plot(lengths, soft, ".-", label="rest relaxed")
    axes.set(xlabel="length of the C-O bond [Ang]", ylabel="energy above the minimum [eV]")
    axes.set_ylim(bottom=min(0.0, 1.05 * float(min(stiff.min(), soft.min()))))
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
