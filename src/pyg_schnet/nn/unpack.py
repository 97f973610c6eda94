"""From PyG's ``Data`` to what a network takes."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..graph import measured_edges, num_molecules
from ..graph.checks import check_tensor, unify_cells
from . import checks
from .system import System, reach

if TYPE_CHECKING:
    from .schnet import SchNet

_FIELDS = ("z", "pos", "batch", "edge_index", "edge_shift", "cell", "pbc")


def unpack(model: "SchNet", data: Data) -> System:
    """The molecule, periodic system or batch in ``data``, on the device of the model.

    Stored edges are used where they come with distances and reach far enough. A ``cell`` whose
    ``pbc`` is false along all directions does not count.

    Raises:
        TypeError: If this is no ``Data``, or a field is no tensor.
        ValueError: If ``data`` has no ``z`` or ``pos``, is periodic without a cell, or holds edges
            that do not reach to the cutoff of the model.
    """
    if not isinstance(data, Data):
        raise TypeError(
            f"expected a Data or Batch (got {type(data).__name__}): for lists use "
            "Batch.from_data_list, for tensors call the model itself"
        )
    for name in ("z", "pos"):
        if not isinstance(data.get(name), Tensor):
            raise ValueError(
                f"the data must have '{name}', a tensor (got {type(data.get(name)).__name__}; the "
                f"fields are {sorted(data.keys())})"
            )
    fields = {name: data.get(name) for name in _FIELDS}
    for name, value in fields.items():
        if name != "pbc" and value is not None:
            check_tensor(name, value)
    pbc = fields["pbc"]
    if pbc is not None and not bool(torch.as_tensor(pbc).any()):
        fields["cell"] = fields["pbc"] = None
    if fields["cell"] is None:
        fields["edge_shift"] = None
    if data.get("edge_weight") is None or model.interaction_graph is not None:
        fields["edge_index"] = fields["edge_shift"] = None
    elif fields["edge_index"] is not None:
        _check_stored_edges(model, data, fields)
    device = model.device
    return System(
        **{
            name: plain(value.to(device)) if isinstance(value, Tensor) else value
            for name, value in fields.items()
        },
        batch_size=num_molecules(data),
    )


def plain(value: Tensor) -> Tensor:
    """The tensor, or a copy of one made under inference_mode, which autograd refuses to save."""
    return value.clone() if value.is_inference() else value


def _check_stored_edges(model: "SchNet", data: Data, fields: dict) -> None:
    edge_index, edge_shift, cell = fields["edge_index"], fields["edge_shift"], fields["cell"]
    batch = fields["batch"]
    member = torch.zeros_like(data.z) if batch is None else batch
    checks.check_edges(edge_index, member)
    if cell is not None:
        if edge_shift is None:
            raise ValueError(
                "the data are periodic, but their edges have no 'edge_shift': remove "
                "'edge_weight' to have edges built, or apply pyg_schnet.RadiusGraph again"
            )
        cell, periodic = unify_cells(data.pos, reach(model), batch, cell, fields["pbc"])
        checks.check_shifts(edge_shift, edge_index, member, periodic)
    lengths = measured_edges(data.pos.detach(), edge_index, edge_shift, cell, batch)[1]
    if data.edge_weight.shape != lengths.shape or not torch.allclose(
        data.edge_weight.detach().to(lengths), lengths, atol=1e-3
    ):
        raise ValueError(
            "'edge_weight' in the data are not the distances along 'edge_index': have the atoms "
            "moved since, or are these bonds? Remove both to have edges built, or apply "
            "pyg_schnet.RadiusGraph again"
        )
    radius = data.get("cutoff")
    if radius is None:  # edges of the user's own making
        return
    radius = float(torch.as_tensor(radius).min())
    if model.envelope != "none" and radius < model.cutoff * (1 - 1e-6):
        raise ValueError(
            f"the edges in the data reach to {radius:g} A, the model to {model.cutoff:g} A; build "
            f"the data with cutoff={model.cutoff:g}, or remove 'edge_weight' to have edges built"
        )
    if model.envelope == "none":
        sizes = torch.bincount(batch) if batch is not None else torch.tensor([data.z.numel()])
        if edge_index.size(1) != int((sizes * (sizes - 1)).sum()):
            raise ValueError(
                f"the edges in the data reach to {radius:g} A and leave out pairs of atoms; a "
                "model without envelope needs all pairs: use a larger cutoff for the data"
            )
