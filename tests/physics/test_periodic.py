"""What must hold of any model in periodic systems: crystals, slabs, wires, and batches of them."""

import pytest
import torch
from ase.build import bulk
from ase.neighborlist import neighbor_list
from molecules import random_molecule, small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import (
    RadiusGraph,
    SchNet,
    edge_lengths,
    forces_from_energy,
    radius_graph,
    strained,
    stress_from_energy,
)
from pyg_schnet.data import to_ase
from pyg_schnet.nn.inference import predict_by_autograd
from pyg_schnet.nn.unpack import unpack

SKEWED = [[3.1, 0.0, 0.0], [1.0, 3.2, 0.0], [-0.8, 0.6, 3.6]]
KINDS = {"cosine": {}, "polynomial": {"envelope": "polynomial"}, "mean": {"readout": "mean"}}
MODES = ["exact", "table"]


def crystal(num_atoms: int = 3, seed: int = 0, pbc=(True, True, True)) -> Data:
    """A skewed cell, smaller than the cutoff of the models along two directions."""
    data = random_molecule(num_atoms, seed)
    data.cell = torch.tensor([SKEWED], dtype=torch.float64)
    data.pbc = torch.tensor([pbc])
    return data


def repeated(data: Data, counts: tuple[int, int, int]) -> Data:
    """A supercell, by ASE."""
    atoms = to_ase(data).repeat(counts)
    return Data(
        z=torch.tensor(atoms.numbers),
        pos=torch.tensor(atoms.positions),
        cell=torch.tensor(atoms.cell.array).unsqueeze(0),
        pbc=data.pbc,
    )


def energy_of(model: SchNet, data: Data, pos=None, cell=None) -> float:
    pos = data.pos if pos is None else pos
    cell = data.cell if cell is None else cell
    return float(model(data.z, pos, cell=cell, pbc=data.pbc).detach())


@pytest.mark.parametrize("mode", MODES)
def test_energy_is_that_of_ases_neighbours(mode):
    """Edges and shifts from another neighbour search."""
    model, data = small_model(mode=mode), crystal()
    i, j, shift = neighbor_list("ijS", to_ase(data), model.cutoff)
    assert len(i) > 40
    energy = model(
        data.z,
        data.pos,
        None,
        torch.stack([torch.tensor(j), torch.tensor(i)]),
        torch.tensor(shift, dtype=torch.float64),
        data.cell,
    )
    assert energy.item() == pytest.approx(energy_of(model, data), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_forces_and_stress_against_central_differences(kind, mode):
    model, data = small_model(**KINDS[kind], mode=mode), crystal()
    result = model.predict(data, stress=True)
    step = 1e-4
    for atom in range(3):
        for axis in range(3):
            moved = torch.zeros_like(data.pos)
            moved[atom, axis] = step
            slope = energy_of(model, data, data.pos + moved) - energy_of(
                model, data, data.pos - moved
            )
            assert -slope / (2 * step) == pytest.approx(
                float(result["forces"][atom, axis]), rel=1e-4, abs=1e-5
            )
    volume = abs(float(torch.linalg.det(data.cell[0])))
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1.0, -1.0):
                strain = torch.eye(3).double()
                strain[a, b] += sign * step
                energies.append(energy_of(model, data, data.pos @ strain, data.cell @ strain))
            slope = (energies[0] - energies[1]) / (2 * step)
            expected = float(result["stress"][0, a, b])
            assert slope / volume == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert torch.allclose(result["stress"], result["stress"].transpose(1, 2), atol=1e-12)
    assert result["stress"].abs().max() > 1e-4


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
def test_formulas_and_autograd_agree(pbc):
    model, data = small_model(mode="table"), crystal(pbc=pbc)
    with torch.inference_mode():
        result = model.predict(data, stress=True)
    expected = predict_by_autograd(model, unpack(model, data), True, True)
    assert torch.allclose(result["energy"], expected.output.squeeze(-1))
    assert torch.allclose(result["forces"], expected.forces)
    assert torch.allclose(result["stress"], expected.stress)
    only = model.predict(data, forces=False, stress=True)
    assert set(only) == {"energy", "stress"}
    assert torch.allclose(only["stress"], expected.stress)
    half = small_model(mode="table").float()
    approximate = half.predict(data, stress=True)["stress"]
    assert torch.allclose(approximate, expected.stress, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_supercells_are_extensive(mode):
    model, data = small_model(mode=mode), crystal()
    small = model.predict(data, stress=True)
    large = model.predict(repeated(data, (2, 1, 3)), stress=True)
    assert torch.allclose(large["energy"], 6 * small["energy"])
    assert torch.allclose(large["forces"], small["forces"].repeat(6, 1), atol=1e-10)
    assert torch.allclose(large["stress"], small["stress"], atol=1e-10)


def test_atoms_may_be_wrapped_and_cells_be_chosen_otherwise():
    model, data = small_model(), crystal()
    expected = model.predict(data, stress=True)
    moved, other = data.clone(), data.clone()
    moved.pos = (
        data.pos + torch.tensor([[1.0, -2, 0], [0, 3, 1], [0, 0, 0]]).double() @ data.cell[0]
    )
    other.cell[0, 2] += data.cell[0, 0] - data.cell[0, 1]  # another basis of the same lattice
    for same in (moved, other):
        result = model.predict(same, stress=True)
        for name, value in expected.items():
            assert torch.allclose(result[name], value, atol=1e-9), name


def test_open_directions_are_like_a_wide_cell():
    model, slab = small_model(), crystal(pbc=(True, True, False))
    wide = slab.clone()
    wide.cell[0, 2] *= 20
    wide.pbc = torch.ones(1, 3, dtype=torch.bool)
    assert torch.allclose(model.predict(slab)["energy"], model.predict(wide)["energy"])
    assert torch.allclose(model.predict(slab)["forces"], model.predict(wide)["forces"])
    thick = model.predict(crystal())
    assert (thick["energy"] - model.predict(slab)["energy"]).abs() > 1e-3


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_batch_of_crystals_and_molecules(mode, stored):
    model = small_model(mode=mode)
    systems = [crystal(2, 1), random_molecule(4, 2), crystal(1, 3, (True, False, True))]
    systems[1].cell = torch.zeros(1, 3, 3, dtype=torch.float64)
    systems[1].pbc = torch.zeros(1, 3, dtype=torch.bool)
    alone = [model.predict(data) for data in systems]
    if stored:
        systems = [RadiusGraph(model.cutoff)(data) for data in systems]
    together = model.predict(Batch.from_data_list(systems))
    assert torch.allclose(together["energy"], torch.cat([one["energy"] for one in alone]))
    assert torch.allclose(together["forces"], torch.cat([one["forces"] for one in alone]))
    crystals = Batch.from_data_list([systems[0], systems[2]])
    stress = model.predict(crystals, stress=True)["stress"]
    for one, expected in zip((systems[0], systems[2]), stress):
        assert torch.allclose(model.predict(one, stress=True)["stress"][0], expected)


def test_a_large_crystal_in_float32_is_that_in_float64():
    """Large enough for the linear search; copper, packed as densely as matter is."""
    atoms = bulk("Cu", cubic=True).repeat((6, 6, 6))
    atoms.rattle(0.05, seed=1)
    data = Data(
        z=torch.tensor(atoms.numbers),
        pos=torch.tensor(atoms.positions),
        cell=torch.tensor(atoms.cell.array).unsqueeze(0),
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    assert data.num_nodes == 864
    model = small_model(cutoff=5.0)
    expected = model.predict(data, stress=True)
    data.pos, data.cell = data.pos.float(), data.cell.float()
    result = model.float().freeze().predict(data, stress=True)
    assert torch.allclose(result["energy"], expected["energy"], rtol=1e-6)
    assert (result["forces"] - expected["forces"]).abs().max() < 1e-3 * expected[
        "forces"
    ].abs().max()
    assert torch.allclose(result["stress"].double(), expected["stress"], rtol=1e-2, atol=1e-5)


def test_training_on_stress_reaches_all_parameters():
    model, data = small_model(mode="table"), crystal()
    pos, cell, strain = strained(data.pos.requires_grad_(), data.cell)
    energy = model(data.z, pos, cell=cell)
    forces = forces_from_energy(energy, data.pos, create_graph=True)
    stress = stress_from_energy(energy, strain, cell, create_graph=True)
    (forces.square().sum() + stress.square().sum()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # An offset of all energies has no part in their derivatives.
    assert silent == ["readout.lin2.bias"]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_edges_given_are_differentiable_in_the_cell():
    model, data = small_model(), crystal()
    edge_index, edge_shift = radius_graph(data.pos, model.cutoff, None, data.cell)
    cell = data.cell.clone().requires_grad_()
    energy = model(data.z, data.pos, None, edge_index, edge_shift, cell)
    (actual,) = torch.autograd.grad(energy.sum(), cell)
    lengths = edge_lengths(data.pos, edge_index, edge_shift, cell)
    assert lengths.requires_grad
    step = torch.zeros_like(data.cell)
    step[0, 1, 2] = 1e-4
    with torch.no_grad():
        difference = model(data.z, data.pos, None, edge_index, edge_shift, data.cell + step)
        difference -= model(data.z, data.pos, None, edge_index, edge_shift, data.cell - step)
    assert float(difference / 2e-4) == pytest.approx(float(actual[0, 1, 2]), rel=1e-4)


def test_errors():
    data = crystal()
    model = small_model()
    bare = Data(z=data.z, pos=data.pos, pbc=data.pbc)
    with pytest.raises(ValueError, match="'pbc' asks for periodic directions"):
        model.predict(bare)
    with pytest.raises(ValueError, match="stress needs periodic systems"):
        model.predict(random_molecule(3), stress=True)
    flat = crystal(pbc=(True, True, False))
    flat.cell[0, 2] = 0.0
    with pytest.raises(ValueError, match="a cell with a volume"):
        model.predict(flat, stress=True)
    with pytest.raises(ValueError, match="not of 'homo'"):
        small_model(target="homo").predict(data, stress=True)
    with pytest.raises(ValueError, match="no cutoff"):
        small_model(envelope="none", cutoff=30.0).predict(data)
    with pytest.raises(ValueError, match="choice of origin"):
        small_model(dipole=True).predict(data)
    edges, shifts = radius_graph(data.pos, 4.0, None, data.cell)
    with pytest.raises(ValueError, match="need 'edge_shift'"):
        model(data.z, data.pos, None, edges, None, data.cell)
    with pytest.raises(ValueError, match=r"'edge_shift' needs .* and the 'cell'"):
        model(data.z, data.pos, None, edges, shifts)
    with pytest.raises(ValueError, match="not told of periodic cells"):
        small_model(interaction_graph=lambda pos, batch: (edges, edge_lengths(pos, edges))).predict(
            data
        )
    with pytest.raises(ValueError, match="one row per system"):
        model(data.z, data.pos, cell=data.cell.repeat(2, 1, 1), batch=torch.zeros(3).long())
    stored = RadiusGraph(4.0)(data.clone())
    del stored["edge_shift"]
    with pytest.raises(ValueError, match="have no 'edge_shift'"):
        model.predict(stored)
    stretched = RadiusGraph(4.0)(data.clone())
    stretched.cell = 1.1 * stretched.cell
    with pytest.raises(ValueError, match="not the distances"):
        model.predict(stretched)
