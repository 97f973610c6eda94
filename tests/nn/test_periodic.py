"""Periodic systems in the network, against clusters cut out of them and finite differences."""

import copy
import itertools

import pytest
import torch
from molecules import random_molecule, small_model
from torch import Tensor
from torch_geometric.data import Batch, Data

from pyg_schnet import RadiusGraph, radius_graph

# Not orthogonal, left-handed, and shorter than the cutoff of 4 A along one direction.
CELL = torch.tensor([[5.0, 0.4, 0.0], [-1.0, 0.3, 6.0], [0.5, 3.4, 1.0]], dtype=torch.float64)


def crystal(directions: str = "xyz", seed: int = 0, num_atoms: int = 4) -> Data:
    data = random_molecule(num_atoms, seed=seed)
    data.cell = CELL.unsqueeze(0) * (1.0 + 0.05 * seed)
    data.pbc = torch.tensor([[axis in directions for axis in "xyz"]])
    return data


def energies_in_a_cluster(model, data: Data) -> Tensor:
    """Contributions of the atoms amid copies of the cell, which the network knows nothing of."""
    # Two blocks with a cutoff of 4 A see 8 A.
    counts = [range(-4, 5) if along else range(1) for along in data.pbc[0].tolist()]
    shifts = torch.tensor(sorted(itertools.product(*counts), key=lambda s: s != (0, 0, 0)))
    images = data.pos + (shifts.double() @ data.cell[0]).unsqueeze(1)  # [S, N, 3]
    near = (torch.cdist(images.flatten(0, 1), data.pos) < 9.0).any(dim=1)
    z, pos = data.z.repeat(len(shifts)), images.flatten(0, 1)
    cluster = Data(z=z[near], pos=pos[near])
    return model.predict(cluster, forces=False, energies=True)["energies"][: len(data.z)]


@pytest.mark.parametrize("mode", ["exact", "table"])
@pytest.mark.parametrize("directions", ["xyz", "xz", "z"])
def test_energies_are_those_within_a_cluster(directions: str, mode: str) -> None:
    model, data = small_model(mode=mode).eval(), crystal(directions)
    energies = model.predict(data, energies=True)["energies"]
    torch.testing.assert_close(energies, energies_in_a_cluster(model, data), rtol=1e-9, atol=1e-9)
    alone = model.predict(Data(z=data.z, pos=data.pos), energies=True)["energies"]
    assert (energies - alone).abs().max() > 1e-2  # images matter here


@pytest.mark.parametrize("mode", ["exact", "table"])
@pytest.mark.parametrize("stored", [False, True])
def test_stress_and_forces_against_central_differences(mode: str, stored: bool) -> None:
    model = small_model(mode=mode).eval()
    systems = [crystal("xyz"), crystal("xy", seed=1)]
    batch = Batch.from_data_list([RadiusGraph(4.0)(s) if stored else s for s in systems])
    predicted = model.predict(batch, stress=True)
    alone = model.predict(systems[0], stress=True)  # goes another way than a batch
    torch.testing.assert_close(alone["stress"], predicted["stress"][:1], rtol=1e-9, atol=1e-12)
    step = 1e-4
    for number, system in enumerate(systems):

        def energy(pos: Tensor, cell: Tensor, system: Data = system) -> float:
            return model(system.z, pos, cell=cell, pbc=system.pbc).item()

        stress = torch.empty(3, 3, dtype=torch.float64)
        for i, j in itertools.product(range(3), range(3)):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            ends = [torch.eye(3).double() + sign * strain for sign in (1, -1)]
            up, down = (energy(system.pos @ end, system.cell @ end) for end in ends)
            stress[i, j] = (up - down) / (2 * step)
        stress /= torch.linalg.det(system.cell[0]).abs()
        torch.testing.assert_close(predicted["stress"][number], stress, rtol=1e-5, atol=1e-8)
        assert stress.abs().min() > 1e-4

        move = torch.zeros_like(system.pos)
        move[2, 1] = step
        up, down = (energy(system.pos + sign * move, system.cell) for sign in (1, -1))
        force = predicted["forces"][int(batch.ptr[number]) + 2, 1].item()
        assert force == pytest.approx(-(up - down) / (2 * step), rel=1e-5, abs=1e-7)


def test_batch_of_crystals_and_molecules_as_one_by_one() -> None:
    model = small_model().eval()
    molecule = random_molecule(5, seed=7)
    molecule.cell, molecule.pbc = torch.zeros(1, 3, 3).double(), torch.zeros(1, 3).bool()
    systems = [molecule, crystal(), crystal("z", seed=2), crystal(num_atoms=1), molecule]
    wanted = torch.cat([model.predict(system)["energy"] for system in systems])
    plain = Data(z=molecule.z, pos=molecule.pos)
    assert wanted[0].item() == pytest.approx(model.predict(plain)["energy"].item(), rel=1e-12)
    for made in (systems, [RadiusGraph(4.0)(system) for system in systems]):
        batch = Batch.from_data_list(made)
        torch.testing.assert_close(model.predict(batch)["energy"], wanted)


@pytest.mark.parametrize("stored", [False, True])
def test_padding_atoms_have_no_images(stored: bool) -> None:
    model, data = small_model().eval(), crystal()
    padded = data.clone()
    padded.z = torch.cat([data.z[:2], torch.tensor([0]), data.z[2:]])
    padded.pos = torch.cat([data.pos[:2], data.pos[:1] + 0.5, data.pos[2:]])
    if stored:
        padded = RadiusGraph(4.0)(padded)
    wanted, found = (model.predict(system, stress=True) for system in (data, padded))
    for name in ("energy", "stress"):
        torch.testing.assert_close(found[name], wanted[name])
    assert not found["forces"][2].any()


def test_gradients_by_the_cell_alone() -> None:
    """Positions need no gradients for the energy to have one by the cell."""
    model, data = small_model().eval(), crystal()
    cell = data.cell.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(data.z, data.pos, cell=cell).sum(), cell)
    ends = []
    for sign in (1, -1):
        moved = data.cell.clone()
        moved[0, 2, 1] += sign * 1e-4
        ends.append(model(data.z, data.pos, cell=moved).item())
    assert slope[0, 2, 1].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-6)


def test_edges_are_checked_against_the_cell() -> None:
    """What loops without bounds would read must be there, and mean something."""
    model, data = small_model().eval(), crystal("xy")
    edges, shifts = radius_graph(data.pos, 4.0, None, data.cell, data.pbc)
    given = dict(z=data.z, pos=data.pos, edge_index=edges, cell=data.cell, pbc=data.pbc)
    right = model(**given, edge_shift=shifts)
    torch.testing.assert_close(right, model(data.z, data.pos, cell=data.cell, pbc=data.pbc))
    torch.testing.assert_close(right, model(**given, edge_shift=shifts.long()))
    outside = shifts.clone()
    outside[3, 2] = 1.0
    wrong = [
        (shifts[:5], rf"shape \[{len(shifts)}, 3\], a row per edge \(got \[5, 3\]\)"),
        (shifts.T.contiguous(), "a row per edge"),
        (shifts[:, :1], "a row per edge"),
        (shifts @ CELL, r"whole numbers \(got .* are these distances"),
        (torch.nan * shifts, "whole numbers"),
        (outside, r"edge 3 leads along .* not periodic .*\[True, True, False\]"),
    ]
    stored = RadiusGraph(4.0)(data)
    for shift, message in wrong:
        with pytest.raises(ValueError, match=message), torch.no_grad():
            model(**given, edge_shift=shift)
        broken = copy.copy(stored)
        broken.edge_shift = shift
        with pytest.raises(ValueError, match=message):
            model.predict(broken)
    with pytest.raises(TypeError, match="numbers"):
        model(**given, edge_shift=shifts.bool())
    with pytest.raises(ValueError, match="'edge_index'"):
        model(data.z, data.pos, edge_shift=shifts, cell=data.cell)


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("cell", CELL.unsqueeze(0), ValueError, "got 1 cells for 2 systems"),
        ("cell", CELL.repeat(2, 1), ValueError, r"store it as \[1, 3, 3\]"),
        ("cell", CELL.numpy(), TypeError, r"a tensor \(got ndarray\): use torch.as_tensor"),
        ("pbc", torch.ones(3, 3).bool(), ValueError, r"\[2, 3\] \(got \[3, 3\]\)"),
        ("pbc", torch.ones(2, 3), TypeError, "must hold bools .* use pbc.bool"),
        ("edge_shift", None, ValueError, "no 'edge_shift'"),
    ],
)
def test_broken_batches(field: str, value, error: type[Exception], message: str) -> None:
    batch = Batch.from_data_list([RadiusGraph(4.0)(crystal(seed=i)) for i in range(2)])
    batch[field] = value
    with pytest.raises(error, match=message):
        small_model().predict(batch)


def test_stress_needs_volumes() -> None:
    model = small_model()
    wire = crystal("x")
    wire.cell = CELL.unsqueeze(0) * wire.pbc.unsqueeze(2)
    with pytest.raises(ValueError, match="cell with a volume"):
        model.predict(wire, stress=True)
    with pytest.raises(ValueError, match="periodic systems"):
        model.predict(random_molecule(3), stress=True)
    with pytest.raises(ValueError, match="suits molecules only"):
        small_model(envelope="none").predict(RadiusGraph(4.0)(crystal()))
