r"""``Data`` objects of the user, made into a data set."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset

from ..data.flat import FlatMolecules
from .collated import Slices


def collate_objects(molecules: Iterable[Data]) -> tuple[Data, Slices]:
    r"""Collates molecules that make sense, and leaves them as they are.

    Numbers that are no tensors become float64, and so does ``energy``: PyG would round them.

    Raises:
        TypeError: If they are not ``Data``, or batches.
        ValueError: If they have no atoms or positions, different fields, or impossible atoms, or if
            ``energy``, ``force`` or ``stress`` have another shape than a molecule needs.
    """
    molecules = [_checked(molecule, i) for i, molecule in enumerate(molecules)]
    if not molecules:
        raise ValueError("there are no molecules")
    fields = sorted(molecules[0].keys())
    for i, molecule in enumerate(molecules):
        if sorted(molecule.keys()) != fields:
            raise ValueError(
                f"all molecules must have the same fields: molecule 0 has {fields}, molecule {i} "
                f"{sorted(molecule.keys())}"
            )
    data, slices = InMemoryDataset.collate(molecules)
    cell, pbc = data.get("cell"), data.get("pbc")
    FlatMolecules.of(
        np.array([molecule.z.numel() for molecule in molecules]),
        data.z.cpu().numpy(),
        data.pos.detach().cpu().numpy(),
        cell=None if cell is None else cell.detach().cpu().numpy(),
        pbc=None if pbc is None else pbc.cpu().numpy(),
    )
    return data, slices


def _checked(molecule: Data, number: int) -> Data:
    """A molecule with labels of the right shapes; shares its tensors."""
    if not isinstance(molecule, Data):
        raise TypeError(
            f"expected Data (got {type(molecule).__name__} as molecule {number}): for ase.Atoms "
            "use MoleculeDataset.from_ase"
        )
    if isinstance(molecule, Batch) or "batch" in molecule:
        raise TypeError(
            f"molecule {number} is a batch of molecules: take it apart by its to_data_list()"
        )
    for name in ("z", "pos"):
        if not isinstance(molecule.get(name), Tensor):
            raise ValueError(
                f"molecule {number} must have '{name}', a tensor (its fields are "
                f"{sorted(molecule.keys())})"
            )
    molecule = copy.copy(molecule)
    for name in molecule.keys():  # noqa: SIM118 - iterating over Data gives pairs
        if isinstance(molecule[name], float):
            molecule[name] = torch.tensor([molecule[name]], dtype=torch.float64)
    if molecule.z.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        molecule.z = molecule.z.long()
    if "energy" in molecule:
        molecule.energy = torch.as_tensor(molecule.energy, dtype=torch.float64)
    vectors: list[tuple[int, ...]] = [(molecule.z.numel(), 3)]
    shapes: dict[str, list[tuple[int, ...]]] = {
        "pos": vectors,
        "force": vectors,
        "energy": [(), (1, 1), (1,)],
        "stress": [(1, 3, 3)],
    }
    for name, allowed in shapes.items():
        value = molecule.get(name)
        if value is not None and (not isinstance(value, Tensor) or value.shape not in allowed):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"'{name}' of molecule {number} must have the shape {list(allowed[-1])} (got "
                f"{found})"
            )
    if "energy" in molecule:
        molecule.energy = molecule.energy.reshape(1)
    return molecule
