r"""Molecules from SMILES, with coordinates from RDKit."""

import warnings
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from .species import NUM_SPECIES

# Steps of a force field before it is said not to converge.
_MAX_STEPS = 5_000
_FORCE_FIELDS = ("mmff", "uff")


def from_smiles(
    smiles: str,
    *,
    num_conformers: int = 1,
    seed: int = 0,
    optimize: str | None = "mmff",
) -> Data | list[Data]:
    r"""Makes a molecule, hydrogens included, with coordinates from distance geometry.

    Conformers come from ETKDGv3 (`Riniker and Landrum 2015
    <https://doi.org/10.1021/acs.jcim.5b00654>`_) and are relaxed in a force field. They are guesses
    for a first look or as a start of a relaxation: models trained on quantum-chemical minima, such
    as those of QM9, want the geometry that their labels were computed for. The energy of the force
    field is not kept, so that it cannot be taken for a label.

    Args:
        smiles: One molecule.
        num_conformers: How many conformers.
        seed: The same seed gives the same coordinates.
        optimize: ``"mmff"`` relaxes by MMFF94, or by UFF where that has no parameters; ``"uff"``
            by UFF; ``None`` not at all.

    Returns:
        With ``z`` ``[N]``, ``pos`` ``[N, 3]`` in angstrom, ``smiles`` as given, total ``charge``
        ``[1]`` and spin ``multiplicity`` ``[1]`` (unpaired electrons plus one), to notice ions and
        radicals by: SchNet sees neither. A list of these if ``num_conformers`` is more than 1.

    Raises:
        ValueError: If the SMILES is not that of one real molecule, or has no three-dimensional
            structure that could be found.

    >>> from_smiles("O")
    Data(pos=[3, 3], z=[3], smiles='O', charge=[1], multiplicity=[1])
    >>> len(from_smiles("CCCO", num_conformers=3))
    3
    """
    if not isinstance(smiles, str):
        raise TypeError(f"'smiles' must be a string (got {smiles!r})")
    if not isinstance(num_conformers, int):
        raise TypeError(f"'num_conformers' must be a whole number (got {num_conformers!r})")
    if num_conformers < 1:
        raise ValueError(f"'num_conformers' must be at least 1 (got {num_conformers})")
    if optimize is not None and optimize not in _FORCE_FIELDS:
        raise ValueError(f"'optimize' must be 'mmff', 'uff' or None (got {optimize!r})")
    from rdkit.rdBase import BlockLogs

    with BlockLogs():  # what RDKit would print is in the errors
        molecule = _parse(smiles)
        _embed(molecule, smiles, num_conformers, seed)
        if optimize is not None and molecule.GetNumAtoms() > 1:
            _relax(molecule, smiles, optimize)
    z = torch.tensor([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    charge = sum(atom.GetFormalCharge() for atom in molecule.GetAtoms())
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    conformers = [
        Data(
            z=z.clone(),
            pos=_positions(conformer, smiles),
            smiles=smiles,
            charge=torch.tensor([charge]),
            multiplicity=torch.tensor([unpaired + 1]),
        )
        for conformer in molecule.GetConformers()
    ]
    return conformers if num_conformers > 1 else conformers[0]


def _parse(smiles: str) -> Any:
    """The molecule with explicit hydrogens."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        raise ValueError(f"'{smiles}' is not a SMILES: its syntax is wrong")
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(molecule)]
    if problems:
        raise ValueError(f"'{smiles}' is no possible molecule: {'; '.join(problems)}")
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise ValueError(f"'{smiles}' is not the SMILES of a molecule: it has no atoms")
    if len(Chem.GetMolFrags(molecule)) > 1:
        raise ValueError(
            f"'{smiles}' is several molecules, and how they lie to each other is not known: make "
            "one of each, or take coordinates from elsewhere"
        )
    for atom in molecule.GetAtoms():
        if not 1 <= atom.GetAtomicNum() < NUM_SPECIES:
            raise ValueError(
                f"'{smiles}' has atomic number {atom.GetAtomicNum()} ('{atom.GetSymbol()}'): they "
                f"must be 1 to {NUM_SPECIES - 1}"
            )
    return Chem.AddHs(molecule)


def _embed(molecule: Any, smiles: str, num_conformers: int, seed: int) -> None:
    """Adds conformers, each a different one."""
    from rdkit.Chem import rdDistGeom

    settings: Any = rdDistGeom.ETKDGv3()  # its attributes have no types
    # RDKit takes -1 for no seed.
    settings.randomSeed = int(np.random.default_rng(seed).integers(2**31 - 1))
    for random_start in (False, True):  # random starts are slower, and rescue cages and large rings
        settings.useRandomCoords = random_start
        if len(rdDistGeom.EmbedMultipleConfs(molecule, num_conformers, settings)) == num_conformers:
            return
    raise ValueError(
        f"found {molecule.GetNumConformers()} of {num_conformers} conformers of '{smiles}': its "
        "geometry may be impossible; try another 'seed' or fewer 'num_conformers'"
    )


def _relax(molecule: Any, smiles: str, force_field: str) -> None:
    from rdkit.Chem import rdForceFieldHelpers as fields

    if force_field == "mmff" and fields.MMFFHasAllMoleculeParams(molecule):
        outcome = fields.MMFFOptimizeMoleculeConfs(molecule, maxIters=_MAX_STEPS)
    elif fields.UFFHasAllMoleculeParams(molecule):
        outcome = fields.UFFOptimizeMoleculeConfs(molecule, maxIters=_MAX_STEPS)
    else:
        raise ValueError(
            f"no force field has parameters for all atoms of '{smiles}': pass optimize=None for "
            "the coordinates from distance geometry"
        )
    unfinished = sum(status != 0 for status, _ in outcome)
    if unfinished:
        warnings.warn(
            f"the force field did not converge in {_MAX_STEPS} steps for {unfinished} of "
            f"{len(outcome)} conformers of '{smiles}'",
            stacklevel=3,
        )


def _positions(conformer: Any, smiles: str) -> torch.Tensor:
    pos = np.array(conformer.GetPositions())
    if not np.isfinite(pos).all():
        raise ValueError(f"the coordinates of '{smiles}' are not finite: try another 'seed'")
    return torch.from_numpy(pos).to(torch.get_default_dtype())
