r"""Contributions of atoms, on a drawing of the molecule."""

import io
import math
from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data import Data

from .figures import in_units, new_figure
from .molecules import connected, offsets_of, one_molecule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..nn import SchNet

# Pixels of the drawing, its padding, and diameter of the discs in units of a typical bond.
_WIDTH, _HEIGHT, _PADDING, _DISC = 1500, 1000, 0.1, 0.55
# Part of the colours that is not used, so that black letters can be read on the others.
_PALE = 1.6


def atom_energies(model: "SchNet", data: Data, *, charge: int | None = None) -> "Figure":
    r"""The atom-wise contributions to the energy, on the molecule as RDKit draws it.

    Red atoms contribute more, blue ones less than the offsets of the model, which are subtracted:
    :math:`E_i - E^{\mathrm{ref}}_{z_i} - \mu`, see :class:`~pyg_schnet.nn.Offsets`. Only the sum
    of the contributions is physical; how a model shares it out among atoms is its own choice, and
    differs between models of the same accuracy.

    Bonds are those that RDKit sees in the distances; where it finds no orders for them that suit
    all valences, they are drawn as single ones.

    Args:
        model: Model of energies.
        data: One molecule, ``z`` ``[N]`` and ``pos`` ``[N, 3]`` in angstrom.
        charge: Total charge, which only the orders of the bonds depend on; that of ``data`` or 0
            if ``None``.

    Raises:
        TypeError: If ``data`` is no ``Data``.
        ValueError: If it is not one molecule, or the model refuses it.
    """
    from matplotlib.image import imread

    z, pos = one_molecule(model, data)
    contributions = model.predict(Data(z=z, pos=pos), forces=False, energies=True)["energies"].cpu()
    values = contributions - offsets_of(model, z)  # [N]
    if charge is None:
        charge = int(data.charge) if data.get("charge") is not None else 0

    limit = max(float(values.abs().max()), 1e-12)
    digits = max(0, 1 - math.floor(math.log10(limit)))  # two of the largest, at least
    notes = [f"{value:+.{digits}f}" for value in values]
    png, places = _drawn(connected(z, pos), charge, notes)
    figure = new_figure(6.5, 4.0)
    axes = figure.subplots()
    axes.imshow(imread(io.BytesIO(png)), zorder=2)  # transparent, above the discs
    x, y = places.T.numpy()
    pixels = _DISC * _typical_bond(places)
    # Areas of markers are in square points; the picture fills about nine tenths of the height.
    points = pixels * 0.9 * figure.get_figheight() * 72 / _HEIGHT
    discs = axes.scatter(x, y, c=values.numpy(), s=points**2, cmap="RdBu_r", linewidths=0, zorder=1)
    discs.set_clim(-_PALE * limit, _PALE * limit)
    axes.set_axis_off()
    bar = figure.colorbar(discs, ax=axes, shrink=0.8)
    bar.set_label(f"contribution - offset{in_units(model.units)}")
    bar.ax.set_ylim(-limit, limit)
    total = in_units(model.units).replace("[", "").replace("]", "")
    axes.set_title(f"sum {float(values.sum()):+.2f}{total}", fontsize=10)
    return figure


def _drawn(molecule: Any, charge: int, notes: list[str]) -> tuple[bytes, torch.Tensor]:
    """A transparent PNG of a molecule, and where in it the atoms are, ``[N, 2]``."""
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D
    from rdkit.Chem.rdDetermineBonds import DetermineBondOrders
    from rdkit.rdBase import BlockLogs

    with BlockLogs():  # it prints what it raises too
        ordered = type(molecule)(molecule)
        try:
            DetermineBondOrders(ordered, charge=charge, embedChiral=False)
            molecule = ordered
        except ValueError:  # strange valences are drawn with single bonds
            molecule.UpdatePropertyCache(strict=False)
        rdDepictor.Compute2DCoords(molecule)
        for atom, note in zip(molecule.GetAtoms(), notes):
            atom.SetProp("atomNote", note)
            atom.SetProp("_displayLabel", atom.GetSymbol())  # carbon too: its bonds end at the disc
        drawer = rdMolDraw2D.MolDraw2DCairo(_WIDTH, _HEIGHT)
        options: Any = drawer.drawOptions()
        options.clearBackground = False
        options.useBWAtomPalette()
        options.padding = _PADDING
        options.bondLineWidth = 4
        options.maxFontSize = 64
        options.annotationFontScale = 0.6
        options.prepareMolsBeforeDrawing = False
        options.setAnnotationColour((0.25, 0.25, 0.25))
        drawer.DrawMolecule(molecule)
        places = [drawer.GetDrawCoords(i) for i in range(molecule.GetNumAtoms())]
        drawer.FinishDrawing()
        return drawer.GetDrawingText(), torch.tensor([[place.x, place.y] for place in places])


def _typical_bond(places: torch.Tensor) -> float:
    """The median distance of an atom to its nearest neighbour, in pixels."""
    if len(places) == 1:
        return _HEIGHT / 3
    distances = torch.cdist(places, places).fill_diagonal_(float("inf"))
    return float(distances.min(dim=1).values.median())
