r"""Bonds that are stretched."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from .figures import in_units, new_figure
from .molecules import bonds_of, connected, one_molecule, symbol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..nn import SchNet


def bond_scan(
    model: "SchNet",
    data: Data,
    i: int,
    j: int,
    distances: Tensor | Sequence[float],
    *,
    moving: Tensor | Sequence[int] | None = None,
    seen: tuple[float, float] | None = None,
) -> "Figure":
    r"""The energy along a distance, with all else rigid, and the force along it.

    Atom j moves along the line through both, and with it all that is bound to it: the atoms that
    remain connected to j, by RDKit's judgement of the distances, once the bond to i is cut. The
    upper panel is the energy above the lowest one drawn, with the geometry given as a dot; the
    lower one :math:`-dE/dr`, from the forces of the model on all that moves.

    Args:
        model: Model of energies.
        data: One molecule, ``z`` ``[N]`` and ``pos`` ``[N, 3]``.
        i: Atom that stays.
        j: Atom that moves.
        distances: Distances between them ``[K]``, at least two, in angstrom.
        moving: Atoms that move, j among them, in place of those bound to it; needed where i and j
            are in a ring, which has no two sides.
        seen: Least and largest distance in the training data, which are shaded: outside of them
            the curve is a guess.

    Raises:
        TypeError: If ``data`` is no ``Data``.
        ValueError: If the atoms, the distances or what moves make no sense, or the model refuses a
            geometry.
    """
    z, pos = one_molecule(model, data)
    if i == j or not (0 <= i < len(z) and 0 <= j < len(z)):
        raise ValueError(f"expected two different atoms of 0 to {len(z) - 1} (got {i} and {j})")
    values = torch.as_tensor(distances).detach().cpu().double().flatten().sort().values
    if len(values) < 2 or not values.isfinite().all() or values[0] <= 0:
        raise ValueError(f"expected at least two finite positive 'distances' (got {distances})")
    moves = _side_of(z, pos, i, j) if moving is None else _chosen(moving, i, j, len(z))

    along = (pos[j] - pos[i]).double()
    start = float(along.norm())
    along = along / start
    steps = torch.cat([values, values.new_tensor([start])]) - start  # the last is the one given
    moved = pos.double() + steps[:, None, None] * moves[:, None] * along  # [K + 1, N, 3]
    batch = Batch.from_data_list([Data(z=z, pos=one.to(pos.dtype)) for one in moved])
    result = model.predict(batch)
    energies = result["energy"].cpu()
    forces = result["forces"].cpu().double().reshape(len(steps), -1, 3)
    force = (forces[:, moves] @ along).sum(dim=1)
    energies = energies - energies[:-1].min()

    figure = new_figure(5.0, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for axes, y in ((upper, energies), (lower, force)):
        if seen is not None:
            axes.axvspan(*seen, color="0.92", lw=0, label="in the training data")
        axes.plot(values.numpy(), y[:-1].numpy(), lw=1.5, label="model")
        axes.plot(start, float(y[-1]), "o", color="k", markersize=5, label="geometry given")
        axes.grid(alpha=0.3)
    lower.axhline(0.0, color="0.6", lw=1)
    upper.legend(frameon=False, fontsize=8)
    one, other = (f"{symbol(int(z[k]))}{k}" for k in (i, j))
    upper.set_ylabel(f"energy above the lowest{in_units(model.units)}")
    units = model.units and f"{model.units}/Ang"
    lower.set(xlabel=f"{one}-{other} distance [Å]", ylabel=f"force{in_units(units)}")
    figure.align_ylabels()
    return figure


def _side_of(z: Tensor, pos: Tensor, i: int, j: int) -> Tensor:
    """Which atoms hang on j once its bond to i is cut, ``[N]`` bool."""
    from rdkit.Chem import GetMolFrags

    molecule = connected(z, pos)
    if (min(i, j), max(i, j)) in {(min(bond), max(bond)) for bond in bonds_of(molecule)}:
        molecule.RemoveBond(i, j)
    side = next(set(part) for part in GetMolFrags(molecule) if j in part)
    if i in side:
        raise ValueError(
            f"atoms {i} and {j} are connected through others too, so that it is not clear what "
            "moves with the second: name those atoms by 'moving'"
        )
    return torch.tensor([atom in side for atom in range(len(z))])


def _chosen(moving: Tensor | Sequence[int], i: int, j: int, num_atoms: int) -> Tensor:
    atoms = set(torch.as_tensor(moving).flatten().tolist())
    if j not in atoms or i in atoms or not atoms <= set(range(num_atoms)):
        raise ValueError(
            f"'moving' must be indices of atoms, {j} among them and {i} not (got {sorted(atoms)})"
        )
    return torch.tensor([atom in atoms for atom in range(num_atoms)])
