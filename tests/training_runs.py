"""What tests of training runs share: a tiny network and settings that are done in a second."""

import torch

from pyg_schnet import SchNet
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
