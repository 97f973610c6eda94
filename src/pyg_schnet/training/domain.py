r"""What a model remembers of its training data: species, how close they come, compositions."""

import math

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES
from ..graph import check_atoms, molecule_edges
from ..loader import MoleculeLoader
from ..nn import SchNet
from ..nn.compositions import NOTHING
from ..nn.contacts import knows_training
from ..nn.system import reach
from .labels import Molecules

# Molecules of which pairs are made at once: some MB.
_AT_ONCE = 256


def learn_domain(
    model: SchNet,
    z: Tensor,
    dataset: Molecules,
    counts: Tensor | None = None,
    *,
    offsets_change: bool = False,
) -> None:
    """Tells a model which species it is trained on, how close they come, and in which compositions.

    It adds to what the model knows. A model that was trained before on data whose distances nobody
    knows will not know them. Compositions matter to sums over atoms only.

    Args:
        model: The model.
        z: Atomic numbers of all molecules ``[N]``.
        dataset: The molecules.
        counts: Compositions of those with a label ``[M, 101]``. If there are none, nobody knows.
        offsets_change: Whether training gives the model other atom references, by which the targets
            of compositions that it was trained on before are lost.

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
    known = torch.zeros_like(species) if fresh else model.species
    if counts is not None and len(counts) > 0 and getattr(model.readout, "reduce", None) == "sum":
        unseen = torch.diag((species & ~known).float()) + model.unseen
        if offsets_change:
            unseen = torch.diag((species | known).float())
        model.unseen.copy_(unseen_compositions(counts, unseen))
    model.species.copy_(species | known)


def unseen_compositions(counts: Tensor, before: Tensor | None = None) -> Tensor:
    r"""The projector onto compositions about which molecules tell nothing.

    A sum over atoms is learnt for the compositions of the molecules and their linear combinations,
    the span of the rows of ``counts``. The rest is its orthogonal complement.

    Args:
        counts: Compositions ``[M, 101]``.
        before: The projector that is to be narrowed further, ``[101, 101]``; onto all compositions
            of the species in ``counts`` if ``None``.

    Returns:
        ``[101, 101]`` in float64, symmetric, exactly zero if there is no such composition.

    >>> molecules = torch.zeros(2, 101)
    >>> molecules[0, [1, 6]] = torch.tensor([2.0, 2.0])  # acetylene
    >>> molecules[1, [1, 6]] = torch.tensor([6.0, 6.0])  # benzene
    >>> unseen_compositions(molecules)[[1, 1, 6], [1, 6, 6]]
    tensor([ 0.5000, -0.5000,  0.5000], dtype=torch.float64)
    """
    counts = counts.cpu().double()
    before = torch.diag(counts.any(dim=0).double()) if before is None else before.cpu().double()
    unseen = before.clone()
    unseen[0] = unseen[:, 0] = 0.0  # padding
    open_species = unseen.any(dim=0).nonzero().flatten()
    if open_species.numel() == 0:
        return unseen
    place = open_species.unsqueeze(1), open_species.unsqueeze(0)
    projector = _sharp(unseen[place])
    rows = counts[:, open_species].unique(dim=0)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1.0)
    rows = rows @ projector
    rows = rows[rows.norm(dim=1) > NOTHING]
    if len(rows) > 0:
        values, directions = torch.linalg.svd(rows, full_matrices=False)[1:]
        learnt = directions[values > NOTHING * values[0]]
        unseen[place] = _sharp(projector - learnt.T @ learnt)
    return unseen


def _sharp(projector: Tensor) -> Tensor:
    """The projector that a rounded one stands for: its eigenvalues are 0 and 1."""
    values, vectors = torch.linalg.eigh(projector)
    kept = vectors[:, values > 0.5]
    return (kept @ kept.T).round(decimals=12)  # zeros exactly so


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
