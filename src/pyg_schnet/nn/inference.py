r"""Energies and forces without autograd: the forward pass and its derivative, written out.

Reverse mode by hand through the very operators of the network. It saves the bookkeeping of
autograd, which for a small molecule costs more than the arithmetic.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from ..graph import measured_edges
from ..ops import EdgePlan, kernels_for, threads
from ..ops.geometry import forces_from_distances, virial_from_distances
from . import edges, molecule
from .layers import Layer, read_layers, weights_of
from .response import forces_from_energy, strained, stress_from_energy, volumes_of
from .system import System, check_system

if TYPE_CHECKING:
    from .schnet import SchNet


class Prediction(NamedTuple):
    """What a network says of a system.

    Attributes:
        output: The target ``[B, 1]``.
        contributions: Those of the atoms ``[N]``.
        features: Features of the atoms ``[N, F]``.
        forces: Forces ``[N, D]``, if asked for.
        stress: Stress ``[B, 3, 3]``, if asked for.
    """

    output: Tensor
    contributions: Tensor
    features: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None


def named(
    model: "SchNet",
    system: System,
    forces: bool = True,
    stress: bool = False,
    energies: bool = False,
    features: bool = False,
) -> dict[str, Tensor]:
    """Predictions by name, see :meth:`SchNet.predict`.

    Args:
        model: The network.
        system: Atoms, not checked yet.
        forces: Whether to compute forces; targets other than the energy have none.
        stress: Whether to compute stress.
        energies: Whether to return the contributions of the atoms.
        features: Whether to return the features of the atoms.

    Raises:
        ValueError: If stress is asked for, and the target is not an energy.
    """
    if stress and model.target != "energy":
        raise ValueError(f"stress is a derivative of the energy, not of '{model.target}'")
    forces = forces and model.target == "energy"
    with torch.inference_mode(False):
        result = predict(model, system, forces, stress) or predict_by_autograd(
            model, system, forces, stress
        )
    found: dict[str, Any] = {model.target: result.output.squeeze(-1)}
    if forces:
        found["forces"] = result.forces
    if stress:
        found["stress"] = result.stress
    if energies:
        found["energies"] = result.contributions
    if features:
        found["features"] = result.features
    return found


@torch.no_grad()
def predict(
    model: "SchNet", system: System, with_forces: bool, with_stress: bool = False
) -> Prediction | None:
    r"""Evaluates a network whose filters come from tables.

    Args:
        model: The network.
        system: Atoms, not checked yet.
        with_forces: Whether to compute forces.
        with_stress: Whether to compute stress.

    Returns:
        The prediction, or ``None`` if a part of the network has been exchanged, has hooks, or does
        not use tables, so that autograd must do it.
    """
    if model.interaction_graph is not None or torch.is_autocast_enabled(system.pos.device.type):
        return None
    layers = read_layers(model)
    if layers is None:
        return None
    alone = system.edge_index is None and system.cell is None and system.batch_size == 1
    if alone and not with_stress:
        small = molecule.predict(model, layers, system.z, system.pos, with_forces)
        if small is not None:
            return Prediction(*small)
    checked = check_system(model, system)
    z, pos, batch, num_systems, *_, cell, _ = checked
    volumes = volumes_of(cell) if with_stress else None
    edge_index, edge_shift = edges.found(model, checked)
    vectors, lengths = measured_edges(pos, edge_index, edge_shift, cell, batch)
    x = embedding(z, model.embedding.weight)  # [N, F]
    plan = edges.prepared(model, x, edge_index, lengths.to(x.dtype))
    del edge_index, edge_shift  # of a large system a good part of the memory
    if plan.knots is None or plan.short is not None or plan.extent is None:
        return None
    longest = plan.extent[1]
    if not all(
        layer.conv.has_table() and layer.conv.knots_for(longest) == plan.knots for layer in layers
    ):
        return None  # filters with knots or short edges of their own
    tables = [layer.conv.table(plan.knots) for layer in layers]
    vectors, lengths = plan.arrange(vectors), plan.arrange(lengths)
    geometry = Geometry(z, pos, batch, num_systems, vectors, lengths, plan, volumes)
    return through(model, layers, tables, x, geometry, with_forces)


class Geometry(NamedTuple):
    """What a network has to know of a system, once its edges are found.

    Attributes:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, D]``.
        batch: System of each atom ``[N]``.
        num_systems: Number B of systems.
        vectors: From target to source of each edge ``[E, D]``, in the order of the plan.
        lengths: Their lengths ``[E]``.
        plan: The edges, prepared, with knots.
        volumes: Of the cells ``[B, 1, 1]``, if stress is to be computed.
    """

    z: Tensor
    pos: Tensor
    batch: Tensor
    num_systems: int
    vectors: Tensor
    lengths: Tensor
    plan: EdgePlan
    volumes: Tensor | None = None


@torch.no_grad()
def through(
    model: "SchNet",
    layers: list[Layer],
    tables: list[Tensor],
    x: Tensor,
    geometry: Geometry,
    with_forces: bool,
) -> Prediction:
    """The way through the network and back, which looks at no number: a CUDA graph can hold it.

    Args:
        model: The network.
        layers: What its blocks are made of.
        tables: Filters of each block on the knots of the plan ``[K, F]``.
        x: Embeddings of the atoms ``[N, F]``.
        geometry: Atoms and edges.
        with_forces: Whether to compute forces.
    """
    z, pos, batch, num_systems, vectors, lengths, plan, volumes = geometry
    distances = lengths.to(x.dtype)
    kernels = kernels_for(x)
    readout: Any = model.readout
    first, second = weights_of(readout.lin1), weights_of(readout.lin2)
    with threads.single_threaded_products(x.numel() * layers[0].before[0].size(0)):
        # 1. Forward, keeping what the way back needs.
        tape = []
        for layer, table in zip(layers, tables):
            u = linear(x, *layer.before)
            y = linear(kernels.reduce(u, distances, table, plan), *layer.after)
            value, slope = kernels.softplus_and_slope(y)
            x = linear(value, *layer.last).add_(x)
            tape.append((layer, table, u, slope))
        value, slope = _activated(readout.act, linear(x, *first), kernels)
        h = linear(value, *second)
        output, contributions = readout.pool(h, z, batch, num_systems)
        if not with_forces and volumes is None:
            return Prediction(output, contributions, x)

        # 2. Backward: gradients of the sum of all outputs.
        by_h = readout.pool_gradient(z, batch, num_systems).to(x.dtype).unsqueeze(-1)  # [N, 1]
        by_x = (by_h * second[0]).mul_(slope) @ first[0]  # [N, F]
        by_distance: Tensor | None = None
        for layer, table, u, slope in reversed(tape):
            by_y = (by_x @ layer.last[0]).mul_(slope) @ layer.after[0]
            if layer is layers[0]:  # embeddings do not depend on positions
                slopes = kernels.product(by_y, u, distances, table, plan, 1)
            else:
                by_u, slopes = kernels.reduce_backward(by_y, u, distances, table, plan)
                by_x = torch.addmm(by_x, by_u, layer.before[0])
            by_distance = slopes if by_distance is None else by_distance.add_(slopes)
    assert by_distance is not None
    by_distance = by_distance.to(pos.dtype)
    forces = stress = None
    if with_forces:
        forces = forces_from_distances(by_distance, vectors, lengths, plan)
    if volumes is not None:
        member = batch.index_select(0, plan.target)
        virial = virial_from_distances(by_distance, vectors, lengths, member, num_systems)
        stress = virial / volumes.to(pos.dtype)
    return Prediction(output, contributions, x, forces, stress)


def _activated(activation: nn.Module, x: Tensor, kernels: Any) -> tuple[Tensor, Tensor]:
    """The activation of the readout and its derivative."""
    if type(activation) is not nn.SiLU:
        return kernels.softplus_and_slope(x)
    sigmoid = x.sigmoid()
    return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))


def predict_by_autograd(
    model: "SchNet", system: System, with_forces: bool, with_stress: bool = False
) -> Prediction:
    """What :func:`predict` returns, of any network, by automatic differentiation."""
    with torch.set_grad_enabled(with_forces or with_stress):
        pos = system.pos.detach().clone().requires_grad_(with_forces)
        system, strain = system._replace(pos=pos), None
        if with_stress:
            cell = check_system(model, system).cell
            volumes_of(cell)
            moved, cell, strain = strained(pos, cell, system.batch)  # type: ignore[arg-type]
            system = system._replace(pos=moved, cell=cell)
        output, contributions, x = model._evaluate(system)
        if output.dim() != 2 or output.size(1) != 1:
            raise ValueError(
                f"predict is for one target per molecule, but the readout gives "
                f"{list(output.shape)} in place of [B, 1]: call the model itself, or put a head of "
                "your own on model.features(data)"
            )
        forces = stress = None
        if with_forces:
            forces = forces_from_energy(output, pos, retain_graph=with_stress)
        if strain is not None:
            stress = stress_from_energy(output, strain, system.cell)  # type: ignore[arg-type]
    return Prediction(output.detach(), contributions.detach(), x.detach(), forces, stress)
