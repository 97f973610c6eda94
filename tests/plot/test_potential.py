"""Local chemical potentials, against the network written out for one probe."""

import io
import math

import numpy as np
import pytest
import torch
from molecules import MODELS, random_molecule, small_model
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.data import from_smiles
from pyg_schnet.plot import chemical_potential, probe_energies
from pyg_schnet.plot.potential import _Frame

POINTS = torch.tensor([[3.0, 0.0, 0.5], [-0.5, 3.5, 0.0], [0.0, -2.0, 3.0]], dtype=torch.float64)


def by_hand(model: SchNet, data: Data, z_probe: int, point: torch.Tensor) -> float:
    """The sums of the paper over all atoms, with an update of the probe that no atom feels."""
    distance = torch.cdist(data.pos, data.pos)
    to_probe = (data.pos - point).norm(dim=1)
    cutoff = float("inf") if model.envelope == "none" else model.cutoff
    x, p = model.embedding(data.z), model.embedding(torch.tensor(z_probe))

    def filtered(conv, d):
        inside = (d > 0) & (d <= cutoff)
        return conv.filter(d) * inside[:, None]

    for block in model.interactions:
        conv = block.conv
        u = conv.lin1(x)
        messages = torch.stack([(filtered(conv, row) * u).sum(0) for row in distance])
        to_p = (filtered(conv, to_probe) * u).sum(0)
        x = x + block.lin(block.act(conv.lin2(messages)))
        p = p + block.lin(block.act(conv.lin2(to_p)))
    readout = model.readout
    return (readout.offsets.std * readout.lin2(readout.act(readout.lin1(p)))).item()


@pytest.mark.parametrize("kind", ["cosine", "polynomial", "all pairs", "two activations"])
def test_probes_feel_the_molecule_but_not_it_them(kind):
    model, data = small_model(**MODELS[kind]).eval(), random_molecule(6, seed=4)
    found = probe_energies(model, data, 8, POINTS)
    with torch.no_grad():
        expected = [by_hand(model, data, 8, point) for point in POINTS]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    # A real atom there would change the others, and so itself.
    real = Data(z=torch.cat([data.z, torch.tensor([8])]), pos=torch.cat([data.pos, POINTS[:1]]))
    contribution = model.predict(real, forces=False, energies=True)["energies"][-1]
    offset = -1.5 + model.readout.offsets.atomref[8]
    assert abs(contribution - offset - expected[0]) > 1e-4


def test_with_one_block_a_probe_is_an_atom():
    """Nothing comes back to it in one step."""
    model, data = small_model(num_interactions=1), random_molecule(5, seed=2)
    for point, found in zip(POINTS, probe_energies(model, data, 6, POINTS)):
        real = Data(
            z=torch.cat([data.z, torch.tensor([6])]), pos=torch.cat([data.pos, point[None]])
        )
        contribution = model.predict(real, forces=False, energies=True)["energies"][-1]
        offset = -1.5 + model.readout.offsets.atomref[6]
        assert found.item() == pytest.approx((contribution - offset).item(), abs=1e-9)


def test_parts_do_not_matter(monkeypatch):
    model, data = small_model(), random_molecule(5, seed=2)
    whole = probe_energies(model, data, 6, POINTS)
    monkeypatch.setattr("pyg_schnet.plot.potential._MAX_EDGES", 5)
    np.testing.assert_allclose(probe_energies(model, data, 6, POINTS), whole, rtol=1e-12)
    assert probe_energies(model, data, 6, POINTS[:0]).shape == (0,)


def test_pictures_are_of_the_surface_and_of_the_plane():
    model, data = small_model(), from_smiles("CCO")
    data.pos = data.pos.double()
    model.units = "eV"
    figure = chemical_potential(model, data, 6, surface=3.0, pixels=31)
    left, right, bar = figure.axes
    frame = _Frame.of(data.z, data.pos)
    heavy = frame.place(data.pos[data.z > 1])
    assert heavy[:, 2].abs().max() < 1e-9  # three atoms have a plane
    seen = 0
    for axes, in_plane in ((left, False), (right, True)):
        image = axes.get_images()[0]
        values = np.ma.filled(image.get_array(), np.nan)
        x0, x1, y0, y1 = image.get_extent()
        for row in range(0, 31, 5):
            for column in range(0, 31, 5):
                x, y = x0 + (x1 - x0) * column / 30, y0 + (y1 - y0) * row / 30
                height = 0.0 if in_plane else top(frame.place(data.pos), x, y, 3.0)
                square = ((frame.place(data.pos) - torch.tensor([x, y, height])) ** 2).sum(1)
                if math.isnan(height) or (in_plane and (1 / square).sum() >= 3.0):
                    assert math.isnan(values[row, column])
                    continue
                point = frame.back(torch.tensor([[x, y, height]], dtype=torch.float64))
                expected = probe_energies(model, data, 6, point).item()
                assert values[row, column] == pytest.approx(expected, abs=1e-4)
                seen += 1
    assert seen > 30
    assert bar.get_ylabel() == r"$\Omega_\mathrm{C}$ [eV]"
    letters = [text.get_text() for text in right.texts]
    assert sorted(letters) == sorted("CCOHHHHHH")
    for image in (axes.get_images()[0] for axes in (left, right)):
        assert image.get_clim() == left.get_images()[0].get_clim()
    figure.savefig(io.BytesIO())


def top(placed: torch.Tensor, x: float, y: float, surface: float) -> float:
    """The upmost height with that sum, by a fine grid and bisection."""

    def excess(height: float) -> float:
        return (1 / ((placed - torch.tensor([x, y, height])) ** 2).sum(1)).sum().item() - surface

    grid = np.arange(float(placed[:, 2].max()) + 3, float(placed[:, 2].min()), -0.01)
    above = next((h for h in grid if excess(h) >= 0), None)
    if above is None:
        return math.nan
    low, high = above, above + 0.01
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) >= 0 else (low, middle)
    return low


def test_small_molecules():
    """Without three heavy atoms, in a line, or alone."""
    model = small_model()
    for data in (
        from_smiles("O"),
        from_smiles("C#N"),
        Data(z=torch.tensor([8]), pos=torch.zeros(1, 3)),
    ):
        figure = chemical_potential(model, data, 1, pixels=12)
        for axes in figure.axes[:2]:
            assert np.isfinite(axes.get_images()[0].get_array().compressed()).any()


def test_mistakes():
    model, data = small_model(), random_molecule(4)
    with pytest.raises(ValueError, match=r"'points' must have shape \[P, 3\] \(got \[3\]\)"):
        probe_energies(model, data, 6, POINTS[0])
    with pytest.raises(ValueError, match="point 0 is that of atom 0"):
        probe_energies(model, data, 6, data.pos[:1])
    model.species[7] = False
    for z_probe in (7, 0, -1, 101):
        with pytest.raises(ValueError, match=f"not trained on atomic number {z_probe}: choose"):
            probe_energies(model, data, z_probe, POINTS)
    for wrong in ({"surface": 0.0}, {"surface": float("nan")}, {"pixels": 1}):
        with pytest.raises(ValueError, match=r"expected a 'surface' of at least 0\.1"):
            chemical_potential(model, data, 6, **wrong)
    short = SchNet(8, 8, 1, max_num_neighbors=4)
    with pytest.raises(ValueError, match="a probe needs all neighbours within the cutoff"):
        probe_energies(short, data, 6, POINTS)
