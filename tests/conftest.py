"""Models and molecules as fixtures."""

import os
from pathlib import Path

import pytest
import torch

# Without a GPU Triton's kernels run in its interpreter. Before PyG imports PyTorch's compiler, and
# that Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from molecules import MODELS, random_molecule, small_model
from torch_geometric.data import Batch

from pyg_schnet import SchNet

# Everything here is small: more threads only wait for each other, much so on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(params=list(MODELS))
def model(request) -> SchNet:
    """Every kind of network."""
    return small_model(**MODELS[request.param])


@pytest.fixture(params=[name for name in MODELS if name != "dipole"])
def energy_model(request) -> SchNet:
    """Every kind of network that predicts energies."""
    return small_model(**MODELS[request.param])


@pytest.fixture
def batch() -> Batch:
    """Molecules of different sizes, single atoms among them."""
    return Batch.from_data_list([random_molecule(n, seed=n) for n in (5, 1, 8, 2, 1)])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Published files that are not part of the package."""
    folder = os.environ.get("PYG_SCHNET_DATA")
    if folder is None:
        pytest.skip("needs published files: set PYG_SCHNET_DATA to the folder that holds them")
    return Path(folder)
