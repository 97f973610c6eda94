r"""Weights of SchNetPack 0.3, 1 and 2.

Versions 1 and 2 differ in the names of weights, in the activation of the readout (shifted softplus,
then SiLU), and in where offsets are: version 1 standardizes in the output module, version 2 has
postprocessors. Whatever of a model has no counterpart here is refused by its name, and no weight
may be left over.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.species import NUM_SPECIES
from .filters import RadialFilter
from .pickles import load_records
from .radial import BesselBasis, GaussianBasis
from .schnetpack_offsets import take_offsets
from .schnetpack_parts import Parts, name_of, parts_of

_BLOCKS = "representation.interactions"
# The layers of a block: ours, and theirs by version.
_LAYERS = (
    ("conv.filter.lin1", {1: "filter_network.0", 2: "filter_network.0"}),
    ("conv.filter.lin2", {1: "filter_network.1", 2: "filter_network.1"}),
    ("conv.lin1", {1: "cfconv.in2f", 2: "in2f"}),
    ("conv.lin2", {1: "cfconv.f2out", 2: "f2out.0"}),
    ("lin", {1: "dense", 2: "f2out.1"}),
)
_ACTIVATIONS = {
    "shifted_softplus": "ssp",
    "ShiftedSoftplus": "ssp",
    "silu": "silu",
    "SiLU": "silu",
}


@torch.no_grad()
def from_schnetpack(
    cls: Any,
    source: Any,
    head_activation: str | None = None,
    readout: str | None = None,
    target: str | None = None,
    units: str | None = None,
) -> Any:
    """Copies a SchNet of SchNetPack, see :meth:`SchNet.from_schnetpack`.

    Args:
        cls: :class:`~pyg_schnet.SchNet` or a subclass.
        source: A file, state dict or model.
        head_activation: Activation of the readout, if the default is not right.
        readout: ``"add"`` or ``"mean"``, if the default is not right.
        target: What the model predicts.
        units: Unit of it.

    Returns:
        A model in the dtype and on the device of the weights with equal outputs.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If it was not written by ``torch.save``.
        TypeError: If ``source`` is something else.
        ValueError: If a part of the model has no counterpart.
    """
    if isinstance(source, (str, Path)):
        source = load_records(source)
    parts = parts_of(source)
    version = _check_representation(parts)
    blocks = parts.numbered(_BLOCKS)
    embedding = parts.take("representation.embedding.weight")
    if embedding.size(0) > NUM_SPECIES:
        raise ValueError(
            f"the model has embeddings of {embedding.size(0)} species, SchNet of up to "
            f"{NUM_SPECIES}, 0 included"
        )
    num_filters = parts.peek(f"{_BLOCKS}.0.filter_network.0.weight").size(0)
    cutoff = _take_cutoff(parts, version, blocks)
    basis, scale = _take_basis(parts, version, num_filters, cutoff)
    head = _find_head(parts, version)
    dipole = parts.kind(head) == "DipoleMoment"
    new = cls(
        *(embedding.size(1), num_filters, len(blocks)),
        cutoff=cutoff,
        readout=readout or _aggregation_of(parts, version, head),
        dipole=dipole,
        head_activation=head_activation or _head_activation_of(parts, version, head),
        target=target,
        units=units,
        **basis,
    )
    new = new.to(embedding.device, embedding.dtype)

    rows = embedding.size(0)
    new.embedding.weight[1:rows] = embedding[1:]
    new.embedding.weight[0] = 0.0
    new.species[rows:] = False
    for ours, number in zip(new.interactions, blocks, strict=True):
        for layer, names in _LAYERS:
            _fill(ours.get_submodule(layer), parts, f"{_BLOCKS}.{number}.{names[version]}")
        ours.conv.filter.lin1.weight *= scale
    outnet = f"{head}.out_net.1.out_net" if version == 1 else f"{head}.outnet"
    _fill(new.readout.lin1, parts, f"{outnet}.0")
    _fill(new.readout.lin2, parts, f"{outnet}.1")
    offsets = take_offsets(parts, version, head)
    if dipole:  # which SchNetPack does not standardize
        new.readout.atomic_mass.copy_(_masses_of_ase())
    else:
        new.readout.offsets.set(**offsets)
    parts.check_empty()
    return new


def _check_representation(parts: Parts) -> int:
    """The version of the format, after a look at what the representation consists of."""
    parts.check_kind("representation", ["SchNet"])
    parts.peek(f"{_BLOCKS}.0.filter_network.0.weight")
    version = 1 if parts.has(f"{_BLOCKS}.0.dense.weight") else 2
    for block in (f"{_BLOCKS}.{number}" for number in parts.numbered(_BLOCKS)):
        inner = f"{block}.cfconv.f2out" if version == 1 else f"{block}.f2out.0"
        for path in (inner, f"{block}.filter_network.0"):
            activation = parts.attribute(path, "activation")
            if activation is not None and _ACTIVATIONS.get(name_of(activation)) != "ssp":
                raise ValueError(
                    f"the interactions have {name_of(activation)} as activation: SchNet here has "
                    "the shifted softplus"
                )
        if parts.attribute(f"{block}.cfconv.agg", "average"):
            raise ValueError("filters are normalized by the number of neighbors: SchNet sums")
    for name in parts.children("input_modules"):
        parts.check_kind(f"input_modules.{name}", ["PairwiseDistances", "Strain"])
    return version


def _take_cutoff(parts: Parts, version: int, blocks: list[int]) -> float:
    cutoffs = ["representation.cutoff_fn"]
    if version == 1:
        cutoffs = [f"{_BLOCKS}.{number}.cutoff_network" for number in blocks]
        for number in blocks:  # these are in two places
            parts.drop(f"{_BLOCKS}.{number}.cfconv.filter_network.")
            parts.drop(f"{_BLOCKS}.{number}.cfconv.cutoff_network.")
    for path in cutoffs:
        parts.check_kind(path, ["CosineCutoff"])
        if parts.has(f"{path}.eps"):
            raise ValueError("the model has a MollifierCutoff: SchNet reads the CosineCutoff only")
    radii = {float(parts.take(f"{path}.cutoff", [1])) for path in cutoffs}
    if len(radii) > 1:
        raise ValueError(
            f"the interactions have cutoffs of their own ({sorted(radii)}): SchNet one"
        )
    return radii.pop()


def _take_basis(
    parts: Parts, version: int, num_filters: int, cutoff: float
) -> tuple[dict[str, Any], float]:
    """Arguments of :class:`SchNet` for the basis, and what its functions are multiplied by."""
    path = "representation.distance_expansion" if version == 1 else "representation.radial_basis"
    if parts.has(f"{path}.freqs"):
        frequencies = parts.take(f"{path}.freqs").double()
        size, reach = frequencies.numel(), math.pi / float(frequencies[0])
        orders = torch.arange(1, size + 1).to(frequencies)
        if not torch.allclose(frequencies, orders * frequencies[0], rtol=1e-5):
            raise ValueError("the frequencies of the Bessel functions were changed: no counterpart")
        normalized = math.sqrt(2.0 / reach)  # here, not there
        return _with_basis(num_filters, cutoff, lambda: BesselBasis(size, reach), size), (
            1.0 / normalized
        )
    if parts.attribute(path, "centered"):
        raise ValueError("the Gaussians are centered at the origin: SchNet has no such filters")
    centers = parts.take(f"{path}.offsets").double()
    widths = parts.take(f"{path}.width" + ("" if version == 1 else "s")).double().abs()
    size = centers.numel()
    even = torch.linspace(float(centers[0]), float(centers[-1]), size).to(centers)
    spread = float(widths.max())
    if (
        size > 1
        and centers[0] < centers[-1]
        and torch.allclose(centers, even, rtol=0.0, atol=1e-5 * spread)
        and torch.allclose(widths, widths[:1], rtol=1e-5)
    ):
        return {
            "num_gaussians": size,
            "gaussian_range": (float(centers[0]), float(centers[-1])),
            "gamma": 0.5 / float(widths.mean()) ** 2,
        }, 1.0
    return _with_basis(num_filters, cutoff, lambda: GaussianBasis(centers, widths), size), 1.0


def _with_basis(num_filters: int, cutoff: float, basis: Any, size: int) -> dict[str, Any]:
    return {
        "num_gaussians": size,
        "filter": lambda: RadialFilter(num_filters, basis(), cutoff),
    }


def _find_head(parts: Parts, version: int) -> str:
    """The output module, the only one with weights."""
    for name in parts.children("output_modules"):
        path = f"output_modules.{name}"
        parts.check_kind(
            path, ["Atomwise", "DipoleMoment"] if version == 1 else ["Atomwise", "Forces"]
        )
        if parts.kind(path) == "DipoleMoment" and not parts.attribute(path, "predict_magnitude"):
            raise ValueError("the model predicts dipole vectors: SchNet predicts magnitudes only")
    heads = parts.numbered("output_modules")
    if len(heads) != 1:
        raise ValueError(
            f"expected one output module with weights (found {len(heads)}): split the model, or "
            "give it without the others"
        )
    return f"output_modules.{heads[0]}"


def _aggregation_of(parts: Parts, version: int, head: str) -> str:
    if version == 1:
        return "mean" if parts.attribute(f"{head}.atom_pool", "average") else "add"
    mode = parts.attribute(head, "aggregation_mode", "sum")
    if mode not in ("sum", "avg"):
        raise ValueError(f"the output module does not sum or average atoms (got '{mode}')")
    return "mean" if mode == "avg" else "add"


def _head_activation_of(parts: Parts, version: int, head: str) -> str:
    first = f"{head}.out_net.1.out_net.0" if version == 1 else f"{head}.outnet.0"
    activation = parts.attribute(first, "activation")
    if not parts.has_module:
        return "ssp" if version == 1 else "silu"
    if (name := name_of(activation)) not in _ACTIVATIONS:
        raise ValueError(f"the readout has {name} as activation: SchNet has {set(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _fill(layer: Any, parts: Parts, name: str) -> None:
    layer.weight.copy_(parts.take(f"{name}.weight", layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(parts.take(f"{name}.bias", layer.bias.shape))


def _masses_of_ase() -> Tensor:
    """The masses by which SchNetPack centres molecules; those of RDKit have fewer digits."""
    try:
        from ase.data import atomic_masses
    except ImportError as error:
        raise ImportError(
            "dipole moments of SchNetPack need the atomic masses of ASE: pip install "
            "pyg-schnet[ase]"
        ) from error
    return torch.from_numpy(atomic_masses[:NUM_SPECIES])
