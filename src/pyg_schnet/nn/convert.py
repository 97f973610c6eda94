r"""Weights of other implementations."""

import math
from typing import Any

import torch
from torch import nn

from ..data.species import NUM_SPECIES
from .readout import AtomwiseReadout, DipoleReadout


@torch.no_grad()
def from_pyg(cls: Any, model: Any, target: str | None = None, units: str | None = None) -> Any:
    """Copies a :class:`torch_geometric.nn.SchNet`.

    Args:
        cls: :class:`~pyg_schnet.SchNet` or a subclass.
        model: The model to copy; it is left alone. An ``interaction_graph`` of its own is taken
            over, its truncating default is not.
        target: What the model predicts; the energy, or the dipole moment where it is one.
        units: Unit of the target.

    Returns:
        A model in the dtype and on the device of ``model`` with equal outputs.

    Raises:
        TypeError: If ``model`` is something else.
        ValueError: If it has a readout other than a sum or mean.
    """
    from torch_geometric.nn.models import SchNet as PyGSchNet
    from torch_geometric.nn.models.schnet import RadiusInteractionGraph

    if not isinstance(model, PyGSchNet):
        raise TypeError(f"expected a torch_geometric.nn.SchNet (got {type(model).__name__})")
    aggregation = type(model.readout).__name__
    if aggregation not in ("SumAggregation", "MeanAggregation"):
        raise ValueError(f"cannot copy the readout {aggregation}: only a sum or mean")
    graph = model.interaction_graph
    new = cls(
        model.hidden_channels,
        model.num_filters,
        model.num_interactions,
        model.num_gaussians,
        model.cutoff,
        None if isinstance(graph, RadiusInteractionGraph) else graph,
        readout="mean" if aggregation == "MeanAggregation" else "add",
        dipole=model.dipole,
        gamma=-model.distance_expansion.coeff,
        target=target,
        units=units,
    )
    weight = model.embedding.weight
    new = new.to(weight.device, weight.dtype)

    rows = weight.size(0)
    new.embedding.weight[:rows] = weight
    new.species[rows:] = False
    # PyG shifts its softplus by ln 2 in float32; the next layer makes up for the difference.
    shift = math.log(2.0) - model.act.shift
    for ours, theirs in zip(new.interactions, model.interactions, strict=True):
        conv = theirs.conv
        ours.conv.filter.basis.offset.copy_(model.distance_expansion.offset)
        _copy(ours.conv.filter.lin1, theirs.mlp[0])
        _copy(ours.conv.filter.lin2, theirs.mlp[2], shift)
        _copy(ours.conv.lin1, conv.lin1)
        _copy(ours.conv.lin2, conv.lin2)
        _copy(ours.lin, theirs.lin, shift)
    _copy(new.readout.lin1, model.lin1)
    _copy(new.readout.lin2, model.lin2, shift)
    _copy_readout(new.readout, model)
    return new


def _copy(ours: Any, theirs: nn.Module, shift: float = 0.0) -> None:
    ours.load_state_dict(theirs.state_dict())
    if shift:
        ours.bias += shift * ours.weight.sum(dim=1)


def _copy_readout(readout: AtomwiseReadout | DipoleReadout, model: Any) -> None:
    scale = 1.0 if model.scale is None else float(model.scale)
    if isinstance(readout, DipoleReadout):
        readout.atomic_mass.copy_(model.atomic_mass[:NUM_SPECIES])
        readout.lin2.weight *= scale
        readout.lin2.bias *= scale
        return
    standardized = model.mean is not None and model.std is not None  # PyG ignores one alone
    atomref = None if model.atomref is None else model.atomref.weight * scale
    readout.offsets.set(
        mean=model.mean * scale if standardized else 0.0,
        std=model.std * scale if standardized else scale,
        atomref=atomref,
    )
