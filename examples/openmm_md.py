r"""Dynamics with OpenMM, which calls the model through its PythonForce.

    pip install pyg-schnet[openmm]
    python examples/openmm_md.py

runs ethanol with the model that comes with the package for 5,000 steps at constant energy, in a few
seconds on one core, and prints how well the total energy is conserved.

OpenMM counts in nm and kJ/mol: :class:`Potential` converts. All else of OpenMM (thermostats,
constraints, restraints beside the model) works as always.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

try:
    import openmm
    import openmm.app
except ImportError as error:
    raise SystemExit("this example needs OpenMM: pip install pyg-schnet[openmm]") from error

from pyg_schnet import SchNet
from pyg_schnet.data.units import convert
from pyg_schnet.datasets import MD17Sample

ANGSTROM_PER_NM = 10.0
EVERY = 5  # steps between looks at the energy: not a multiple of any vibration
PICOSECOND_PER_FS = 1e-3


class Potential:
    """What PythonForce calls: energy and forces of a model, for one molecule.

    Args:
        model: A model that predicts energies and knows their unit.
        z: Atomic numbers ``[N]``, in the order of the particles.
    """

    def __init__(self, model: SchNet, z: Tensor):
        if model.units is None:
            raise ValueError("the model does not know the unit of its energies: set 'model.units'")
        self.model = model.freeze()
        self.z = z
        self.factor = convert(1.0, model.units, "kJ/mol")

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces ``[N, 3]`` in kJ/mol/nm."""
        positions = state.getPositions(asNumpy=True).value_in_unit(openmm.unit.angstrom)
        result = self.model.predict(Data(z=self.z, pos=torch.from_numpy(positions)))
        forces = self.factor * ANGSTROM_PER_NM * result["forces"].double()
        if not bool(forces.isfinite().all()):
            raise FloatingPointError("the model gives forces that are not finite")
        return self.factor * float(result["energy"]), forces.numpy()


def make_simulation(
    potential: Potential, pos: Tensor, timestep: float, temperature: float, seed: int
) -> tuple[openmm.Context, openmm.VerletIntegrator]:
    """A molecule in motion, positions ``[N, 3]`` in angstrom."""
    system = openmm.System()
    for number in potential.z.tolist():
        system.addParticle(openmm.app.Element.getByAtomicNumber(number).mass)
    system.addForce(openmm.PythonForce(potential))
    integrator = openmm.VerletIntegrator(PICOSECOND_PER_FS * timestep)
    # All the work is in the model; this platform does the little else there is in float64.
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(pos.double().numpy() / ANGSTROM_PER_NM)
    context.setVelocitiesToTemperature(temperature, seed)
    return context, integrator


def total_energy(context: openmm.Context) -> float:
    """Kinetic and potential energy in eV."""
    state: Any = context.getState(energy=True)
    total = state.getKineticEnergy() + state.getPotentialEnergy()
    return convert(total.value_in_unit(openmm.unit.kilojoule_per_mole), "kJ/mol", "eV")


def conservation(energies: np.ndarray) -> str:
    """What total energies per atom ``[T]`` do: swing with each vibration, and drift if wrong."""
    third = -(-len(energies) // 3)
    drift = 1e3 * abs(energies[-third:].mean() - energies[:third].mean())
    swing = 1e3 * energies.std()
    return f"total energy swings by {swing:.3f} meV per atom, has drifted by {drift:.3f}"


def main() -> None:
    """Runs the dynamics and prints what came out."""
    args = parse_arguments()
    frame = MD17Sample("ethanol", train=False)[0]
    potential = Potential(SchNet.from_pretrained("md17-ethanol"), frame.z)
    context, integrator = make_simulation(
        potential, frame.pos, args.timestep, args.temperature, args.seed
    )
    version = openmm.Platform.getOpenMMVersion()
    print(f"OpenMM {version}: ethanol, {args.timestep} fs a step")
    energies = [total_energy(context)]
    seconds, done = 0.0, 0
    while done < args.num_steps:
        steps = min(EVERY, args.num_steps - done)
        begin = time.perf_counter()
        integrator.step(steps)
        seconds += time.perf_counter() - begin
        done += steps
        energies.append(total_energy(context))
        if done % 1000 == 0 or done == args.num_steps:
            print(f"step {done:6}: {conservation(np.array(energies) / len(frame.z))}", flush=True)
    print(f"{done / seconds:.0f} steps/s")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-steps", type=int, default=5_000, help="of dynamics")
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="of velocities, in K")
    parser.add_argument("--seed", type=int, default=1, help="of velocities")
    args = parser.parse_args()
    if args.num_steps < 1 or args.timestep <= 0:
        parser.error(
            "--num-steps must be at least 1 and --timestep positive "
            f"(got {args.num_steps} and {args.timestep})"
        )
    return args


if __name__ == "__main__":
    main()
