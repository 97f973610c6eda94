r"""Runs the dynamics of one contender, in a process of its own, and prints JSON.

    python benchmarks/md_worker.py CONTENDER SYSTEM.npz STEPS [DEVICE]

Needs nothing but ASE, torch, numpy and the contender's own packages. ``SYSTEM.npz`` holds the atoms
and all weights of the network, under the names of this package, as ``md.py`` writes it.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from worker import tune, version

TIMESTEP = 0.5  # fs
SEGMENTS = 10


def main() -> None:
    """Runs some steps, then times the others in segments."""
    name, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tune()
    with np.load(path) as file:
        system = dict(file)
    system["device"] = np.array(sys.argv[4] if len(sys.argv) > 4 else "cpu")
    prepare, package = CONTENDERS[name]
    run, start, extra = prepare(system)
    each = max(1, steps // SEGMENTS)
    run(each)  # compiles, fills caches
    times = []
    for _ in range(SEGMENTS):
        begin = time.perf_counter()
        run(each)
        times.append(1e3 * (time.perf_counter() - begin) / each)
    about = {
        "version": version(package),
        "torch": torch.__version__,
        "ase": version("ase"),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({"step_ms": times, "start": start, "about": about, **extra()}))


def make_atoms(system: dict[str, np.ndarray]) -> Any:
    """The molecule in motion, as ``ase.Atoms``."""
    from ase import Atoms

    atoms = Atoms(numbers=system["z"], positions=system["pos"])
    atoms.set_velocities(system["velocities"])
    return atoms


def with_ase(
    system: dict[str, np.ndarray], calculator: Any, offset: float = 0.0
) -> tuple[Callable[[int], None], dict]:
    """Velocity Verlet of ASE; energy in eV and forces in eV/Ang at the start."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = make_atoms(system)
    atoms.calc = calculator
    start = {
        "energy_ev": atoms.get_potential_energy() + offset,
        "forces_ev_per_ang": atoms.get_forces().tolist(),
    }
    dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
    return dynamics.run, start


def ours_ase(system: dict[str, np.ndarray]) -> tuple[Callable, dict, Callable]:
    """ASE and this package; also the time of the calculator beside that of ``predict``."""
    from pyg_schnet import SchNetCalculator

    model = make_ours(system)
    run, start = with_ase(system, SchNetCalculator(model))
    return run, start, lambda: overhead(system, model)


def overhead(system: dict[str, np.ndarray], model: Any, calls: int = 200) -> dict[str, list[float]]:
    """Times in turn of the ways to energy and forces, at positions that change."""
    from torch_geometric.data import Data

    from pyg_schnet import Potential, SchNetCalculator

    atoms = make_atoms(system)
    atoms.calc = SchNetCalculator(model)
    potential = Potential(model)
    model.freeze()
    generator = np.random.default_rng(0)
    times: dict[str, list[float]] = {"potential_ms": [], "predict_ms": [], "calculator_ms": []}
    z = torch.from_numpy(system["z"])
    for call in range(calls + 10):
        atoms.positions = system["pos"] + 0.001 * generator.normal(size=system["pos"].shape)
        data = Data(z=z, pos=torch.from_numpy(atoms.positions))
        moments = [time.perf_counter()]
        potential(system["z"], atoms.positions)
        moments.append(time.perf_counter())
        model.predict(data)["forces"].cpu()  # waits for a GPU
        moments.append(time.perf_counter())
        atoms.get_forces(), atoms.get_potential_energy()
        moments.append(time.perf_counter())
        if call >= 10:
            for name, milliseconds in zip(times, 1e3 * np.diff(moments)):
                times[name].append(float(milliseconds))
    return times


def ours_loop(system: dict[str, np.ndarray]) -> tuple[Callable, dict, Callable]:
    """A loop around ``Potential``."""
    from pyg_schnet import Potential

    potential, z = Potential(make_ours(system)), system["z"]

    def evaluate(pos: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces, _ = potential(z, pos)
        return energy, forces

    return bare_loop(system, evaluate)


def pyg_loop(system: dict[str, np.ndarray]) -> tuple[Callable, dict, Callable]:
    """The same loop around PyG's SchNet and autograd; pairs are found in plain torch."""
    network = json.loads(str(system["network"]))
    device = device_of(system)
    z = torch.from_numpy(system["z"]).to(device)
    ones = ~torch.eye(len(z), dtype=torch.bool, device=device)

    def graph(pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        close = (torch.cdist(pos.detach(), pos.detach()) < network["cutoff"]) & ones
        edge_index = close.nonzero().T
        source, target = edge_index
        return edge_index, (pos[source] - pos[target]).norm(dim=-1)

    model = make_pyg(system, network, graph).to(device)

    def evaluate(pos: np.ndarray) -> tuple[float, np.ndarray]:
        positions = torch.from_numpy(pos).to(device, torch.float32).requires_grad_()
        energy = model(z, positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return energy.item(), -gradient.double().cpu().numpy()

    return bare_loop(system, evaluate, energy_left_out(system))


def bare_loop(
    system: dict[str, np.ndarray],
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    offset: float = 0.0,
) -> tuple[Callable, dict, Callable]:
    """Velocity Verlet and nothing else; moves ``system["pos"]``.

    Args:
        system: The molecule in motion.
        evaluate: Gives energy and forces in kcal/mol and angstrom.
        offset: What its energy leaves out.
    """
    from ase import units

    atoms, pos = make_atoms(system), system["pos"]
    factor = units.kcal / units.mol
    step = TIMESTEP * units.fs
    velocities = atoms.get_velocities()
    kick = 0.5 * step * factor / atoms.get_masses()[:, None]
    energy, forces = evaluate(pos)
    start = {
        "energy_ev": factor * (energy + offset),
        "forces_ev_per_ang": (factor * forces).tolist(),
    }

    def run(steps: int) -> None:
        nonlocal forces, velocities
        for _ in range(steps):
            velocities += forces * kick
            pos[:] += velocities * step
            _, forces = evaluate(pos)
            velocities += forces * kick

    return run, start, dict


def ours_torchsim(system: dict[str, np.ndarray]) -> tuple[Callable, dict, Callable]:
    """Velocity Verlet of TorchSim with this package."""
    from md_torchsim import dynamics

    z, pos, velocities = (torch.from_numpy(system[name]) for name in ("z", "pos", "velocities"))
    run, start = dynamics(make_ours(system), z, pos, velocities)
    forces = start["forces"].tolist()
    return run, {"energy_ev": start["energy"].item(), "forces_ev_per_ang": forces}, dict


def make_ours(system: dict[str, np.ndarray]) -> Any:
    """The network as this package has it."""
    from pyg_schnet import SchNet

    model = SchNet(**json.loads(str(system["network"])), units="kcal/mol")
    model.load_state_dict(weights_of(system))
    return model.to(device_of(system))


def device_of(system: dict[str, np.ndarray]) -> str:
    """Where networks are evaluated."""
    return str(system.get("device", "cpu"))


def weights_of(system: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state of the network."""
    prefix = "state."
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(value))
        for name, value in system.items()
        if name.startswith(prefix)
    }


def schnetpack_ase(system: dict[str, np.ndarray]) -> tuple[Callable, dict, Callable]:
    """ASE and SchNetPack's calculator, with its list that keeps neighbours within a skin."""
    from schnetpack.interfaces import SpkCalculator
    from schnetpack.transform import ASENeighborList, SkinNeighborList

    model, offset = make_schnetpack(system)

    class Calculator(SpkCalculator):
        """Takes the network itself; files of whole modules no longer load by default."""

        def _load_model(self, model_file: str) -> torch.nn.Module:
            return model.eval()

    cutoff = json.loads(str(system["network"]))["cutoff"]
    calculator = Calculator(
        "none",
        SkinNeighborList(ASENeighborList(cutoff=cutoff), cutoff_skin=1.0),
        energy_unit="kcal/mol",
        position_unit="Ang",
    )
    run, start = with_ase(system, calculator, offset * calculator.energy_conversion)
    return run, start, dict


def make_schnetpack(system: dict[str, np.ndarray]) -> tuple[torch.nn.Module, float]:
    """The same network and weights in SchNetPack, and the energy it leaves out.

    Float32 could not hold it, and dynamics does not need it.
    """
    from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
    from schnetpack.model import NeuralNetworkPotential
    from schnetpack.nn import CosineCutoff, GaussianRBF
    from schnetpack.nn.activations import shifted_softplus
    from schnetpack.representation import SchNet

    network, ours = json.loads(str(system["network"])), weights_of(system)
    width = network["hidden_channels"]
    representation = SchNet(
        n_atom_basis=width,
        n_interactions=network["num_interactions"],
        n_filters=network["num_filters"],
        radial_basis=GaussianRBF(network["num_gaussians"], network["cutoff"]),
        cutoff_fn=CosineCutoff(network["cutoff"]),
        nuclear_embedding=torch.nn.Embedding(len(ours["embedding.weight"]), width),
    )
    head = Atomwise(n_in=width, output_key="energy", activation=shifted_softplus)
    model = NeuralNetworkPotential(
        representation, [PairwiseDistances()], [head, Forces(energy_key="energy")]
    )
    scale = ours["readout.offsets.std"].float()
    theirs = {"representation.embedding.weight": ours["embedding.weight"]}
    for block in range(network["num_interactions"]):
        a, b = f"representation.interactions.{block}", f"interactions.{block}"
        for layer, name in (
            ("in2f", "conv.lin1"),
            ("f2out.0", "conv.lin2"),
            ("f2out.1", "lin"),
            ("filter_network.0", "conv.filter.lin1"),
            ("filter_network.1", "conv.filter.lin2"),
        ):
            for part in ("weight", "bias"):
                if f"{b}.{name}.{part}" in ours:
                    theirs[f"{a}.{layer}.{part}"] = ours[f"{b}.{name}.{part}"]
    for part in ("weight", "bias"):
        theirs[f"output_modules.0.outnet.0.{part}"] = ours[f"readout.lin1.{part}"]
        theirs[f"output_modules.0.outnet.1.{part}"] = scale * ours[f"readout.lin2.{part}"]
    load_all(model, theirs, "SchNetPack")
    return model, energy_left_out(system)


def energy_left_out(system: dict[str, np.ndarray]) -> float:
    """The sum of mean and atom references, which peers do without."""
    ours = weights_of(system)
    references = ours["readout.offsets.atomref"] + ours["readout.offsets.mean"]
    return float(references[torch.from_numpy(system["z"])].sum())


def make_pyg(system: dict[str, np.ndarray], network: dict, graph: Callable) -> torch.nn.Module:
    """The same network and weights in PyG, without the offset that float32 could not hold."""
    from torch_geometric.nn import SchNet

    ours = weights_of(system)
    model = SchNet(
        network["hidden_channels"],
        network["num_filters"],
        network["num_interactions"],
        network["num_gaussians"],
        network["cutoff"],
        interaction_graph=graph,
    )
    scale = ours["readout.offsets.std"].float()
    theirs = {"embedding.weight": ours["embedding.weight"][: model.embedding.num_embeddings]}
    layers = {"lin1": "readout.lin1", "lin2": "readout.lin2"} | {
        f"interactions.{block}.{a}": f"interactions.{block}.{b}"
        for block in range(network["num_interactions"])
        for a, b in (
            ("mlp.0", "conv.filter.lin1"),
            ("mlp.2", "conv.filter.lin2"),
            ("conv.lin1", "conv.lin1"),
            ("conv.lin2", "conv.lin2"),
            ("lin", "lin"),
        )
    }
    for a, b in layers.items():
        factor = scale if a == "lin2" else 1.0
        for part in ("weight", "bias"):
            if f"{b}.{part}" in ours:
                theirs[f"{a}.{part}"] = factor * ours[f"{b}.{part}"]
    load_all(model, theirs, "PyG")
    return model.eval().requires_grad_(False)


def load_all(model: torch.nn.Module, weights: dict[str, torch.Tensor], name: str) -> None:
    """Loads weights into a peer, which must be all it has."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    parameters = {name for name, _ in model.named_parameters()}
    if unexpected or parameters & set(missing):
        raise SystemExit(f"{name} has other weights: {unexpected}, {parameters & set(missing)}")


CONTENDERS: dict[str, tuple[Callable, str]] = {
    "loop": (ours_loop, "pyg_schnet"),
    "ours": (ours_ase, "pyg_schnet"),
    "pyg": (pyg_loop, "torch_geometric"),
    "torchsim": (ours_torchsim, "torch_sim_atomistic"),
    "schnetpack": (schnetpack_ase, "schnetpack"),
}


if __name__ == "__main__":
    main()
