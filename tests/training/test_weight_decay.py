"""Weight decay shrinks the weights of dense layers, and nothing else."""

import torch
from torch.testing import assert_close

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import TrainConfig, fit


def trained(weight_decay: float) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = SchNet(8, 8, 1, num_gaussians=10, cutoff=5.0)
    frames = MD17Sample("ethanol", cutoff=5.0)[:8]
    config = TrainConfig(
        batch_size=8, max_steps=1, lr=1e-3, weight_decay=weight_decay, ema_decay=0.0
    )
    fit(model, frames, frames, config)
    return dict(model.named_parameters())


def test_only_weights_of_dense_layers_decay() -> None:
    torch.manual_seed(0)
    start = dict(SchNet(8, 8, 1, num_gaussians=10, cutoff=5.0).named_parameters())
    without, with_decay = trained(0.0), trained(100.0)
    decayed = [name for name in start if not without[name].equal(with_decay[name])]
    expected = [
        name for name in start if name.endswith("weight") and not name.startswith("embedding")
    ]
    assert decayed == expected
    for name in expected:
        # AdamW: the weight before the step, times the learning rate and the decay.
        assert_close(without[name] - with_decay[name], 0.1 * start[name], atol=1e-6, rtol=1e-4)
