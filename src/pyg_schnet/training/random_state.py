r"""The state of the random numbers of a process: those of the CPU, and of the GPU it trains on."""

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States by the type of the device.

    Args:
        device: Where the model is.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Goes on with the random numbers of :func:`random_state`.

    A run that goes on on a GPU, but was on the CPU, has no state for it: it keeps its own.

    Args:
        states: What that gave, of this or another device.
        device: Where the model is now.
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
