"""PyG's own SchNet, which is given its edges."""

import torch
from torch_geometric.nn import SchNet

from contenders.common import Contender, Inputs


class PyG(Contender):
    """``torch_geometric.nn.SchNet``."""

    def build(self, network: dict) -> None:
        """The interaction graph hands on the edges of the system."""
        f = network["features"]
        self.model = SchNet(
            f,
            f,
            network["blocks"],
            network["gaussians"],
            network["cutoff"],
            interaction_graph=self._graph,
        )

    def _graph(self, pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs.edge_index, self.inputs.vectors(pos).norm(dim=-1)

    def energy(self, inputs: Inputs) -> torch.Tensor:
        """From given edges."""
        self.inputs = inputs
        return self.model(inputs.z, inputs.pos, inputs.batch).squeeze(1)
