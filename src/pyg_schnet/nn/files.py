r"""Networks as files: weights, offsets, units and settings in the safetensors format."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..storage import CorruptFileError, load_tensors, save_tensors
from .filters import GaussianFilter, RadialFilter
from .radial import BesselBasis, GaussianBasis

if TYPE_CHECKING:
    from .schnet import SchNet

_KIND = "SchNet model"
_FIELDS = {"config", "interaction_graph", "filter", "basis"}


#: The best model of a run, in its directory.
BEST = "best.safetensors"


def find(path: str | Path) -> Path:
    """The file of a model: itself, or the best model in the directory of a run.

    Raises:
        FileNotFoundError: If there is neither.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / BEST).is_file():
        raise FileNotFoundError(
            f"'{path}' is no directory of a run, or of one without a validation yet: it has no "
            f"'{BEST}'"
        )
    return path / BEST


def save(model: Any, path: str | Path) -> None:
    """Writes a model, see :meth:`SchNet.save`."""
    header = {
        "config": model.config,
        "interaction_graph": model.interaction_graph is not None,
        "filter": other_filter(model),
        "basis": _describe_basis(model),
    }
    save_tensors(path, model.state_dict(), header, _KIND)


def load(
    kind: Any,
    path: str | Path,
    interaction_graph: Any,
    filter: Callable[[], nn.Module] | None,
) -> Any:
    """Reads a model, see :meth:`SchNet.load`."""
    path = find(path)
    tensors, header = load_tensors(path, _KIND)
    _check_header(kind, path, header)
    if header["interaction_graph"] and interaction_graph is None:
        raise ValueError(
            f"the model in '{path}' had an interaction_graph of its own: give that function to "
            "SchNet.load, or outputs would be others"
        )
    had = header.get("filter")  # files of version 0.1.0 do not tell
    if had is not None and filter is None:
        filter = _filter_with(header.get("basis"))
    if had is not None and filter is None:
        raise ValueError(
            f"the model in '{path}' had a {had} in place of the filters on Gaussians: give "
            "SchNet.load the 'filter' function that makes them"
        )
    model = build(kind, path, header["config"], tensors, interaction_graph, filter)
    if (made := other_filter(model)) != had:
        raise ValueError(
            f"the model in '{path}' had filters of another kind ({had or 'GaussianFilter'}) than "
            f"the 'filter' function makes ({made or 'GaussianFilter'}): give the one it had"
        )
    fill(model, path, tensors)
    return model


def build(
    kind: Any,
    path: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    interaction_graph: Any = None,
    filter: Callable[[], nn.Module] | None = None,
) -> Any:
    """Makes the network that settings in a file describe, with weights yet to be filled in.

    Args:
        kind: The class.
        path: The file, for errors.
        config: The settings.
        tensors: All weights, which tell the sizes too.
        interaction_graph: See :meth:`SchNet.load`.
        filter: As that.

    Raises:
        CorruptFileError: If the sizes are others, before anything is made of such sizes, or the
            settings make no sense.
        ValueError: If settings or functions contradict each other.
    """
    _check_sizes(path, config, tensors, by_config=filter is None)
    try:
        return kind(**config, interaction_graph=interaction_graph, filter=filter)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        if filter is not None or interaction_graph is not None:
            raise  # it may be theirs
        raise CorruptFileError(
            f"'{path}' is damaged: its settings make no sense ({type(error).__name__}: {error})"
        ) from error


# By which shape of which tensor a setting shows.
_SIZES = {
    "hidden_channels": ("embedding.weight", 1),
    "num_filters": ("interactions.0.conv.lin1.weight", 0),
    "num_gaussians": ("interactions.0.conv.filter.basis.offset", 0),
}


def _check_sizes(
    path: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], by_config: bool
) -> None:
    """Compares settings with tensors; that of the Gaussians only if filters are made by it."""
    names = [name.split(".") for name in tensors]
    found = {"num_interactions": len({n[1] for n in names if n[0] == "interactions"})}
    for setting, (name, axis) in _SIZES.items():
        if not by_config and setting == "num_gaussians":
            continue
        if name in tensors and tensors[name].dim() > axis:
            found[setting] = tensors[name].size(axis)
    for setting, size in found.items():
        if setting in config and config[setting] != size:
            raise CorruptFileError(
                f"the tensors in '{path}' are not those of its settings (size mismatch): "
                f"'{setting}' is {config[setting]!r} and should be {size}"
            )


def _check_header(kind: Any, path: str | Path, header: Mapping[str, Any]) -> None:
    """Refuses files with settings that this version would have to ignore."""
    config = header.get("config")
    if not isinstance(config, Mapping) or "interaction_graph" not in header:
        raise CorruptFileError(f"'{path}' is damaged: its header lacks settings of the model")
    known = inspect.signature(kind).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in known.values())
    strange = sorted(set(header) - _FIELDS)
    if not takes_more:
        strange += sorted(set(config) - set(known))
    if strange:
        raise CorruptFileError(
            f"'{path}' has settings that this pyg-schnet does not know ({', '.join(strange)}) and "
            "will not ignore: update pyg-schnet"
        )


def fill(model: Any, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Gives a network the weights in a file, in their type.

    Raises:
        CorruptFileError: If they are those of another network.
    """
    weight = tensors.get("embedding.weight")
    if weight is not None and weight.is_floating_point():
        model.to(weight.dtype)
    for name, ours in model.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != ours.is_floating_point():
            raise CorruptFileError(
                f"the tensors in '{path}' are not those of its settings: '{name}' should be "
                f"{ours.dtype} (got {tensors[name].dtype})"
            )
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise CorruptFileError(
            f"the tensors in '{path}' are not those of its settings: {error}"
        ) from error


def _describe_basis(model: "SchNet") -> dict[str, Any] | None:
    """What rebuilds the filters, if all have the same of our bases in place of even Gaussians."""
    filters = [getattr(block.conv, "filter", None) for block in model.interactions]
    described = [_describe_filter(filter) for filter in filters]
    return described[0] if described and described.count(described[0]) == len(described) else None


def _describe_filter(filter: Any) -> dict[str, Any] | None:
    if type(filter) is not RadialFilter:
        return None
    basis: Any = filter.basis
    if type(basis) is BesselBasis:
        arguments = {"num_radial": basis.num_radial, "cutoff": basis.cutoff}
    elif type(basis) is GaussianBasis:
        arguments = {"num_gaussians": basis.center.numel()}
    else:
        return None
    return {
        "kind": type(basis).__name__,
        "arguments": arguments,
        "num_filters": filter.num_filters,
        "cutoff": filter.cutoff,
        "envelope": filter.envelope_name,
        "num_activations": filter.num_activations,
    }


def _filter_with(described: Mapping[str, Any] | None) -> Callable[[], nn.Module] | None:
    """The function that makes filters as described."""
    makers: dict[str, Callable[..., nn.Module]] = {
        "BesselBasis": BesselBasis,
        # The Gaussians themselves are among the tensors.
        "GaussianBasis": lambda num_gaussians: GaussianBasis(
            torch.zeros(num_gaussians), torch.ones(num_gaussians)
        ),
    }
    if described is None or described["kind"] not in makers:
        return None
    make_basis = partial(makers[described["kind"]], **described["arguments"])
    return lambda: RadialFilter(
        described["num_filters"],
        make_basis(),
        described["cutoff"],
        envelope=described["envelope"],
        num_activations=described["num_activations"],
    )


def other_filter(model: "SchNet") -> str | None:
    """The type of filters that are not those of ``config``; ``None`` if all are."""
    for block in model.interactions:
        filter = getattr(block.conv, "filter", None)  # a layer of another kind may have none
        if type(filter) is not GaussianFilter:
            return type(block.conv if filter is None else filter).__name__
    return None
