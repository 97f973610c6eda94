r"""Networks as files: weights, offsets, units and settings in the safetensors format."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..storage import load_tensors, save_tensors
from .filters import GaussianFilter

if TYPE_CHECKING:
    from .schnet import SchNet

_KIND = "SchNet model"


def save(model: Any, path: str | Path) -> None:
    """Writes a model, see :meth:`SchNet.save`."""
    header = {
        "config": model.config,
        "interaction_graph": model.interaction_graph is not None,
        "filter": other_filter(model),
    }
    save_tensors(path, model.state_dict(), header, _KIND)


def load(
    kind: Any,
    path: str | Path,
    interaction_graph: Any,
    filter: Callable[[], nn.Module] | None,
) -> Any:
    """Reads a model, see :meth:`SchNet.load`."""
    tensors, header = load_tensors(path, _KIND)
    if header["interaction_graph"] and interaction_graph is None:
        raise ValueError(
            f"the model in '{path}' had an interaction_graph of its own: give that function to "
            "SchNet.load, or outputs would be others"
        )
    had = header.get("filter")  # files of version 0.1.0 do not tell
    if had is not None and filter is None:
        raise ValueError(
            f"the model in '{path}' had a {had} in place of the filters on Gaussians: give "
            "SchNet.load the 'filter' function that makes them"
        )
    model = kind(**header["config"], interaction_graph=interaction_graph, filter=filter)
    if (made := other_filter(model)) != had:
        raise ValueError(
            f"the model in '{path}' had filters of another kind ({had or 'GaussianFilter'}) than "
            f"the 'filter' function makes ({made or 'GaussianFilter'}): give the one it had"
        )
    model.to(tensors["embedding.weight"].dtype)
    model.load_state_dict(tensors)
    return model


def other_filter(model: "SchNet") -> str | None:
    """The type of filters that are not those of ``config``; ``None`` if all are."""
    for block in model.interactions:
        filter = getattr(block.conv, "filter", None)  # a layer of another kind may have none
        if type(filter) is not GaussianFilter:
            return type(block.conv if filter is None else filter).__name__
    return None
