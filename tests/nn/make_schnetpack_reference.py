"""Makes models with SchNetPack itself, as it saves them, and what it predicts with them.

    python tests/nn/make_schnetpack_reference.py FOLDER [SEED]

in an environment with SchNetPack 0.3, 1 or 2, which need not have pyg_schnet. For each model there
is a file as that version writes it, and an npz file with atoms, predictions in float64, and the
arguments that SchNet.from_schnetpack needs. schnetpack_reference.zip holds those of versions 0.3,
1.0.1 and 2.1.1 (with PyTorch 2.4, seed 0); test_schnetpack.py makes others if the variable
PYG_SCHNET_SCHNETPACK names the Python of such an environment.
"""

import json
import sys
from inspect import signature
from pathlib import Path
from unittest import mock

import numpy as np
import torch

CUTOFF = 4.0
SIZES = (7, 1, 4)


def molecules(seed, cell=None):
    """Atomic numbers, positions and number of atoms of some molecules or of one cell."""
    rng = np.random.default_rng(seed)
    sizes = SIZES if cell is None else (5,)
    z, pos = [], []
    for size in sizes:
        places = []
        while len(places) < size:
            place = rng.uniform(0.0, 1.6 * size ** (1 / 3) + 1.0, 3)
            if all(np.linalg.norm(place - other) > 0.9 for other in places):
                places.append(place)
        z.append(rng.choice([1, 6, 7, 8, 9], size))
        pos.append(np.array(places))
    return z, pos


def randomize(model, seed):
    """Draws all weights anew, biases too, where mistakes would not show at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not name.endswith(("offsets", "widths", "width")):
            scale = 0.6 if parameter.dim() > 1 else 0.3
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model


def pairs(pos, cell):
    """Indices of both atoms of each pair and the vector between, images included."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    atoms = Atoms(f"H{len(pos)}", positions=pos, cell=cell, pbc=cell is not None)
    i, j, vectors = neighbor_list("ijD", atoms, CUTOFF, self_interaction=False)
    return i, j, vectors - (pos[j] - pos[i])


# SchNetPack 2


def predict_2(model, z, pos, cell):
    import schnetpack.properties as p

    model = model.double().eval()
    edges, start = [], 0
    for places in pos:
        i, j, shift = pairs(places, cell)
        edges.append((i + start, j + start, shift))
        start += len(places)
    i, j, shift = (np.concatenate(parts) for parts in zip(*edges))
    inputs = {
        p.Z: torch.tensor(np.concatenate(z)),
        p.R: torch.tensor(np.concatenate(pos)),
        p.n_atoms: torch.tensor([len(n) for n in z]),
        p.idx_m: torch.tensor(np.repeat(np.arange(len(z)), [len(n) for n in z])),
        p.idx_i: torch.tensor(i),
        p.idx_j: torch.tensor(j),
        p.offsets: torch.tensor(shift),
    }
    if cell is not None:
        inputs[p.cell] = torch.tensor(cell)[None]
    out = {name: value.detach().numpy() for name, value in model(inputs).items()}
    return {name: out[name] for name in ("energy", "forces", "stress") if name in out}


def model_2(seed, basis=None, forces=True, stress=False, aggregation="sum", offsets=True, **other):
    import schnetpack as spk
    from schnetpack import transform

    basis = basis or spk.nn.GaussianRBF(n_rbf=6, cutoff=CUTOFF)
    head = other.pop("head", {})
    representation = spk.representation.SchNet(
        n_atom_basis=8,
        n_interactions=2,
        radial_basis=basis,
        cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
        **other,
    )
    outputs = [
        spk.atomistic.Atomwise(n_in=8, output_key="energy", aggregation_mode=aggregation, **head)
    ]
    if forces:
        outputs.append(spk.atomistic.Forces(calc_stress=stress))
    after = [transform.CastTo64()]
    if offsets:
        shift = transform.AddOffsets(
            "energy", add_mean=True, add_atomrefs=True, is_extensive=aggregation == "sum"
        )
        shift.mean = torch.tensor([-1.7])
        shift.atomref = torch.linspace(0.0, -9.9, 100)
        after.append(shift)
    model = spk.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=([spk.atomistic.Strain()] if stress else [])
        + [spk.atomistic.PairwiseDistances()],
        output_modules=outputs,
        postprocessors=after,
    )
    return randomize(model, seed)


def lightning_checkpoint(model, path):
    import pytorch_lightning as pl
    import schnetpack as spk

    output = spk.task.ModelOutput("energy", loss_fn=torch.nn.MSELoss(), loss_weight=1.0, metrics={})
    task = spk.task.AtomisticTask(model, [output], optimizer_args={"lr": 1e-3})
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path, weights_only=True)


def save_2(seed):
    import schnetpack as spk
    from schnetpack import transform

    trained = spk.nn.GaussianRBF(n_rbf=6, cutoff=CUTOFF, trainable=True)
    trained.offsets.data += torch.tensor([0.0, 0.1, -0.1, 0.2, 0.0, 0.3])
    trained.widths.data *= torch.linspace(0.7, 1.4, 6)
    scaled = model_2(
        seed,
        basis=spk.nn.GaussianRBFCentered(n_rbf=5, cutoff=CUTOFF),
        forces=False,
        offsets=False,
        aggregation="avg",
    )
    scaled.postprocessors.append(transform.ScaleProperty("energy"))
    scaled.postprocessors[-1].scale = torch.tensor([2.5])
    shared = {"shared_interactions": True, "n_filters": 5, "aggregation": "avg"}
    ssp = {"activation": spk.nn.shifted_softplus}
    cell = np.array([[4.2, 0.0, 0.0], [0.6, 4.6, 0.0], [0.0, 0.3, 5.0]])
    bessel = spk.nn.BesselRBF(n_rbf=6, cutoff=CUTOFF)
    return {
        "v2_whole": (model_2(seed), torch.save, {}),
        "v2_state_dict": (model_2(seed), save_state, {}),
        "v2_shared": (
            model_2(seed, **shared, head=ssp),
            save_state,
            {"head_activation": "ssp", "readout": "mean"},
        ),
        "v2_bessel": (model_2(seed, basis=bessel, stress=True), torch.save, {}, cell),
        "v2_lightning": (model_2(seed, basis=trained), lightning_checkpoint, {}),
        "v2_centered": (scaled, torch.save, {}),
    }


# SchNetPack 0.3 and 1


def predict_1(model, z, pos, cell):
    from schnetpack import Properties as p

    model = model.double().eval()
    found = {}
    for numbers, places in zip(z, pos):
        size = len(numbers)
        others = max(size - 1, 1)
        neighbors = np.array([[j for j in range(size) if j != i] or [i] for i in range(size)])
        inputs = {
            p.Z: torch.tensor(numbers)[None],
            p.R: torch.tensor(places - center(numbers, places))[None],
            p.atom_mask: torch.ones(1, size, dtype=torch.float64),
            p.neighbors: torch.tensor(neighbors)[None],
            p.neighbor_mask: torch.full((1, size, others), float(size > 1)).double(),
            p.cell: torch.zeros(1, 3, 3).double(),
            p.cell_offset: torch.zeros(1, size, others, 3).double(),
        }
        for name, value in model(inputs).items():
            found.setdefault(name, []).append(value.detach().numpy()[0])
    return {name: np.concatenate(values) for name, values in found.items()}


def center(numbers, places):
    """The centre of mass, in which SchNetPack puts the origin when it reads molecules."""
    from ase.data import atomic_masses

    masses = atomic_masses[numbers][:, None]
    return (masses * places).sum(axis=0) / masses.sum()


def model_1(seed, n_filters=8, dipole=False, coupled=False, aggregation="sum"):
    from schnetpack.atomistic import AtomisticModel, Atomwise
    from schnetpack.nn.cutoff import CosineCutoff
    from schnetpack.representation import SchNet

    representation = SchNet(
        n_atom_basis=8,
        n_filters=n_filters,
        n_interactions=2,
        cutoff=CUTOFF,
        n_gaussians=6,
        cutoff_network=CosineCutoff,
        coupled_interactions=coupled,
    )
    if dipole:
        from schnetpack.atomistic.output_modules import DipoleMoment

        head = DipoleMoment(n_in=8, predict_magnitude=True, property="dipole")
    else:
        head = Atomwise(
            n_in=8,
            property="energy",
            aggregation_mode=aggregation,
            derivative="forces",
            negative_dr=True,
            mean=torch.tensor([-1.7]),
            stddev=torch.tensor([2.2]),
            atomref=np.linspace(0.0, -9.9, 100)[:, None],
        )
    model = AtomisticModel(representation, head)
    randomize(model.representation, seed)
    randomize(model.output_modules[0].out_net, seed + 1)
    return model


def save_legacy(model, path):
    """Saves as PyTorch did before 1.6; without the source of SchNetPack, which it would include."""
    with mock.patch("torch.serialization.get_source_lines_and_file", side_effect=OSError):
        torch.save(model, path, _use_new_zipfile_serialization=False)


def save_1(seed):
    from schnetpack.nn.cutoff import HardCutoff
    from schnetpack.representation import SchNet

    if signature(SchNet).parameters["cutoff_network"].default is HardCutoff:
        return {"v03_whole": (model_1(seed, n_filters=5), save_legacy, {})}
    return {
        "v1_whole": (model_1(seed, n_filters=5), torch.save, {}),
        "v1_shared": (
            model_1(seed, coupled=True, aggregation="avg"),
            save_state,
            {"readout": "mean"},
        ),
        "v1_dipole": (model_1(seed, dipole=True), save_legacy, {}),
    }


def save_state(model, path):
    torch.save(model.state_dict(), path)


def main(folder, seed=0):
    """Saves all models that the installed version can make."""
    torch.set_num_threads(1)
    import schnetpack

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    is_2 = hasattr(schnetpack, "properties")
    for name, (model, save, arguments, *cell) in (save_2 if is_2 else save_1)(seed).items():
        cell = cell[0] if cell else None
        save(model, folder / f"{name}.pt")
        z, pos = molecules(seed, cell)
        predictions = (predict_2 if is_2 else predict_1)(model, z, pos, cell)
        extra = {} if cell is None else {"cell": cell}
        np.savez_compressed(
            folder / f"{name}.npz",
            z=np.concatenate(z),
            pos=np.concatenate(pos),
            sizes=[len(numbers) for numbers in z],
            arguments=json.dumps(arguments),
            **{name: np.asarray(value) for name, value in predictions.items()},
            **extra,
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
