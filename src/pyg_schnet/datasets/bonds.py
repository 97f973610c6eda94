r"""Chemical bonds of QM9: those of the SMILES, on the atoms of the geometry.

A SMILES has bonds, but neither hydrogens nor positions, and its atoms come in another order. So
the two are matched as graphs:

1. Each hydrogen is bound to its nearest heavy atom, and of the pairs of heavy atoms as many are
   bound as the SMILES has bonds: the shortest in units of their covalent radii.
2. An isomorphism to the graph of the SMILES is sought that keeps elements and numbers of hydrogens.
3. Where the graph has symmetries that the double bonds have not, that one is taken which puts
   them where the distances are short. (Of equivalent resonance structures, such as those of a
   carboxylate with equal distances, it is one.)

Without an isomorphism the bonds are unknown, and are said to be. That happens to two of the
130,831 characterized molecules of QM9.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from .collated import Slices

# Columns of ``bond_attr``, as names of RDKit's bond types.
BOND_TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_ORDERS = np.array([1.0, 2.0, 3.0, 1.5])
_ELEMENTS = (1, 6, 7, 8, 9)
_HYBRIDIZATIONS = ("SP", "SP2", "SP3")
_NUM_FEATURES = 11
# Covalent radii in angstrom (Cordero et al., Dalton Trans. 2008, 2832).
_RADII = np.zeros(10)
_RADII[list(_ELEMENTS)] = (0.31, 0.76, 0.71, 0.66, 0.57)
# Graphs of nine atoms have far fewer symmetries.
_MAX_MATCHES = 50_000


class Bonds(NamedTuple):
    r"""Bonds of a molecule with N atoms.

    Attributes:
        pairs: Both directions of each bond, sorted, ``[2, b]`` int64.
        types: Column of ``BOND_TYPES``, ``[b]`` int64.
        features: The features of :class:`torch_geometric.datasets.QM9`, ``[N, 11]`` float32: one of
            H, C, N, O, F; atomic number; aromatic; sp, sp2, sp3; number of hydrogens bound.
    """

    pairs: np.ndarray
    types: np.ndarray
    features: np.ndarray


def find_bonds(smiles: str, z: np.ndarray, pos: np.ndarray) -> Bonds | None:
    r"""Finds the bonds of a SMILES between the atoms of a geometry.

    Args:
        smiles: The molecule, hydrogens implied.
        z: Atomic numbers of H, C, N, O and F, ``[N]``.
        pos: Positions in angstrom, ``[N, 3]``.

    Returns:
        The bonds, or ``None`` if the geometry is not that of the SMILES.

    >>> z, pos = np.array([1, 6, 7]), np.array([[0, 0, 0], [1.07, 0, 0], [2.22, 0, 0]])
    >>> bonds = find_bonds("C#N", z, pos)
    >>> bonds.pairs.tolist()
    [[0, 1, 1, 2], [1, 0, 2, 1]]
    >>> [BOND_TYPES[k] for k in bonds.types]
    ['SINGLE', 'SINGLE', 'TRIPLE', 'TRIPLE']
    """
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    heavy, hydrogens = np.flatnonzero(z > 1), np.flatnonzero(z == 1)
    if molecule is None or molecule.GetNumAtoms() != len(heavy):
        return None
    distance = np.linalg.norm(pos[:, None] - pos[None], axis=-1)
    relative = distance / (_RADII[z][:, None] + _RADII[z][None])
    owners = heavy[relative[np.ix_(hydrogens, heavy)].argmin(axis=1)]
    num_hydrogens = np.bincount(owners, minlength=len(z))
    first, second = np.triu_indices(len(heavy), k=1)
    closest = relative[heavy[first], heavy[second]].argsort()[: molecule.GetNumBonds()]
    skeleton = _labelled(
        z[heavy], num_hydrogens[heavy], zip(first[closest].tolist(), second[closest].tolist())
    )
    atoms = list(molecule.GetAtoms())
    pattern = _labelled(
        np.array([atom.GetAtomicNum() for atom in atoms]),
        np.array([atom.GetTotalNumHs() for atom in atoms]),
        [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()],
    )
    matches = skeleton.GetSubstructMatches(pattern, uniquify=False, maxMatches=_MAX_MATCHES)
    if not matches:
        return None
    # From atoms of the SMILES to atoms of the geometry, one row for each symmetry.
    mapped = heavy[np.array(matches)]
    ends = np.array(
        [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()], int
    ).reshape(-1, 2)
    types = np.array(
        [BOND_TYPES.index(bond.GetBondType().name) for bond in molecule.GetBonds()], int
    )
    lengths = distance[mapped[:, ends[:, 0]], mapped[:, ends[:, 1]]]
    mapped = mapped[(lengths @ _ORDERS[types]).argmin()]
    one = np.concatenate([mapped[ends[:, 0]], hydrogens])
    other = np.concatenate([mapped[ends[:, 1]], owners])
    types = np.concatenate([types, np.zeros(len(hydrogens), int)])
    index = np.stack([np.concatenate([one, other]), np.concatenate([other, one])])
    order = np.lexsort((index[1], index[0]))
    features = _features(z, num_hydrogens, atoms, mapped)
    return Bonds(index[:, order], np.tile(types, 2)[order], features)


def _labelled(z: np.ndarray, num_hydrogens: np.ndarray, bonds: Any) -> Any:
    """Heavy atoms that match where elements and numbers of hydrogens do, with plain bonds."""
    from rdkit import Chem

    graph = Chem.RWMol()
    for number, count in zip(z.tolist(), num_hydrogens.tolist()):
        atom = Chem.Atom(number)
        atom.SetIsotope(count + 1)
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for one, other in bonds:
        graph.AddBond(one, other, Chem.BondType.SINGLE)
    return graph


def _features(
    z: np.ndarray, num_hydrogens: np.ndarray, atoms: Sequence[Any], mapped: np.ndarray
) -> np.ndarray:
    features = np.zeros((len(z), _NUM_FEATURES), np.float32)
    features[:, :5] = z[:, None] == np.array(_ELEMENTS)
    features[:, 5] = z
    for atom, i in zip(atoms, mapped):
        features[i, 6] = atom.GetIsAromatic()
        features[i, 7:10] = [atom.GetHybridization().name == name for name in _HYBRIDIZATIONS]
    features[:, 10] = num_hydrogens
    return features


def add_bonds(data: Data, slices: Slices) -> tuple[Data, Slices]:
    r"""Adds the bonds and atom features of every molecule.

    Args:
        data: Collated molecules with ``z``, ``pos``, ``smiles`` and ``name``; not changed.
        slices: Where each molecule starts.

    Returns:
        ``data`` and ``slices`` with ``bond_index`` ``[2, b]`` (indices within the molecule),
        ``bond_attr`` ``[b, 4]``, ``x`` ``[N, 11]`` and ``has_bonds`` ``[B]`` besides. Molecules
        whose bonds are unknown have none, ``x`` of zeros and ``has_bonds`` ``False``; a warning
        names them.
    """
    starts = [0, data.z.numel()] if slices is None else slices["z"].tolist()
    lone = slices is None
    names, all_smiles = ([data.name], [data.smiles]) if lone else (data.name, data.smiles)
    z, pos = data.z.numpy(), data.pos.double().numpy()
    found: list[Bonds] = []
    unknown: list[str] = []
    molecules = zip(names, all_smiles, starts[:-1], starts[1:])
    for name, smiles, start, stop in tqdm(
        molecules, desc="Finding bonds", total=len(names), disable=None
    ):
        bonds = find_bonds(smiles, z[start:stop], pos[start:stop])
        if bonds is None:
            unknown.append(name)
            empty = np.zeros((2, 0), np.int64)
            bonds = Bonds(empty, empty[0], np.zeros((stop - start, _NUM_FEATURES), np.float32))
        found.append(bonds)
    if unknown:
        warnings.warn(
            f"the geometries of {len(unknown)} of {len(names)} molecules do not show the bonds of "
            "their SMILES; they have none, and 'has_bonds' is False: " + _listed(unknown),
            stacklevel=2,
        )
    return _with_bonds(data, slices, found)


def _with_bonds(data: Data, slices: Slices, found: list[Bonds]) -> tuple[Data, Slices]:
    data = copy.copy(data)
    data.x = torch.from_numpy(np.concatenate([bonds.features for bonds in found]))
    data.bond_index = torch.from_numpy(np.concatenate([bonds.pairs for bonds in found], axis=1))
    types = torch.from_numpy(np.concatenate([bonds.types for bonds in found]))
    data.bond_attr = torch.nn.functional.one_hot(types, len(BOND_TYPES)).float()
    counts = torch.tensor([len(bonds.types) for bonds in found])
    # A molecule without bonds is an unknown one, but for a lone atom, which QM9 does not have.
    data.has_bonds = counts > 0
    if slices is None:
        return data, None
    ends: Tensor = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return data, {
        **slices,
        "x": slices["z"],
        "bond_index": ends,
        "bond_attr": ends,
        "has_bonds": torch.arange(len(found) + 1),
    }


def _listed(names: list[str], limit: int = 20) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
