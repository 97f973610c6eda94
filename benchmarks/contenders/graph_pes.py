"""The SchNet of graph-pes."""

import torch

from contenders.common import Contender, Inputs


class GraphPES(Contender):
    """``graph_pes.models.SchNet``; it has no envelope."""

    def build(self, network: dict) -> None:
        """As many filters as features, as always there."""
        from graph_pes.models import SchNet

        self.model = SchNet(
            cutoff=network["cutoff"],
            channels=network["features"],
            expansion_features=network["gaussians"],
            layers=network["blocks"],
        )

    def energy(self, inputs: Inputs) -> torch.Tensor:
        """From given edges, whose first atom is the central one there."""
        from graph_pes import AtomicGraph

        cell, shift = inputs.cell, inputs.edge_shift
        graph = AtomicGraph(
            Z=inputs.z,
            R=inputs.pos,
            cell=torch.zeros(inputs.size, 3, 3) if cell is None else cell,
            neighbour_list=inputs.edge_index.flip(0),
            neighbour_cell_offsets=(
                torch.zeros(inputs.edge_index.size(1), 3) if shift is None else shift
            ),
            properties={},
            other={},
            cutoff=1e6,
            batch=inputs.batch,
            ptr=None,
        )
        local = self.model(graph)["local_energies"]
        return torch.zeros(inputs.size).index_add(0, inputs.batch, local.view(-1))
