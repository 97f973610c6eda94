r"""What a model remembers of its training data: species, and how close these come."""

import math

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES
from ..graph import check_atoms, molecule_edges
from ..loader import MoleculeLoader
from ..nn import SchNet
from ..nn.contacts import knows_training
from ..nn.system import reach
from .labels import Molecules

# Molecules of which pairs are made at once: some MB.
_AT_ONCE = 256


def learn_domain(model: SchNet, z: Tensor, dataset: Molecules) -> None:
    """Tells a model which species it is trained on, and how close they come.

    It adds to what the model knows. A model that was trained before on data whose distances nobody
    knows will not know them.

    Args:
        model: The model.
        z: Atomic numbers of all molecules ``[N]``.
        dataset: The molecules.

    Raises:
        ValueError: If positions are not finite, or the loader refuses the molecules.
    """
    fresh = bool(model.species.all())
    if fresh or knows_training(model):
        closest = closest_distances(dataset, reach(model)).to(model.closest)
        torch.minimum(model.closest, closest, out=model.closest)
    species = torch.zeros_like(model.species)
    species[0] = True
    species[z.long().to(species.device)] = True
    model.species.copy_(species if fresh else model.species | species)


def closest_distances(dataset: Molecules, radius: float = math.inf) -> Tensor:
    """The closest distance between atoms of each two species in a data set.

    Args:
        dataset: Molecules or periodic systems.
        radius: How far to look, in angstrom; finite if any is periodic.

    Returns:
        ``[101, 101]``, symmetric, in float64 and angstrom, infinite where there is no such pair.

    Raises:
        ValueError: If positions are not finite, or the loader refuses the molecules.

    >>> from torch_geometric.data import Data
    >>> water = Data(z=torch.tensor([8, 1]), pos=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.96]]))
    >>> closest_distances([water])[1, 8]
    tensor(0.9600, dtype=torch.float64)
    """
    closest = torch.full((NUM_SPECIES * NUM_SPECIES,), math.inf, dtype=torch.float64)
    for data in MoleculeLoader(dataset, _AT_ONCE):
        check_atoms(data.pos, radius, data.batch)
        periodic = (data.get("cell"), data.get("pbc"))
        cell, pbc = (None if one is None else one.cpu() for one in periodic)
        edges = molecule_edges(data.pos.cpu(), radius, data.ptr.cpu(), cell, pbc)
        z = data.z.long().cpu()[edges.edge_index]
        pair = z[0] * NUM_SPECIES + z[1]
        closest.scatter_reduce_(0, pair, edges.edge_weight.double(), "amin")
    closest = closest.view(NUM_SPECIES, NUM_SPECIES)
    closest[0] = closest[:, 0] = math.inf  # padding
    return closest
