r"""What every interface asks of a model."""

import copy
from typing import TypeVar

import torch

from ..nn import Ensemble, SchNet, SchNetConv

# Up to so many atoms, an open system is searched anew in less time than a list is looked after.
SMALL = 100

_Model = TypeVar("_Model", bound=SchNet | Ensemble)


def members(model: SchNet | Ensemble) -> list[SchNet]:
    """The networks of a model."""
    return list(model) if isinstance(model, Ensemble) else [model]


def prepared(model: _Model, device: torch.device | str | None, dtype: torch.dtype | None) -> _Model:
    """A copy for inference only.

    Args:
        model: The model.
        device: Where to compute; where it is if ``None``.
        dtype: Dtype of its weights; as it is if ``None``.

    Raises:
        ValueError: If weights cannot have that dtype.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"'dtype' must be torch.float32 or torch.float64 (got {dtype})")
    with torch.inference_mode(False):
        own = copy.deepcopy(model)
        own.to(device=device, dtype=dtype).eval().requires_grad_(False)
        for member in members(own):
            freeze_for_dynamics(member)
    return own


def finest_dtype(device: torch.device) -> torch.dtype:
    """Of positions: double precision, where a device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_target(model: SchNet | Ensemble) -> None:
    """Refuses models of anything but energies.

    Raises:
        ValueError: If it predicts something else.
    """
    if model.target != "energy":
        raise ValueError(f"the model must predict energies (its target is '{model.target}')")


def energy_unit(model: SchNet | Ensemble, units: str | None, name: str) -> str:
    """The unit of the energies of a model.

    Args:
        model: The model.
        units: What the user says it is, if anything.
        name: The class of the interface, for errors.

    Raises:
        ValueError: If nobody knows, or they disagree.
    """
    if units is not None and model.units not in (None, units):
        raise ValueError(f"the energies of the model are in {model.units}, not in {units}")
    found = units if model.units is None else model.units
    if found is None:
        raise ValueError(
            "the model does not know the unit of its energies: say it by "
            f"{name}(model, units='kcal/mol'), or set 'model.units' before saving it"
        )
    return found


def takes_edges(model: SchNet) -> bool:
    """Whether the neighbours of a model are all those within its cutoff."""
    limited = model.config["max_num_neighbors"] is not None
    return model.envelope != "none" and model.interaction_graph is None and not limited


def freeze_for_dynamics(model: SchNet, *, anew: bool = True) -> None:
    """Makes tables of all filters, if these offer any.

    At a knot the third derivative of the energy jumps, which makes the energy wander in dynamics:
    half the spacing takes it to a fifth of that, at no cost.

    Args:
        model: The model.
        anew: Make them also where they are there.
    """
    convs = [getattr(block, "conv", None) for block in model.interactions]
    if not all(isinstance(conv, SchNetConv) and conv.has_table() for conv in convs):
        return
    if not anew and all(conv.is_frozen for conv in model._convs):
        return
    model.freeze()
    for conv in model._convs:
        conv.freeze(conv.frozen_knots.halved())
