r"""Molecules to be drawn, with bonds from RDKit."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..graph import num_molecules
from ..nn import Offsets, SchNet
from ..nn.checks import check_atoms


def one_molecule(model: SchNet, data: Data) -> tuple[Tensor, Tensor]:
    """The atoms ``[N]`` and positions ``[N, 3]`` of a molecule, on the CPU.

    Raises:
        TypeError: If this is no ``Data``.
        ValueError: If it is not one molecule in three dimensions, or the model predicts no energy.
    """
    if not isinstance(data, Data):
        raise TypeError(f"expected a Data (got {type(data).__name__})")
    if model.target != "energy":
        raise ValueError(f"expected a model of energies (this one predicts '{model.target}')")
    z, pos = data.get("z"), data.get("pos")
    if not isinstance(z, Tensor) or not isinstance(pos, Tensor):
        raise ValueError(f"the data must have 'z' and 'pos' (the fields are {sorted(data.keys())})")
    z, pos = z.detach().cpu(), pos.detach().cpu()
    check_atoms(z, pos, None, None)
    if num_molecules(data) != 1 or z.numel() == 0 or pos.size(1) != 3 or bool((z == 0).any()):
        raise ValueError(
            "expected one molecule in three dimensions without padding: choose one of a batch, "
            f"such as batch[0] (got {data})"
        )
    pbc = data.get("pbc")
    periodic = pbc is None or bool(torch.as_tensor(pbc).any())
    if data.get("cell") is not None and periodic:
        raise ValueError("periodic systems cannot be drawn: expected a molecule without 'cell'")
    return z.long(), pos


def offsets_of(model: SchNet, z: Tensor) -> Tensor:
    """What a model of energies adds to its output for atoms of a kind, ``[N]`` float64."""
    offsets = model.readout.offsets
    assert isinstance(offsets, Offsets)  # only a dipole moment has none
    return offsets(torch.zeros(len(z), dtype=torch.float64), z).cpu()


def connected(z: Tensor, pos: Tensor) -> Any:
    """RDKit's molecule with the single bonds that it sees in the distances.

    Args:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, 3]`` in angstrom.

    >>> connected(torch.tensor([1, 1]), torch.tensor([[0.0, 0, 0], [0, 0, 0.74]])).GetNumBonds()
    1
    """
    from rdkit import Chem
    from rdkit.Chem.rdDetermineBonds import DetermineConnectivity

    molecule = Chem.RWMol()
    for number in z.tolist():
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    conformer = Chem.Conformer(len(z))
    conformer.SetPositions(pos.double().numpy())
    molecule.AddConformer(conformer)
    DetermineConnectivity(molecule)
    return molecule


def bonds_of(molecule: Any) -> list[tuple[int, int]]:
    """Pairs of atoms that are bound."""
    return [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]


def symbol(number: int) -> str:
    """The symbol of an element."""
    from rdkit.Chem import GetPeriodicTable

    return GetPeriodicTable().GetElementSymbol(number)
