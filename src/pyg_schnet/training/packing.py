"""Which models and molecules packed batches suit, and the molecules made ready for them."""

import math

import torch
from torch import Tensor

from ..data.packed import PackedMolecules, UnpackableError
from ..graph.checks import check_positions
from ..loader import MoleculeLoader
from ..nn import SchNet
from ..nn.layers import Layer, read_layers
from ..nn.radial import BesselBasis, GaussianSmearing
from ..nn.system import reach
from ..nn.tables import has_own_table, knots_of
from ..ops import Knots
from .config import TrainConfig
from .distributed import World
from .fingerprint import holds_still
from .labels import Labelled, Molecules
from .loss import force_labels


def pack_for_training(
    model: SchNet, dataset: Molecules, data: Labelled, config: TrainConfig, world: World
) -> tuple[PackedMolecules, Knots]:
    """A training set on the device of a model, and the knots of filters that all of it needs.

    Args:
        model: Model to train.
        dataset: Training set.
        data: What was read of it.
        config: Settings.
        world: Processes that train.

    Raises:
        UnpackableError: If something cannot be trained so, saying what. It may be wrong in other
            ways too, which the ordinary way finds out.
    """
    check_packable(model, dataset)
    layers = _layers(model)
    for layer in layers:
        # Of others something is looked up on the device while they are trained.
        filter = layer.conv.filter
        basis = getattr(filter, "basis", None)
        if type(basis) not in (GaussianSmearing, BesselBasis) or not has_own_table(filter):
            raise UnpackableError("a filter is not the original, or has hooks")
    if world.size > 1:
        raise UnpackableError("several processes share out each batch")
    if config.with_stress:
        raise UnpackableError("stress is trained")
    if any(map(_has_hooks, model.parameters())):
        raise UnpackableError("a parameter has hooks")
    knots = {knots_of(layer.conv.filter) for layer in layers}
    if len(knots) > 1:
        raise UnpackableError("filters differ in their range")
    packed = pack(model, dataset, data, config.with_forces)
    return packed, knots.pop().covering(packed.longest)


def pack(model: SchNet, dataset: Molecules, data: Labelled, forces: bool) -> PackedMolecules:
    """Molecules on the device of a model, with the edges that it would look for.

    Args:
        model: A model with filters from tables.
        dataset: Molecules.
        data: What was read of them.
        forces: Whether labels of forces are wanted.

    Raises:
        UnpackableError: If there is anything of which batches on a device know nothing.
    """
    check_packable(model, dataset)
    pos, force = [], []
    for batch in MoleculeLoader(dataset, 1024):
        if "cell" in batch or "pbc" in batch:
            raise UnpackableError("the data have cells")
        if "edge_weight" in batch and not _reaches(batch.get("cutoff"), model):
            raise UnpackableError("the data have edges of their own")
        pos.append(batch.pos.detach().cpu())
        if forces:
            force.append(force_labels(batch).detach().cpu())
    positions = torch.cat(pos)
    z = data.z.cpu()
    try:
        check_positions(positions)
    except (TypeError, ValueError) as error:
        raise UnpackableError(str(error)) from error
    if z.shape != positions.shape[:1]:
        raise UnpackableError("there is not one position per atom")
    if z.min() < 1 or z.max() >= model.species.numel() or data.sizes.min() < 1:
        raise UnpackableError("there are padding atoms, or none")
    packed = PackedMolecules(
        *(z, positions, data.sizes.cpu(), data.labels.cpu()),
        torch.cat(force) if force else None,
        reach(model),
        model.device,
    )
    for knots in {knots_of(layer.conv.filter) for layer in _layers(model)}:
        if knots.start > 0.0 or (not knots.vanishes and packed.longest > knots.stop):
            raise UnpackableError("a distance is beyond the range of the filters")
    return packed


def check_packable(model: SchNet, dataset: Molecules) -> None:
    """Refuses models and data that packed batches do not suit, as far as that is quickly told.

    Raises:
        UnpackableError: Saying what is in the way.
    """
    device = model.device.type
    if device not in ("cpu", "cuda"):
        raise UnpackableError("the model is on a device of another kind")
    if torch.is_autocast_enabled(device):
        raise UnpackableError("autocast is on")
    if model.interaction_graph is not None or model.config["max_num_neighbors"] is not None:
        raise UnpackableError("the model chooses its neighbours")
    _layers(model)
    if not holds_still(dataset):
        raise UnpackableError("the data have a transform")


def _layers(model: SchNet) -> list[Layer]:
    """The blocks of a model whose parts are what they were built as, and use tables."""
    layers = read_layers(model)
    if layers is None:
        raise UnpackableError("a part of the model is not the original, or has hooks")
    if not all(layer.conv.has_table() for layer in layers):
        raise UnpackableError("filters are evaluated on edges, not on knots")
    return layers


def _has_hooks(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _reaches(cutoff: Tensor | None, model: SchNet) -> bool:
    """Whether stored edges are those that the model would look for, or more, which do not count."""
    radius = reach(model)
    return (
        cutoff is not None
        and math.isfinite(radius)
        and float(torch.as_tensor(cutoff).min()) >= radius * (1 - 1e-6)
    )
