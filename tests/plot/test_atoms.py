"""Contributions of atoms, against those of the model."""

import io

import numpy as np
import pytest
import torch
from molecules import small_model
from torch_geometric.data import Data

from pyg_schnet.data import from_smiles
from pyg_schnet.plot import atom_energies
from pyg_schnet.plot.atoms import _drawn
from pyg_schnet.plot.molecules import bonds_of, connected


def test_colours_are_contributions_without_offsets():
    data = from_smiles("CC(=O)O")
    model = small_model()  # with a mean and atom references
    model.units = "eV"
    figure = atom_energies(model, data)
    axes, bar = figure.axes
    (discs,) = axes.collections
    x = model.predict(data, features=True)["features"]
    with torch.no_grad():  # the readout written out, scaled but not shifted
        by_hand = model.readout.lin2(model.readout.act(model.readout.lin1(x))).squeeze(1) * 2.5
    np.testing.assert_allclose(discs.get_array(), by_hand.double().numpy(), atol=1e-5)
    total = model.predict(data)["energy"] - sum(-1.5 + model.readout.offsets.atomref[data.z])
    assert axes.get_title() == f"sum {total.item():+.2f} eV"
    assert bar.get_ylabel() == "contribution - offset [eV]"
    limit = by_hand.abs().max().item()
    assert bar.get_ylim() == pytest.approx((-limit, limit))
    low, high = discs.get_clim()
    assert low == -high
    figure.savefig(io.BytesIO())


def test_discs_are_where_the_letters_are():
    """Beneath each atom RDKit has drawn something: the picture and the discs belong together."""
    data = from_smiles("CCO")
    axes = atom_energies(small_model(), data).axes[0]
    picture = np.asarray(axes.get_images()[0].get_array())
    assert picture.shape == (1000, 1500, 4)
    alpha = picture[..., 3]
    assert alpha[0, 0] == 0  # transparent, so that the discs shine through
    for x, y in axes.collections[0].get_offsets():
        row, column = round(float(y)), round(float(x))
        assert alpha[row - 30 : row + 31, column - 30 : column + 31].max() > 0.9
    assert axes.collections[0].get_zorder() < axes.get_images()[0].get_zorder()


@pytest.mark.parametrize(
    ("smiles", "count"), [("CC(=O)Oc1ccccc1C(=O)O", 21), ("C#N", 2), ("O", 2), ("[OH-]", 1)]
)
def test_bonds_are_found(smiles, count):
    data = from_smiles(smiles)
    bonds = bonds_of(connected(data.z, data.pos))
    assert len(bonds) == count
    lengths = [(data.pos[i] - data.pos[j]).norm().item() for i, j in bonds]
    assert max(lengths) < 1.6


def test_ions_and_impossible_molecules_are_drawn():
    """Single bonds are the last resort; nothing is refused for its valences."""
    for smiles in ("[OH-]", "[NH4+]", "[CH3]"):
        data = from_smiles(smiles)
        (discs,) = atom_energies(small_model(), data).axes[0].collections
        assert len(discs.get_offsets()) == data.num_nodes
    hydrogens = Data(z=torch.ones(3, dtype=torch.long), pos=torch.eye(3) * 0.7)
    assert len(atom_energies(small_model(), hydrogens).axes[0].collections[0].get_offsets()) == 3
    assert atom_energies(small_model(), Data(z=torch.tensor([8]), pos=torch.zeros(1, 3)))


def test_bond_orders_depend_on_the_charge():
    """An oxygen with one hydrogen and a charge is no radical."""
    data = from_smiles("[OH-]")
    neutral, charged = (_drawn(connected(data.z, data.pos), q, ["", ""])[0] for q in (0, -1))
    assert neutral != charged
