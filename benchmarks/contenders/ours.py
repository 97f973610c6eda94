"""pyg-schnet: ``ours`` with filters on knots, ``ours_exact`` with filters on edges."""

import torch
from torch_geometric.data import Data

from contenders.common import Contender, Inputs
from pyg_schnet import SchNet


class Ours(Contender):
    """SchNet of this package."""

    mode = "table"
    model: SchNet

    def build(self, network: dict) -> None:
        """The network of the paper has a filter network of its own; others are like PyG's."""
        f, blocks = network["features"], network["blocks"]
        if network["gaussians"] == 300:
            self.model = SchNet.paper(mode=self.mode)
        else:
            self.model = SchNet(
                f, f, blocks, network["gaussians"], network["cutoff"], mode=self.mode
            )

    def energy(self, inputs: Inputs) -> torch.Tensor:
        """From given edges."""
        edges = (inputs.edge_index, inputs.edge_shift, inputs.cell)
        energy = self.model(inputs.z, inputs.pos, inputs.batch, *edges, batch_size=inputs.size)
        return energy.squeeze(1).float()

    def predict(self, inputs: Inputs) -> None:
        """The path of this package for inference."""
        self.model.predict(inputs.data)

    def prepare_inference(self) -> None:
        """Tables are computed once."""
        if self.mode == "table":
            self.model.freeze()

    def prepare_training(self) -> None:
        """Thaws tables."""
        self.model.train()


class OursExact(Ours):
    """The same, with the filter network evaluated on every pair."""

    mode = "exact"


def as_data(inputs: Inputs, with_edges: bool) -> Data:
    """A periodic system as a user has it, before or after ``RadiusGraph``."""
    pbc = torch.ones(1, 3, dtype=torch.bool, device=inputs.pos.device)
    data = Data(z=inputs.z, pos=inputs.pos, cell=inputs.cell, pbc=pbc)
    if with_edges:
        data.edge_index, data.edge_shift = inputs.edge_index, inputs.edge_shift
        data.edge_weight = inputs.vectors(inputs.pos).norm(dim=1)
    return data
