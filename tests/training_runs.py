"""What tests of training runs share: a tiny network and settings that are done in a second."""

import math

import torch
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import TrainConfig

CONFIG = TrainConfig(label="U0", epochs=4, batch_size=16, lr=5e-3, ema_decay=0.9, clip_ratio=1.1)


def new_model(seed: int = 0) -> SchNet:
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, num_gaussians=10, cutoff=4.0, units="eV")


def changed(config: TrainConfig, **settings) -> TrainConfig:
    return TrainConfig(**(config.to_dict() | settings))


def same_state(one: SchNet, two: SchNet) -> bool:
    states = one.state_dict(), two.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def without_time(history):
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


def paper() -> SchNet:
    torch.manual_seed(0)
    return SchNet.paper(hidden_channels=16, num_filters=16, num_interactions=2)


def averaging() -> SchNet:
    torch.manual_seed(0)
    return SchNet(16, 16, 1, num_gaussians=10, cutoff=4.0, readout="mean", target="gap")


def molecules_with_gaps() -> list[Data]:
    """Molecules with forces, which need not be right, some of them unknown as are some energies."""
    generator = torch.Generator().manual_seed(0)
    molecules = []
    for number, data in enumerate(QM9Sample()[:70]):
        force = torch.randn(data.pos.shape, generator=generator)
        energy = data.y[0, 7:8] - 5.0 * number
        if number % 7 == 1:
            energy = energy * math.nan
        if number % 5 == 1:
            force[2, 1] = math.nan
        molecules.append(type(data)(z=data.z, pos=data.pos, force=force, energy=energy))
    return molecules
