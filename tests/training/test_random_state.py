"""Random numbers of a GPU in checkpoints, with the functions of PyTorch that need one replaced."""

import pytest
import torch
from training_runs import CONFIG, changed, new_model

from pyg_schnet.storage import load_tensors
from pyg_schnet.training import checkpoint, fit
from pyg_schnet.training.checkpoint import LAST
from pyg_schnet.training.random_state import random_state, restore_random_state
from pyg_schnet.training.run import Run

GPU = torch.device("cuda", 1)


@pytest.fixture
def gpu(monkeypatch) -> dict[torch.device, torch.Tensor]:
    """States of GPUs by device."""
    states = {GPU: torch.arange(16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({device: state})
    )
    return states


def test_states_come_back(gpu):
    states = random_state(GPU)
    expected, on_gpu = torch.rand(3), gpu[GPU]
    gpu[GPU] = on_gpu + 1
    restore_random_state(states, GPU)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(gpu[GPU], on_gpu)


def test_other_devices(gpu):
    """To the CPU, and from it: what is there is restored."""
    assert set(random_state(torch.device("cpu"))) == {"cpu"}
    before = gpu[GPU].clone()
    restore_random_state(random_state(GPU), torch.device("cpu"))
    restore_random_state(random_state(torch.device("cpu")), GPU)
    assert torch.equal(gpu[GPU], before)


def test_checkpoints_have_the_state_of_the_device(parts, tmp_path, monkeypatch, gpu):
    """Of a run that takes itself for one on a GPU."""
    monkeypatch.setattr(Run, "_device", GPU)
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=1), tmp_path)
    tensors, _ = load_tensors(tmp_path / LAST, "training checkpoint")
    assert torch.equal(tensors["rng.0.cuda"], gpu[GPU])
    assert {name for name in tensors if name.startswith("rng")} == {"rng.0.cpu", "rng.0.cuda"}
    # Resumed on the CPU, which gets what there is.
    found = []
    monkeypatch.setattr(checkpoint, "restore_random_state", lambda *args: found.append(args))
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=2), tmp_path, resume=True)
    assert [(set(states), device) for states, device in found] == [
        ({"cpu", "cuda"}, torch.device("cpu"))
    ]
