"""Molecules and models that many tests share."""

import torch
from torch import nn
from torch_geometric.data import Data

from pyg_schnet import SchNet

# Relative tolerance by dtype for results that should be equal but for rounding.
RTOL = {torch.float32: 1e-5, torch.float64: 1e-10}


def random_molecule(num_atoms: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Data:
    """Atoms of organic elements at random places, none closer than 0.8 A."""
    generator = torch.Generator().manual_seed(seed)
    elements = torch.tensor([1, 6, 7, 8, 9])
    z = elements[torch.randint(5, (num_atoms,), generator=generator)]
    pos = torch.empty(0, 3, dtype=torch.float64)
    size = 1.5 * max(num_atoms, 1) ** (1 / 3)
    while len(pos) < num_atoms:
        candidate = (torch.rand(1, 3, generator=generator, dtype=torch.float64) - 0.5) * 2 * size
        if _apart(candidate, pos):
            pos = torch.cat([pos, candidate])
    return Data(z=z, pos=pos.to(dtype))


def _apart(candidate: torch.Tensor, pos: torch.Tensor) -> bool:
    return len(pos) == 0 or float(torch.cdist(candidate, pos).min()) > 0.8


def small_model(**overrides) -> SchNet:
    """A network small enough for finite differences, in float64, with non-trivial offsets."""
    torch.manual_seed(3)
    settings = dict(
        hidden_channels=12,
        num_filters=10,
        num_interactions=2,
        num_gaussians=8,
        cutoff=4.0,
        mean=-1.5,
        std=2.5,
        atomref=torch.linspace(0, -50, 20),
    )
    if overrides.get("dipole"):
        settings |= dict(mean=None, std=None, atomref=None)
    model = SchNet(**(settings | overrides)).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they begin at zero, where a mistake would not show
            torch.nn.init.normal_(parameter, std=0.3)
    return model


# Every kind of network, as arguments of small_model.
MODELS = {
    "cosine": {},
    "polynomial": {"envelope": "polynomial"},
    "all pairs": {"envelope": "none", "cutoff": 30.0},
    "two activations": {"num_activations": 2, "lin1_bias": True},
    "mean": {"readout": "mean"},
    "dipole": {"dipole": True, "target": "mu"},
}


class Oscillating(nn.Module):
    """A filter of the user's own that offers tables, not smooth at zero."""

    length_scale = 0.3
    d_min = 0.5

    def __init__(self, num_filters: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, num_filters))

    def forward(self, distance):
        d = distance.unsqueeze(-1)
        return torch.sin(torch.arange(1, 9).to(d) * d / 2) / d @ self.weight
