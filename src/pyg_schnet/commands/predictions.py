r"""Predictions, and the files they are written to."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from ..data.ase import to_ase
from ..data.units import convert
from ..loader import MoleculeLoader
from ..nn import SchNet
from ..nn.checks import check_species
from ..nn.contacts import Contacts
from ..nn.unpack import unpack
from ..storage import write_atomically
from .flags import UsageError
from .structures import Failures, Structure, salvage

TABLE, ARRAYS, FRAMES = ".csv", ".npz", (".xyz", ".extxyz")


@dataclass(frozen=True)
class Prediction:
    """A molecule, and what a model says of it.

    Attributes:
        structure: The molecule.
        value: The target.
        forces: Forces ``[N, 3]``, if they were asked for.
        conformers: Of how many conformers this one is the lowest.
    """

    structure: Structure
    value: float
    forces: Tensor | None = None
    conformers: int = 1


def predict(
    model: SchNet,
    structures: Sequence[Structure],
    forces: bool,
    failures: Failures,
    contacts: Contacts,
) -> list[Prediction]:
    """Predicts molecules together, and one by one where some of them fail.

    Warns of those that have atoms closer than the model has learnt about, and once of each
    composition that it has not.

    Args:
        model: The model.
        structures: The molecules.
        forces: Whether to predict forces.
        failures: Takes molecules that the model refuses.
        contacts: Looks for what to warn of.
    """
    species, known = model.species.cpu(), []
    for structure in structures:  # what fails often is found without predicting anything twice
        try:
            check_species(structure.data.z, species)
            known.append(structure)
        except ValueError as error:
            failures.add(structure.number, structure.label, error)

    def work(numbers: Sequence[int]) -> list[Prediction]:
        chosen = [known[number] for number in numbers]
        batch = next(iter(MoleculeLoader([it.data for it in chosen], len(chosen))))
        result = model.predict(batch, forces)
        values = result[model.target].tolist()
        for value, structure in zip(values, chosen):
            if not np.isfinite(value):
                raise ValueError(f"the prediction is {value} ({structure.data.num_nodes} atoms)")
        system, compositions = unpack(model, batch), contacts.compositions
        warned = list(contacts.find(system).items())
        for number, formula in compositions.news(system).items():
            warned.append((number, f"{compositions.sentence(formula)} (said once)"))
        for number, reason in warned:
            text = f"warning: molecule {chosen[number].described}: {reason}"
            tqdm.write(text, file=sys.stderr)
        parts: Sequence[Any] = [None] * len(chosen)
        if "forces" in result:
            parts = result["forces"].cpu().split([it.data.num_nodes for it in chosen])
        return [Prediction(*one) for one in zip(chosen, values, parts)]

    def fail(number: int, error: Exception) -> None:
        failures.add(known[number].number, known[number].label, error)

    if not known:
        return []
    return [one for _, part in salvage(range(len(known)), work, fail) for one in part]


def lowest(predictions: Sequence[Prediction], failures: Failures) -> list[Prediction]:
    """Of each molecule the conformer with the lowest value, with their number.

    Molecules of which any conformer failed have been said to be skipped, and are.

    Args:
        predictions: Of all conformers, those of a molecule one after the other.
        failures: The molecules that failed.
    """
    groups = groupby(predictions, key=lambda one: one.structure.number)
    chosen = []
    for number, group in groups:
        if number not in failures.reasons:
            conformers = list(group)
            best = min(conformers, key=lambda one: one.value)
            chosen.append(replace(best, conformers=len(conformers)))
    return chosen


def write(path: str | Path, predictions: Sequence[Prediction], model: SchNet) -> None:
    """Writes predictions, in the format that the ending of the file says.

    Args:
        path: ``.csv``, ``.npz``, ``.xyz`` or ``.extxyz``.
        predictions: What to write.
        model: The model, for the name and the unit of the target.

    Raises:
        ImportError: If ASE is needed and not installed.
        UsageError: If the format wants units that the model does not know.
    """
    suffix = Path(path).suffix.lower()
    if suffix == TABLE:
        content = as_csv(predictions, model).encode()
    elif suffix == ARRAYS:
        content = _as_npz(predictions, model)
    else:
        content = _as_frames(predictions, model).encode()
    write_atomically(path, content)


def as_csv(predictions: Sequence[Prediction], model: SchNet) -> str:
    """One row per molecule: its place in the file, name, number of atoms, and the target.

    Molecules from SMILES have these and the number of their conformers besides.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    unit = f" [{model.units}]" if model.units else ""
    from_smiles = any("smiles" in one.structure.data for one in predictions)
    more = ["smiles", "conformers"] if from_smiles else []
    writer.writerow(["molecule", "name", *more, "atoms", f"{model.target}{unit}"])
    for one in predictions:
        structure = one.structure
        first: list[Any] = [structure.number, structure.name]
        if from_smiles:
            first += [structure.data.smiles, one.conformers]
        writer.writerow([*first, structure.data.num_nodes, one.value])
    return text.getvalue()


def _as_npz(predictions: Sequence[Prediction], model: SchNet) -> bytes:
    """Arrays that ``MoleculeDataset.from_file`` reads, in the unit of the model."""
    molecules = [one.structure.data for one in predictions]
    is_energy = model.target == "energy"
    arrays: dict[str, Any] = {
        "molecule": np.array([one.structure.number for one in predictions]),
        "names": np.array([one.structure.name for one in predictions]),
        "n_atoms": np.array([data.num_nodes for data in molecules]),
        "z": torch.cat([data.z for data in molecules]).numpy(),
        "R": torch.cat([data.pos for data in molecules]).numpy(),
        "E" if is_energy else model.target: np.array([one.value for one in predictions]),
        "r_unit": "Ang",
    }
    if model.units is not None:
        arrays["e_unit" if is_energy else f"{model.target}_unit"] = model.units
    if "cell" in molecules[0]:
        arrays |= {
            name: torch.cat([data[name] for data in molecules]).numpy() for name in ("cell", "pbc")
        }
    forces = [one.forces for one in predictions if one.forces is not None]
    if forces:
        arrays["F"] = torch.cat(forces).numpy()
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _as_frames(predictions: Sequence[Prediction], model: SchNet) -> str:
    """Extended XYZ in the units of ASE: eV and angstrom."""
    factor = 1.0
    if model.target == "energy":
        if model.units is None:
            raise UsageError(
                "the model does not know its unit, and the energies of this format are in eV: set "
                "'units' of the model and save it, or write .csv or .npz"
            )
        factor = convert(1.0, model.units, "eV")
    frames = []
    for one in predictions:
        fields = {key: one.structure.data[key] for key in one.structure.data.keys()}  # noqa: SIM118
        data = Data(**fields)
        data[model.target] = torch.tensor([factor * one.value], dtype=torch.float64)
        if one.forces is not None:
            data.force = factor * one.forces
        atoms: Any = to_ase(data)
        atoms.info["molecule"] = one.structure.number
        if "smiles" in data:
            atoms.info["conformers"] = one.conformers
        if one.structure.name:
            atoms.info["name"] = one.structure.name
        frames.append(atoms)
    from ase.io import write as write_frames

    text = io.StringIO()
    write_frames(text, frames, format="extxyz")
    return text.getvalue()
