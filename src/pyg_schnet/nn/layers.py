r"""The weights of a network, out of its modules, for formulas written out by hand."""

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.nn.dense.linear import Linear

from .conv import SchNetConv
from .interaction import InteractionBlock
from .offsets import Offsets
from .radial import ShiftedSoftplus
from .readout import AtomwiseReadout
from .tables import is_hooked

if TYPE_CHECKING:
    from .schnet import SchNet

# What the formulas stand for; anything else is left to autograd.
_ORIGINALS = {
    *(nn.Embedding, AtomwiseReadout, InteractionBlock, SchNetConv, SumAggregation),
    *(Linear, ShiftedSoftplus, nn.SiLU, Offsets),
}


class Layer(NamedTuple):
    """The weights of an interaction block, out of their modules.

    Attributes:
        conv: The convolution.
        before: Weight and bias of the dense layer before the sum over neighbours.
        after: Those of the layer behind it.
        last: Those of the layer behind the activation.
    """

    conv: SchNetConv
    before: tuple[Tensor, Tensor | None]
    after: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


def read_layers(model: "SchNet") -> list[Layer] | None:
    """The interaction blocks, or ``None`` if any part is not the original or somebody listens."""
    from .schnet import SchNet

    # Straight from the dictionaries of the modules: looking up attributes would take as long as
    # the convolutions of a small molecule.
    species: Any = model._modules["embedding"]
    readout: Any = model._modules["readout"]
    if type(model)._evaluate is not SchNet._evaluate or type(readout) is not AtomwiseReadout:
        return None
    if getattr(species, "max_norm", None) is not None:  # it changes its weights when it is called
        return None
    parts: list[Any] = [species, readout, *readout._modules.values()]
    blocks: Any = model._modules["interactions"]
    layers = []
    for block in blocks._modules.values():
        conv = block._modules.get("conv")
        act = block._modules.get("act")
        if type(conv) is not SchNetConv or conv.has_message_hooks():
            return None
        if type(act) is not ShiftedSoftplus:  # the readout may have another
            return None
        dense = (conv._modules["lin1"], conv._modules["lin2"], block._modules.get("lin"))
        if not all(type(layer) is Linear for layer in dense):
            return None
        parts += [block, conv, conv._modules["aggr_module"], act, *dense]
        layers.append(Layer(conv, *map(weights_of, dense)))
    if not layers or not _ORIGINALS.issuperset(map(type, parts)):
        return None
    return None if is_hooked(model) or any(map(is_hooked, parts)) else layers


def weights_of(layer: Any) -> tuple[Tensor, Any]:
    """Weight and bias of a dense layer."""
    # A weight that is computed, as pruning does, is no parameter of the layer.
    weight = layer._parameters.get("weight")
    return layer.weight if weight is None else weight, layer._parameters["bias"]
