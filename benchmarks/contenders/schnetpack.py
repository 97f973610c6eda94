"""SchNetPack 2."""

import torch

from contenders.common import Contender, Inputs


class SchNetPack(Contender):
    """``schnetpack.representation.SchNet`` with an atom-wise head."""

    def build(self, network: dict) -> None:
        """The network with SchNetPack's own parts."""
        from schnetpack.atomistic import Atomwise
        from schnetpack.nn import CosineCutoff, GaussianRBF
        from schnetpack.representation import SchNet

        f = network["features"]
        representation = SchNet(
            n_atom_basis=f,
            n_interactions=network["blocks"],
            n_filters=f,
            radial_basis=GaussianRBF(network["gaussians"], network["cutoff"]),
            cutoff_fn=CosineCutoff(network["cutoff"]),
        )
        self.model = torch.nn.Sequential(representation, Atomwise(n_in=f, output_key="energy"))

    def energy(self, inputs: Inputs) -> torch.Tensor:
        """From given edges."""
        from schnetpack import properties

        j, i = inputs.edge_index
        batch = {
            properties.Z: inputs.z,
            properties.Rij: inputs.vectors(inputs.pos),
            properties.idx_i: i,
            properties.idx_j: j,
            properties.idx_m: inputs.batch,
            properties.n_atoms: torch.bincount(inputs.batch),
        }
        return self.model(batch)["energy"]
