r"""Molecular dynamics with ASE: at constant temperature, then at constant energy.

    python examples/ase_md.py

trains a model of ethanol on 950 frames that come with the package (three minutes; the model in
``--model`` if there is one already), brings it to 300 K by 10,000 steps of Langevin dynamics, and
goes on for 10,000 steps without a thermostat. Forces are the exact derivative of the energy, so
the total energy does not drift. It fluctuates, as steps of 0.5 fs are a twentieth of the fastest
vibration: what velocity Verlet conserves is a total energy with a correction that grows with the
square of the step, and both are shown. The directory of the run then holds
``energy_conservation.png``, ``dynamics.json`` and the trajectory ``dynamics.xyz``.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ethanol import add_model_arguments, frame_of_ethanol, trained_model
from matplotlib.figure import Figure

from pyg_schnet import SchNetCalculator


def main() -> None:
    """Trains, relaxes, heats, lets go."""
    args = parse_arguments()
    args.directory.mkdir(parents=True, exist_ok=True)

    # 1. A calculator; whatever the unit of the model, ASE gets eV and angstrom.
    dtype = torch.float64 if args.double else None
    calculator = SchNetCalculator(trained_model(args), dtype=dtype)

    # 2. A molecule at rest, then with random velocities.
    atoms = frame_of_ethanol()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    generator = np.random.default_rng(args.seed)
    spread = np.sqrt(atoms.get_masses() * units.kB * args.temperature)
    atoms.set_momenta(spread[:, None] * generator.standard_normal((len(atoms), 3)))
    Stationary(atoms)
    ZeroRotation(atoms)

    # 3. Constant temperature. Fixing the centre of mass would heat a molecule this small.
    step = args.timestep * units.fs
    friction = 0.01 / units.fs
    langevin = Langevin(
        *(atoms, step),
        temperature_K=args.temperature,
        friction=friction,
        fixcm=False,
        rng=generator,
    )
    nvt = run(langevin, args.steps)
    print(
        f"Constant temperature: {nvt['steps_per_second']:,.0f} steps/s, "
        f"{nvt['temperature'][args.steps // 5 :].mean():.0f} K on average "
        f"(wanted: {args.temperature:g} K)"
    )

    # 4. Constant energy.
    Stationary(atoms)
    nve = run(VelocityVerlet(atoms, step), args.steps, args.directory / "dynamics.xyz")
    conserved = shadow_energy(nve, atoms.get_masses(), step)
    print(
        f"Constant energy: {nve['steps_per_second']:,.0f} steps/s, "
        f"{nve['temperature'].mean():.0f} K on average. In meV per atom:"
    )
    errors = {}
    for name, energy in (("total energy", nve["total"]), ("conserved energy", conserved)):
        errors[name] = spread_and_drift(energy / len(atoms), args.timestep)
        largest, rms, drift = (1e3 * value for value in errors[name].values())
        print(
            f"  {name:<17} within {largest:.4f} of its mean, RMS {rms:.4f}, "
            f"drift {drift:+.5f} per ps"
        )

    # 5. A picture and numbers to keep.
    figure = draw(nvt, nve, conserved, len(atoms), args.timestep)
    figure.savefig(args.directory / "energy_conservation.png")
    summary = {
        "steps": args.steps,
        "timestep_fs": args.timestep,
        "dtype": "float64" if args.double else "float32",
        **errors,
        "mean_temperature_k": {"nvt": nvt["temperature"].mean(), "nve": nve["temperature"].mean()},
        "steps_per_second": {"nvt": nvt["steps_per_second"], "nve": nve["steps_per_second"]},
    }
    (args.directory / "dynamics.json").write_text(json.dumps(summary, indent=2))
    print(f"Everything is in {args.directory}")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--steps", type=int, default=10_000, help="of each run (default: 10000)")
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs (default: 0.5)")
    parser.add_argument("--temperature", type=float, default=300.0, help="in K (default: 300)")
    parser.add_argument("--double", action="store_true", help="float64: exact filters, slower")
    parser.add_argument("--directory", type=Path, default=Path("runs/ase_md"), help="for results")
    args = parser.parse_args()
    if args.steps < 10:
        parser.error(f"--steps must be at least 10 (got {args.steps})")
    return args


def run(dynamics: Any, steps: int, trajectory: Path | None = None) -> dict[str, Any]:
    """Energies in eV and temperatures in K of all steps, and how fast they went."""
    atoms, rows, frames = dynamics.atoms, [], []
    motion = []

    def record() -> None:
        rows.append(
            (atoms.get_potential_energy(), atoms.get_kinetic_energy(), atoms.get_temperature())
        )
        motion.append((atoms.get_velocities(), atoms.get_forces()))

    dynamics.attach(record, interval=1)
    if trajectory is not None:
        dynamics.attach(lambda: frames.append(atoms.copy()), interval=20)
    begin = time.perf_counter()
    dynamics.run(steps)
    seconds = time.perf_counter() - begin
    if trajectory is not None:
        write(trajectory, frames)
    potential, kinetic, temperature = np.array(rows).T
    velocities, forces = np.array(motion).swapaxes(0, 1)
    return {
        "potential": potential,
        "total": potential + kinetic,
        "temperature": temperature,
        "velocities": velocities,
        "forces": forces,
        "steps_per_second": steps / seconds,
    }


def shadow_energy(nve: dict[str, Any], masses: np.ndarray, step: float) -> np.ndarray:
    r"""The energy that velocity Verlet conserves to fourth order, of all steps but the outermost.

    .. math::
        \tilde{H} = H + h^2 \left( \tfrac{1}{12} v^T V'' v - \tfrac{1}{24} F^T M^{-1} F \right)

    where V'' v is the rate at which the forces fall (Leimkuhler and Reich, Simulating Hamiltonian
    Dynamics, 2004).
    """
    velocities, forces = nve["velocities"], nve["forces"]
    rate = (forces[2:] - forces[:-2]) / (2.0 * step)
    curvature = -(velocities[1:-1] * rate).sum(axis=(1, 2))
    squared = (forces[1:-1] ** 2 / masses[:, None]).sum(axis=(1, 2))
    return nve["total"][1:-1] + step**2 * (curvature / 12.0 - squared / 24.0)


def spread_and_drift(energy: np.ndarray, timestep: float) -> dict[str, float]:
    """Largest and RMS deviation from the mean, and slope per picosecond."""
    deviation = energy - energy.mean()
    picoseconds = 1e-3 * timestep * np.arange(len(energy))
    return {
        "largest_deviation_ev_per_atom": float(np.abs(deviation).max()),
        "rms_deviation_ev_per_atom": float(deviation.std()),
        "drift_ev_per_atom_per_ps": float(np.polyfit(picoseconds, deviation, 1)[0]),
    }


def draw(nvt: dict, nve: dict, conserved: np.ndarray, num_atoms: int, timestep: float) -> Figure:
    """Total energy per atom, potential energy, and the temperature of both runs."""
    picoseconds = 1e-3 * timestep * np.arange(len(nve["total"]))
    figure = Figure(figsize=(7, 7), dpi=150, layout="constrained")
    total, potential, temperature = figure.subplots(3, sharex=True)
    total.axhspan(-0.1, 0.1, color="0.9", label="1e-4 eV per atom")
    for energy, times, name in (
        (nve["total"], picoseconds, "total energy"),
        (conserved, picoseconds[1:-1], "energy that the integrator conserves"),
    ):
        total.plot(times, 1e3 * (energy - energy.mean()) / num_atoms, lw=0.5, label=name)
    total.set_ylabel("energy per atom\nminus mean [meV]")
    total.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    change = 1e3 * (nve["potential"] - nve["potential"].mean()) / num_atoms
    potential.plot(picoseconds, change, lw=0.5)
    potential.set_ylabel("potential energy per\natom minus mean [meV]")
    temperature.plot(picoseconds, nvt["temperature"], lw=0.5, color="C1", label="Langevin, before")
    temperature.plot(picoseconds, nve["temperature"], lw=0.5, color="C0", label="constant energy")
    temperature.legend(frameon=False, loc="upper right")
    temperature.set(xlabel="time [ps]", ylabel="temperature [K]")
    return figure


if __name__ == "__main__":
    main()
