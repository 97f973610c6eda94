r"""Batches cut out of collated molecules, all molecules at once."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.data.separate import separate

from ..graph import check_atoms, molecule_edges

# Fields by which PyG counts atoms, and fields that make it assign atoms to molecules.
_COUNTING = frozenset({"x", "feat", "pos", "node_type", "n_id", "tf"})
_ASSIGNING = frozenset({"x", "pos", "adj", "adj_t", "edge_index", "face"})
_EDGES = ("edge_index", "edge_weight", "edge_shift", "edge_attr")
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class UnsliceableError(Exception):
    """What keeps a data set from being sliced."""


@dataclass(frozen=True)
class _Field:
    """A field of all molecules.

    Attributes:
        key: Its name.
        values: ``[rows, ...]``, ``[..., rows]`` if ``incremented``, or a list.
        group: Number of the group of fields with the same starts.
        incremented: Whether the values are numbers of atoms, which go on from molecule to molecule.
        columns: The memory of ``values`` as ``[..., rows]`` flattened to two dimensions, if a
            kernel can read it.
    """

    key: str
    values: Any
    group: int
    incremented: bool
    columns: np.ndarray | None = None


class _Cut:
    """Which rows of a group of fields make up a batch.

    Attributes:
        ptr: Where the molecules begin in the batch, ``[B + 1]``, on the CPU as PyG has it.
        rows: Their rows in the collated tensors.
    """

    def __init__(self, chosen: np.ndarray, starts: np.ndarray | None, device: torch.device):
        if starts is None:  # one row for each molecule
            ptr, rows = np.arange(len(chosen) + 1), chosen
        else:
            from ..ops import segment_kernels

            ptr, rows = segment_kernels.locate(chosen, starts)
        self.ptr, self.rows_on_cpu = torch.from_numpy(ptr), torch.from_numpy(rows)
        self.rows = _upload(self.rows_on_cpu, device)


class Slicer:
    r"""Makes what ``Batch.from_data_list`` makes, straight from the tensors of a data set.

    Args:
        dataset: Molecules; their collated tensors are used as they are now.
        cutoff: Radius of the edges to add, if any.
        device: Where the tensors are moved now and batches are made; where they are if ``None``.
        exclude: Fields to leave out.
        follow: Fields that get assignment vectors of their own.

    Raises:
        UnsliceableError: If only PyG's own way gives the right batches.
        ValueError: If ``cutoff`` does not suit the molecules.
    """

    def __init__(
        self,
        dataset: InMemoryDataset,
        cutoff: float | None = None,
        device: torch.device | None = None,
        exclude: Collection[str] = (),
        follow: Collection[str] = (),
    ):
        data, slices = plain_tensors(dataset)
        size = dataset.len()
        stored = {key: data[key] for key in slices if key in data._store}
        for key, value in stored.items():
            _check_field(key, value, slices[key], size)
        counting = _counting_key(stored)
        devices = {value.device for value in stored.values() if isinstance(value, Tensor)}
        if device is None and len(devices) > 1:
            raise UnsliceableError(f"fields are on different devices, {sorted(map(str, devices))}")
        self._device = devices.pop() if device is None else device
        self._starts: list[np.ndarray | None] = []
        groups = {key: self._group(slices[key], size) for key in stored}
        kept = {key: value for key, value in stored.items() if key not in exclude}
        self._cutoff = edges_to_add(kept, cutoff)
        if self._cutoff is not None:
            if groups["pos"] != groups[counting]:
                raise UnsliceableError(f"'pos' and '{counting}' differ in their numbers of atoms")
            self._check_cells(kept, size)
            self._pos = kept["pos"].detach().cpu()
            # Molecules that are never asked for may be broken.
            self._doubtful = not bool(self._pos.isfinite().all())
        self._fields = [self._field(key, value, groups[key]) for key, value in kept.items()]
        self._atoms = groups[counting]
        self._follow = frozenset(follow)
        molecule = separate(type(data), data, 0, slices, decrement=False)
        self._template = Batch.from_data_list([molecule])
        self._template._store._mapping = {}

    def __call__(self, chosen: np.ndarray) -> Batch:
        """The batch of the molecules with the given numbers, ``[B]`` int64."""
        size = len(chosen)
        cuts: dict[int, _Cut] = {}
        values: dict[str, Any] = {}
        slices: dict[str, Tensor] = {}
        increments: dict[str, Tensor | None] = {}

        def cut(group: int) -> _Cut:
            if group not in cuts:
                cuts[group] = _Cut(chosen, self._starts[group], self._device)
            return cuts[group]

        def enter(key: str, value: Any, ptr: Tensor, increment: Tensor | None) -> None:
            values[key], slices[key], increments[key] = value, ptr, increment
            if key in self._follow:
                values[f"{key}_batch"], values[f"{key}_ptr"] = self._assign(ptr)

        atoms = cut(self._atoms).ptr
        zeros = torch.zeros(size, dtype=torch.long, device="cpu")
        pick = None
        for field in self._fields:
            rows = cut(field.group)
            if isinstance(field.values, list):
                pick = pick or itemgetter(*chosen.tolist())
                items = list(pick(field.values)) if size > 1 else [pick(field.values)]
                enter(field.key, items, rows.ptr, None)
            elif field.incremented:
                enter(field.key, self._shifted(field, chosen, rows, atoms), rows.ptr, atoms[:-1])
            else:
                enter(field.key, field.values.index_select(0, rows.rows), rows.ptr, zeros)
        if self._cutoff is not None:
            pos = values["pos"]
            if pos.device.type != "cpu":  # nothing may wait for the device
                pos = self._pos.index_select(0, cut(self._atoms).rows_on_cpu)
            if self._doubtful:
                check_atoms(pos, self._cutoff, None)
            cells = [values[key].cpu() for key in ("cell", "pbc") if key in values]
            edge_index, edge_weight, starts, edge_shift = molecule_edges(
                pos, self._cutoff, atoms, *cells
            )
            reach = torch.full((size,), self._cutoff, device=self._device)
            enter("edge_index", _upload(edge_index, self._device), starts, atoms[:-1])
            enter("edge_weight", _upload(edge_weight, self._device), starts, zeros)
            if edge_shift is not None:
                enter("edge_shift", _upload(edge_shift, self._device), starts, zeros)
            enter("cutoff", reach, torch.arange(size + 1, device="cpu"), zeros)
        values["batch"], values["ptr"] = self._assign(atoms)
        batch = copy.copy(self._template)
        batch._store.__dict__.update(
            _mapping=values, _num_graphs=size, _slice_dict=slices, _inc_dict=increments
        )
        return batch

    @staticmethod
    def _check_cells(fields: Mapping[str, Any], size: int) -> None:
        """Cells must be told apart, and have the shapes that RadiusGraph gives them."""
        cell, pbc = fields.get("cell"), fields.get("pbc")
        if cell is None and pbc is None:
            return
        cells = isinstance(cell, Tensor) and cell.shape == (size, 3, 3)
        if not (cells and isinstance(pbc, Tensor) and pbc.shape == (size, 3)):
            raise UnsliceableError("'cell' and 'pbc' are not [1, 3, 3] and [1, 3] in each molecule")

    def _group(self, slices: Tensor, size: int) -> int:
        starts = slices.cpu().numpy().astype(np.int64, copy=False)
        one_row = np.array_equal(starts, np.arange(size + 1))
        for number, known in enumerate(self._starts):
            if one_row if known is None else np.array_equal(known, starts):
                return number
        self._starts.append(None if one_row else starts)
        return len(self._starts) - 1

    def _field(self, key: str, value: Any, group: int) -> _Field:
        if isinstance(value, list):
            return _Field(key, value, group, False)
        value = value.to(self._device).contiguous()
        if not _is_index(key):
            return _Field(key, value, group, False)
        if self._device.type != "cpu" or value.dtype != torch.long:
            return _Field(key, value, group, True)
        return _Field(key, value, group, True, value.numpy().reshape(-1, max(value.size(-1), 1)))

    def _shifted(self, field: _Field, chosen: np.ndarray, cut: _Cut, atoms: Tensor) -> Tensor:
        """Numbers of atoms, with the atoms of all molecules before added."""
        values, starts = field.values, self._starts[field.group]
        if field.columns is None or starts is None:
            owner = self._assign(cut.ptr)[0]
            shift = _upload(atoms, self._device).to(values.dtype)
            return values.index_select(-1, cut.rows) + shift[owner]
        total = len(cut.rows)
        out = values.new_empty(*values.shape[:-1], total)
        from ..ops import segment_kernels

        segment_kernels.shifted_columns(
            field.columns,
            chosen,
            starts,
            cut.ptr.numpy(),
            atoms.numpy(),
            out.numpy().reshape(len(field.columns), total),
        )
        return out

    def _assign(self, ptr: Tensor) -> tuple[Tensor, Tensor]:
        """The molecule of each row, and where each molecule begins."""
        from ..ops import segment_kernels

        owner = torch.from_numpy(segment_kernels.owners(ptr.numpy()))
        return _upload(owner, self._device), _upload(ptr.clone(), self._device)


def edges_to_add(fields: Mapping[str, Any], cutoff: float | None) -> float | None:
    """The cutoff, or ``None`` if the molecules have the edges within it already.

    Args:
        fields: Fields of a molecule or of collated ones.
        cutoff: Radius of the edges that are wanted, if any.

    Raises:
        ValueError: If the molecules have other edges, or no positions to find any.
        TypeError: If their positions are no floating-point numbers.
    """
    if cutoff is None:
        return None
    present = [key for key in _EDGES if key in fields]
    stored = {"edge_index", "edge_weight", "cutoff"} <= fields.keys()
    if stored and "edge_attr" not in fields:
        reach = torch.as_tensor(fields["cutoff"])
        if bool((reach == torch.tensor(cutoff, dtype=reach.dtype)).all()):
            return None
        raise ValueError(
            f"the molecules come with edges that reach to {float(reach.min()):g}, not to "
            f"cutoff={cutoff:g}: leave out 'cutoff' to use those, or exclude_keys={present} to "
            "have others found"
        )
    if present:
        raise ValueError(
            f"the molecules come with {present}, which cutoff={cutoff:g} would overwrite: leave "
            f"out 'cutoff', or exclude_keys={present} (chemical bonds belong in 'bond_index')"
        )
    if "pos" not in fields:
        raise ValueError(
            f"cutoff={cutoff:g} needs positions, but the fields are {sorted(fields)}: keep 'pos'"
        )
    check_atoms(fields["pos"][:0], cutoff, None)
    return float(cutoff)


def plain_tensors(dataset: InMemoryDataset) -> tuple[Data, dict[str, Tensor]]:
    """The tensors of a data set, and where each molecule starts in them.

    Raises:
        UnsliceableError: If the molecules are not just these.
    """
    kind = type(dataset)
    for name in ("get", "len", "indices", "__getitem__"):
        if getattr(kind, name) is not getattr(InMemoryDataset, name):
            raise UnsliceableError(f"{kind.__name__} has a {name}() of its own")
    if dataset.transform is not None:
        raise UnsliceableError(f"there is a transform, {dataset.transform}")
    if dataset.slices is None or dataset.len() == 1:
        raise UnsliceableError("there is one molecule only")
    data = dataset._data
    if not isinstance(data, Data):
        raise UnsliceableError(f"the molecules are {type(data).__name__}, not Data")
    for name in ("__inc__", "__cat_dim__", "num_nodes"):
        if getattr(type(data), name) is not getattr(Data, name):
            raise UnsliceableError(f"{type(data).__name__} has {name} of its own")
    if "num_nodes" in data._store or "_num_nodes" in data._store.__dict__:
        raise UnsliceableError("'num_nodes' is set by hand")
    return data, dataset.slices


def _check_field(key: str, value: Any, slices: Any, size: int) -> None:
    """Makes sure that slicing treats a field as PyG does."""
    if not (isinstance(slices, Tensor) and slices.shape == (size + 1,)):
        raise UnsliceableError(f"'{key}' is nested, or lacks slices")
    if isinstance(value, list):
        plain = set(map(type, value)) == {str} or all(map(_is_plain, value))
        if len(value) != size or not plain:
            raise UnsliceableError(f"'{key}' holds other things than tensors and strings")
        return
    if type(value) is not Tensor or value.layout != torch.strided or value.dim() == 0:
        raise UnsliceableError(f"'{key}' is no plain tensor")
    if "batch" in key or key == "ptr":
        raise UnsliceableError(f"'{key}' has a meaning of its own to PyG")
    if _is_index(key) and value.dtype not in _INTEGERS:
        raise UnsliceableError(f"'{key}' should be indices, but is {value.dtype}")
    rows = value.size(-1 if _is_index(key) else 0)
    if int(slices[0]) < 0 or int(slices[-1]) > rows or bool((slices.diff() < 0).any()):
        raise UnsliceableError(f"the slices of '{key}' do not fit its {rows} rows")


def _is_plain(value: Any) -> bool:
    """Whether PyG hands on what is in a list as it is."""
    if isinstance(value, str):
        return True
    return isinstance(value, list | tuple) and not (value and isinstance(value[0], Tensor))


def _is_index(key: str) -> bool:
    """Whether PyG concatenates a field in its last dimension and adds numbers of atoms to it."""
    return "index" in key or key == "face"


def _counting_key(fields: Mapping[str, Any]) -> str:
    """The field by which PyG counts the atoms of these molecules."""
    tensors = [key for key, value in fields.items() if isinstance(value, Tensor)]
    candidates = [key for key in tensors if key in _COUNTING]
    candidates += [key for key in tensors if "node" in key]
    if not candidates or not any(key in _ASSIGNING or "node" in key for key in fields):
        raise UnsliceableError(f"the number of atoms is not told by the fields {sorted(fields)}")
    return candidates[0]


def _upload(values: Tensor, device: torch.device) -> Tensor:
    """A tensor moved from the CPU, without waiting for it where that is safe."""
    if device.type == "cpu":
        return values
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
