"""What training remembers of its molecules, against all pairs one by one and against ASE."""

import copy
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from molecules import random_molecule, small_model
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import TrainConfig, fit
from pyg_schnet.training.domain import closest_distances, learn_domain


def brute_force(molecules) -> torch.Tensor:
    closest = torch.full((101, 101), math.inf, dtype=torch.float64)
    for data in molecules:
        for i in range(data.num_nodes):
            for j in range(data.num_nodes):
                z, w = int(data.z[i]), int(data.z[j])
                if i != j and z > 0 and w > 0:
                    d = float((data.pos[i] - data.pos[j]).norm())
                    closest[z, w] = min(float(closest[z, w]), d)
    return closest


@pytest.mark.parametrize("kind", ["list", "data set", "view"])
def test_all_pairs(kind):
    if kind == "list":
        molecules = [random_molecule(n, seed=n) for n in (1, 6, 3, 9)]
        molecules[1].z[2] = 0  # padding
    else:
        molecules = QM9Sample()[torch.arange(0, 60, 3)]
        molecules = molecules if kind == "data set" else torch.utils.data.Subset(molecules, [1, 4])
    expected = brute_force(molecules)
    found = closest_distances(molecules)
    assert torch.equal(found.isinf(), expected.isinf())
    known = ~expected.isinf()
    assert torch.allclose(found[known], expected[known], rtol=1e-6)
    assert torch.equal(found, found.T)
    near = closest_distances(molecules, 1.3)
    assert torch.equal(near, torch.where(found < 1.3, found, math.inf))


def test_crystals_against_ase():
    generator = np.random.default_rng(0)
    systems, closest = [], math.inf
    for _ in range(3):
        cell = 4.0 * np.eye(3) + generator.uniform(-1, 1, (3, 3))
        atoms = Atoms("O2", generator.uniform(0, 8, (2, 3)), cell=cell, pbc=True)
        images = atoms.repeat(5)  # the middle one is whole within three
        d = images.get_all_distances()
        closest = min(closest, d[d > 1e-9].min())
        pbc = torch.ones(1, 3, dtype=torch.bool)
        systems.append(
            Data(
                **dict(z=torch.tensor([8, 8]), pos=torch.from_numpy(atoms.positions), pbc=pbc),
                cell=torch.from_numpy(cell).unsqueeze(0),
            )
        )
    assert closest_distances(systems, 6.0)[8, 8].item() == pytest.approx(closest)


def trained(tmp_path, molecules, model=None) -> SchNet:
    model = SchNet(8, 8, 1, 10, cutoff=4.0) if model is None else model
    fit(model, molecules, molecules, TrainConfig(label="U0", max_steps=2), tmp_path)
    return model


def test_training_keeps_it_everywhere(tmp_path):
    molecules = QM9Sample()[:8]
    model = trained(tmp_path, molecules)
    expected = closest_distances(molecules, 4.0).float()
    assert torch.equal(model.closest, expected)
    for name in ("best", "last"):
        from pyg_schnet.training.saved import load_model

        assert torch.equal(load_model(tmp_path / f"{name}.safetensors").closest, expected)


def test_fine_tuning_adds_to_what_is_known(tmp_path):
    model = trained(tmp_path / "one", QM9Sample()[:8])
    before = model.closest.clone()
    trained(tmp_path / "two", QM9Sample()[300:308], model)
    both = closest_distances([*QM9Sample()[:8], *QM9Sample()[300:308]], 4.0).float()
    assert torch.equal(model.closest, both)
    assert (both < before).any()


def test_of_models_trained_on_who_knows_what_nothing_is_known():
    model, data = small_model(), random_molecule(4)
    model.species[50:] = False
    learn_domain(model, data.z, [data])
    assert model.closest.isinf().all()
    fresh = copy.deepcopy(small_model())
    learn_domain(fresh, data.z, [data])
    assert not fresh.closest.isinf().all()
