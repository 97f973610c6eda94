r"""What is computed in the benchmarks: real geometries with all their edges within a cutoff."""

import itertools
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet import radius_graph
from pyg_schnet.datasets import QM9Sample

# Settings of the networks; peers take what of it they have.
NETWORKS: dict[str, dict] = {
    "paper": {"features": 64, "blocks": 3, "gaussians": 300, "cutoff": 30.0},
    "128/6/50/10": {"features": 128, "blocks": 6, "gaussians": 50, "cutoff": 10.0},
    "128/3/20/5": {"features": 128, "blocks": 3, "gaussians": 20, "cutoff": 5.0},
}

# Name: network, and how the atoms are made.
SYSTEMS: dict[str, tuple[str, str]] = {
    "paper, batch 32": ("paper", "batch of 32"),
    "128/6/50/10 A, batch 100": ("128/6/50/10", "batch of 100"),
    "128/3/20/5 A, batch 100": ("128/3/20/5", "batch of 100"),
    "paper, one molecule of 18 atoms": ("paper", "molecule"),
    "paper, C60": ("paper", "C60"),
    "128/3/20/5 A, cluster of 2,000 atoms": ("128/3/20/5", "cluster"),
}

# A molecule of water, in angstrom, and the spacing of molecules at the density of the liquid.
_WATER = ((0.0, 0.0, 0.0), (0.7569, 0.5859, 0.0), (-0.7569, 0.5859, 0.0))
_WATER_SPACING = 3.104


def write_system(name: str, path: Path, seed: int = 0) -> dict[str, int]:
    """Writes the arrays of a system for all contenders, and tells its size.

    Args:
        name: One of ``SYSTEMS``.
        path: An npz file.
        seed: Seed of which molecules are taken, and of the labels.
    """
    network, kind = SYSTEMS[name]
    generator = torch.Generator().manual_seed(seed)
    z, pos, batch = _atoms(kind, generator)
    edge_index = radius_graph(pos, NETWORKS[network]["cutoff"], batch)
    num_molecules = int(batch[-1]) + 1
    np.savez(
        path,
        z=z.numpy(),
        pos=pos.numpy(),
        batch=batch.numpy(),
        edge_index=edge_index.numpy(),
        energy=torch.randn(num_molecules, generator=generator).numpy(),
        forces=torch.randn(pos.shape, generator=generator).numpy(),
    )
    return {"atoms": len(z), "molecules": num_molecules, "edges": edge_index.size(1)}


def write_water(atoms: int, path: Path, cutoff: float | None, seed: int = 0) -> dict[str, int]:
    """Writes a periodic box of water, and tells its size.

    It has the density of the liquid, 0.1 atoms per cubic angstrom, and molecules turned at random
    on a lattice that keeps all atoms of different ones at least 1.1 A apart.

    Args:
        atoms: About how many atoms; the box is a cuboid of whole molecules, as cubic as can be.
        path: An npz file.
        cutoff: Length of the longest edges; none are looked for if ``None``.
        seed: Seed of the turns.
    """
    generator = torch.Generator().manual_seed(seed)
    molecules = atoms / 3
    edge = max(1, round(molecules ** (1 / 3)))
    edges = range(max(1, edge - 1), edge + 2)
    counts = min(
        itertools.combinations_with_replacement(edges, 3),
        key=lambda counts: abs(math.prod(counts) - molecules),
    )
    places = torch.cartesian_prod(*(torch.arange(count) for count in counts)) * _WATER_SPACING
    turns, _ = torch.linalg.qr(torch.randn(len(places), 3, 3, generator=generator))
    pos = (places.unsqueeze(1) + torch.tensor(_WATER) @ turns).flatten(0, 1)  # [N, 3]
    cell = torch.diag(torch.tensor(counts) * _WATER_SPACING).unsqueeze(0)
    arrays = {
        "z": torch.tensor([8, 1, 1]).repeat(len(places)).numpy(),
        "pos": pos.numpy(),
        "batch": np.zeros(len(pos), np.int64),
        "energy": np.zeros(1, np.float32),
        "forces": np.zeros((len(pos), 3), np.float32),
        "cell": cell.numpy(),
    }
    if cutoff is None:
        np.savez(path, **arrays, edge_index=np.zeros((2, 0), np.int64))
        return {"atoms": len(pos)}
    edge_index, edge_shift = radius_graph(pos, cutoff, cell=cell)
    np.savez(
        path,
        **arrays,
        edge_index=edge_index.numpy(),
        edge_shift=edge_shift.numpy(),
        offsets=(edge_shift * cell[0].diagonal()).numpy(),
    )
    return {"atoms": len(pos), "edges": edge_index.size(1)}


def _atoms(kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    if kind == "C60":
        pos = _buckminsterfullerene()
        return torch.full((60,), 6), pos, torch.zeros(60, dtype=torch.long)
    dataset = QM9Sample()
    if kind.startswith("batch of"):
        chosen = torch.randperm(len(dataset), generator=generator)[: int(kind.split()[-1])]
        batch = Batch.from_data_list([dataset[int(i)] for i in chosen])
        return batch.z, batch.pos, batch.batch
    eighteen = [data for data in dataset if data.num_nodes == 18]
    if kind == "molecule":
        data = eighteen[0]
        return data.z, data.pos, torch.zeros(18, dtype=torch.long)
    return _cluster(eighteen, generator)


def _cluster(molecules: list, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """111 molecules of 18 atoms, turned at random, on a lattice as dense as an organic liquid.

    Some touch, which matters to energies but not to the time they take.
    """
    z, pos = [], []
    for k in range(111):
        data = molecules[k % len(molecules)]
        turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
        place = torch.tensor([k // 25, k // 5 % 5, k % 5]) * 7.0
        z.append(data.z)
        pos.append((data.pos - data.pos.mean(dim=0)) @ turn + place)
    atoms = torch.cat(z)
    return atoms, torch.cat(pos), torch.zeros_like(atoms)


def _buckminsterfullerene() -> Tensor:
    """Truncated icosahedron with edges of 1.44 A: the even permutations of three points."""
    phi = (1 + 5**0.5) / 2
    corners = [(0, 1, 3 * phi), (1, 2 + phi, 2 * phi), (phi, 2, phi**3)]
    points = {
        (s[k % 3], s[(k + 1) % 3], s[(k + 2) % 3])
        for x, y, z in corners
        for a in (1, -1)
        for b in (1, -1)
        for c in (1, -1)
        for s in [(a * x, b * y, c * z)]
        for k in range(3)
    }
    unique = {tuple(round(value, 9) + 0.0 for value in point) for point in points}
    return torch.tensor(sorted(unique), dtype=torch.float32) * (1.44 / 2)
