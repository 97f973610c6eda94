r"""Dynamics of many molecules at once with TorchSim.

    pip install pyg-schnet[torchsim]
    python examples/torchsim_md.py

takes 50 frames of ethanol and the model that comes with the package, gives every molecule
velocities of its own, and runs all of them at constant energy as one batch, in half a minute on one
core. Printed are the steps per second, and how well the total energy of each is conserved.
``--num-steps 100 --num-molecules 10`` takes seconds.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

try:
    import torch_sim as ts
    from torch_sim.quantities import calc_kinetic_energy
except ImportError as error:
    raise SystemExit("this example needs TorchSim: pip install pyg-schnet[torchsim]") from error

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.interfaces.torchsim import SchNetModel

MASSES = {1: 1.008, 6: 12.011, 8: 15.999}
BOLTZMANN = ts.units.MetalUnits.temperature  # eV/K
FEMTOSECOND = 1e-3 * ts.units.MetalUnits.time
EVERY = 5  # steps between looks at the energy: not a multiple of any vibration


def start(num_molecules: int, model: SchNetModel) -> ts.SimState:
    """Frames of ethanol, evenly spread over those that the package has."""
    frames = MD17Sample("ethanol", train=False)
    chosen = [frames[i * len(frames) // num_molecules] for i in range(num_molecules)]
    z = torch.cat([frame.z for frame in chosen])
    return ts.SimState(
        positions=torch.cat([frame.pos for frame in chosen]).to(model.dtype),
        masses=torch.tensor([MASSES[n] for n in z.tolist()], dtype=model.dtype),
        cell=torch.zeros(num_molecules, 3, 3, dtype=model.dtype),
        pbc=False,
        atomic_numbers=z,
        system_idx=torch.arange(num_molecules).repeat_interleave(len(chosen[0].z)),
    )


def constant_energy(
    model: SchNetModel, state: ts.SimState, temperature: float, timestep: float, seed: int
) -> tuple[ts.SimState, Callable]:
    """A state with velocities, and the function that takes it one step of velocity Verlet on."""
    kT = torch.tensor(BOLTZMANN * temperature, dtype=model.dtype)
    dt = torch.tensor(FEMTOSECOND * timestep, dtype=model.dtype)
    if hasattr(ts, "nve"):  # up to 0.3, the last version for Python 3.11
        begin, advance = ts.nve(model, dt=dt, kT=kT, seed=seed)
        return begin(state), advance
    state.rng = seed
    return ts.nve_init(state, model, kT=kT), partial(ts.nve_step, model=model, dt=dt)


def total_energy(state: ts.SimState) -> Tensor:
    """Kinetic and potential energy of each molecule ``[B]``, in eV."""
    kinetic = calc_kinetic_energy(
        masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
    )
    return kinetic + state.energy


def conservation(energies: Tensor) -> str:
    """What total energies per atom ``[T, B]`` do: swing with each vibration, and drift if wrong.

    Of the worst molecule: deviations from its mean, and how far the mean of the last third of the
    time is from that of the first.
    """
    swing = 1e3 * energies.std(dim=0).max()
    third = -(-len(energies) // 3)
    drift = 1e3 * (energies[-third:].mean(dim=0) - energies[:third].mean(dim=0)).abs().max()
    return f"total energies swing by {swing:.3f} meV per atom, have drifted by {drift:.3f}"


def main() -> None:
    """Runs the dynamics and prints what came out."""
    args = parse_arguments()
    model = SchNetModel(SchNet.from_pretrained("md17-ethanol"))
    state = start(args.num_molecules, model)
    state, advance = constant_energy(model, state, args.temperature, args.timestep, args.seed)
    num_atoms = state.positions.size(0) // args.num_molecules
    print(f"{args.num_molecules} molecules of {num_atoms} atoms, {args.timestep} fs a step")
    energies = [total_energy(state)]
    seconds, done = 0.0, 0
    while done < args.num_steps:
        steps = min(EVERY, args.num_steps - done)
        begin = time.perf_counter()
        for _ in range(steps):
            state = advance(state)
        seconds += time.perf_counter() - begin
        done += steps
        energies.append(total_energy(state))
        if done % 500 == 0 or done == args.num_steps:
            print(f"step {done:6}: {conservation(torch.stack(energies) / num_atoms)}", flush=True)
    rate = done / seconds
    print(f"{rate:.0f} steps/s, {rate * args.num_molecules:.0f} molecules times steps/s")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-molecules", type=int, default=50, help="in the batch, up to 300")
    parser.add_argument("--num-steps", type=int, default=5_000, help="of dynamics")
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="of velocities, in K")
    parser.add_argument("--seed", type=int, default=0, help="of velocities")
    args = parser.parse_args()
    if not 1 <= args.num_molecules <= 300 or args.num_steps < 1:
        parser.error(
            "--num-molecules must be 1 to 300 and --num-steps at least 1 "
            f"(got {args.num_molecules} and {args.num_steps})"
        )
    return args


if __name__ == "__main__":
    main()
