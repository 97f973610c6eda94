r"""Steps per second of TorchSim with models of this package, for 1 and for 100 molecules.

    python benchmarks/md_torchsim.py

The shipped model of ethanol, frames of the shipped trajectory, velocity Verlet at 0.5 fs.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch_sim as ts
from ase.data import atomic_masses
from torch import Tensor

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.interfaces.torchsim import SchNetModel

TIMESTEP = 0.5  # fs


def dynamics(
    model: SchNet, z: Tensor, pos: Tensor, velocities: Tensor | None = None, count: int = 1
) -> tuple[Callable[[int], None], dict[str, Tensor]]:
    """Dynamics of a molecule, or of copies of it as one batch.

    Args:
        model: The network.
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, 3]`` in angstrom.
        velocities: In the unit of ASE, ``[N, 3]``; drawn at 300 K if ``None``.
        count: Number of copies.

    Returns:
        A function that runs so many steps, and energies and forces at the start.
    """
    ours, units = SchNetModel(model), ts.units.MetalUnits
    masses = torch.from_numpy(atomic_masses)[z].to(ours.dtype)
    state = ts.SimState(
        positions=pos.to(ours.dtype).repeat(count, 1),
        masses=masses.repeat(count),
        cell=torch.zeros(count, 3, 3, dtype=ours.dtype),
        pbc=False,
        atomic_numbers=z.repeat(count),
        system_idx=torch.arange(count).repeat_interleave(len(z)),
    )
    start = ours(state)
    kT = torch.tensor(300.0 * units.temperature, dtype=ours.dtype)
    dt = torch.tensor(1e-3 * TIMESTEP * units.time, dtype=ours.dtype)
    if hasattr(ts, "nve"):  # up to 0.3, the last version for Python 3.11
        begin, advance = ts.nve(ours, dt=dt, kT=kT, seed=0)
        state = begin(state)
    else:
        state.rng = 0
        state = ts.nve_init(state, ours, kT=kT)
        advance = partial(ts.nve_step, model=ours, dt=dt)
    if velocities is not None:
        state.momenta = (masses.unsqueeze(1) * velocities.to(ours.dtype)).repeat(count, 1)

    def run(num_steps: int) -> None:
        nonlocal state
        for _ in range(num_steps):
            state = advance(state)

    return run, start


def steps_per_second(count: int, num_steps: int) -> float:
    """Of ``count`` molecules of ethanol, each in so many steps, after a tenth to warm up."""
    frame = MD17Sample("ethanol", train=False)[0]
    run, _ = dynamics(SchNet.from_pretrained("md17-ethanol"), frame.z, frame.pos, count=count)
    run(-(-num_steps // 10))
    begin = time.perf_counter()
    run(num_steps)
    return num_steps / (time.perf_counter() - begin)


if __name__ == "__main__":
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rates = {1: steps_per_second(1, num_steps), 100: steps_per_second(100, -(-num_steps // 10))}
    print(json.dumps({"steps_per_second": {n: round(rate, 1) for n, rate in rates.items()}}))
