r"""Predictions of one small molecule by a frozen network, in one kernel.

See :mod:`pyg_schnet.ops.molecule_kernel`. Whatever is unusual, or wrong, is left to
:mod:`.inference`, which can do it or say what is the matter.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..data.species import NUM_SPECIES
from ..ops import Knots
from ..ops.dispatch import use_cpu_kernels
from .layers import Layer, weights_of

if TYPE_CHECKING:
    from .schnet import SchNet

# Atoms times weights of a layer, above which two threads are faster than this kernel.
_LARGEST = 400_000
_ANY_SPECIES = torch.ones(NUM_SPECIES, dtype=torch.bool, device="cpu").numpy()
# The weights of each model as arrays that share their memory, and where these were.
_arrays: WeakKeyDictionary["SchNet", tuple[list, tuple]] = WeakKeyDictionary()


class Molecular(NamedTuple):
    """A network as the kernel takes it: arrays that share the memory of its weights.

    Attributes:
        species: Which atomic numbers are allowed, ``[101]``.
        arrays: Weights, tables and offsets, and whether widths fit the kernel's panels.
        grid: Squared cutoff, and where the knots are.
        silu: Whether the readout has SiLU as activation.
        averages: Whether the target is the mean of the contributions.
        width: Number H of features.
        most: Largest number of atoms for which one kernel is the fastest way.
    """

    species: np.ndarray
    arrays: tuple
    grid: tuple[float, float, float, float, bool]
    silu: bool
    averages: bool
    width: int
    most: float

    def copied(self) -> "Molecular":
        """The same with arrays of its own."""
        return self._replace(species=self.species.copy(), arrays=_copied(self.arrays))

    def evaluate(
        self, z: np.ndarray, pos: np.ndarray, with_forces: bool = True
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray] | None:
        """Evaluates the network on one molecule.

        Args:
            z: Atomic numbers ``[N]`` int64.
            pos: Positions ``[N, 3]``, float32 or float64.
            with_forces: Whether to compute forces.

        Returns:
            The target, atom-wise contributions ``[N]``, features ``[N, H]`` and forces ``[N, 3]``,
            or ``[0, 3]`` without; or ``None`` if the operators must do it.
        """
        from ..ops import molecule_kernel

        num_atoms = len(z)
        contributions = np.empty(num_atoms)
        x = np.empty((num_atoms, self.width), np.float32)
        forces = np.empty((num_atoms if with_forces else 0, 3), pos.dtype)
        out = (contributions, x, forces)
        evaluate: Any = molecule_kernel.evaluate
        if not evaluate(z, pos, self.species, *self.arrays, self.grid, self.silu, out):
            return None
        target = float(contributions.sum())
        if self.averages:
            target /= num_atoms
            forces /= num_atoms
        return target, contributions, x, forces


def predict(
    model: "SchNet", layers: list[Layer], z: Tensor, pos: Tensor, with_forces: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
    r"""Evaluates a frozen network on one molecule.

    Args:
        model: The network.
        layers: Its interaction blocks.
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, 3]``.
        with_forces: Whether to compute forces.

    Returns:
        The target ``[1, 1]``, atom-wise contributions ``[N]``, features ``[N, F]`` and forces
        ``[N, 3]`` or ``None``; or ``None`` in place of all if the operators must do it.
    """
    num_atoms = z.size(0)
    if (
        z.dtype != torch.long
        or z.dim() != 1
        or pos.shape != (num_atoms, 3)
        or pos.dtype not in (torch.float32, torch.float64)
        or not (z.is_cpu and pos.is_cpu)
    ):
        return None
    network = molecular(model, layers)
    if network is None or not 0 < num_atoms <= network.most:
        return None
    z, pos = z.contiguous(), pos.detach().contiguous()
    result = network.evaluate(z.numpy(), pos.numpy(), with_forces)
    if result is None:
        return None
    target, *arrays = result
    contributions, x, forces = map(torch.from_numpy, arrays)
    output = torch.full((1, 1), target, dtype=torch.float64, device="cpu")
    return output, contributions, x, forces if with_forces else None


def molecular(model: "SchNet", layers: list[Layer]) -> Molecular | None:
    """The network as the kernel takes it, or ``None`` if it is none for the kernel."""
    weight = layers[0].after[0]
    if not use_cpu_kernels(weight) or model.config["max_num_neighbors"] is not None:
        return None
    if not all(layer.conv.is_frozen and layer.conv.has_table() for layer in layers):
        return None
    knots = layers[0].conv.frozen_knots
    if any(layer.conv.frozen_knots != knots for layer in layers):
        return None
    arrays = _arrays_of(model, layers, knots)
    if arrays is None:
        return None
    squared_cutoff = math.inf if model.envelope == "none" else model.cutoff**2
    return Molecular(
        model.species.numpy() if model.refuse_unknown_species else _ANY_SPECIES,
        arrays,
        (squared_cutoff, knots.start, 1.0 / knots.spacing, knots.limit, knots.vanishes),
        type(model.readout.act) is nn.SiLU,
        model.readout.reduce == "mean",
        weight.size(0),
        _LARGEST / weight.numel(),
    )


def _arrays_of(model: "SchNet", layers: list[Layer], knots: Knots) -> tuple | None:
    """The weights as the kernel takes them, or ``None`` if they do not lie as it expects."""
    readout: Any = model.readout
    offsets = readout.offsets
    first, second = weights_of(readout.lin1), weights_of(readout.lin2)
    tables = [layer.conv.table(knots) for layer in layers]
    tensors = [model.embedding.weight, *first, *second, *tables]
    for layer in layers:
        tensors += [*layer.before, *layer.after, *layer.last]
    places = [
        None if t is None else (t.data_ptr(), t.shape, t.stride(), t.dtype)
        for t in (*tensors, offsets.std, offsets.mean, offsets.atomref)
    ]
    known = _arrays.get(model)
    if known is not None and known[0] == places:
        return known[1]
    if not all(
        t is None or (t.is_cpu and t.is_contiguous() and t.dtype == torch.float32) for t in tensors
    ):
        return None
    if not _fit(model, layers, first, second, tables, knots):
        return None
    from ..ops.molecule_kernel import LANES

    whole = all(width % LANES == 0 for width in layers[0].after[0].shape)
    arrays = (
        tensors[0].detach().numpy(),
        tuple(_dense(layer.before) for layer in layers),
        tuple(_dense(layer.after) for layer in layers),
        tuple(_dense(layer.last) for layer in layers),
        _dense(first),
        _dense(second)[:2],
        tuple(table.numpy() for table in tables),
        tuple(t.numpy() for t in (offsets.atomref, offsets.mean, offsets.std)),
        None if whole else True,
    )
    _arrays[model] = (places, arrays)
    return arrays


def _fit(
    model: "SchNet",
    layers: list[Layer],
    first: tuple[Tensor, Tensor | None],
    second: tuple[Tensor, Tensor | None],
    tables: list[Tensor],
    knots: Knots,
) -> bool:
    """Whether all shapes are those of one network: the kernel cannot notice if they are not."""
    hidden, width = layers[0].after[0].shape
    offsets: Any = model.readout.offsets
    half = first[0].size(0)
    dense = [(first, (half, hidden)), (second, (1, half))]
    for layer in layers:
        dense += [
            (layer.before, (width, hidden)),
            (layer.after, (hidden, width)),
            (layer.last, (hidden, hidden)),
        ]
    return (
        model.embedding.weight.shape == (NUM_SPECIES, hidden)
        and model.species.shape == (NUM_SPECIES,)
        and offsets.atomref.shape == (NUM_SPECIES,)
        and all(t.dtype == torch.float64 for t in (offsets.atomref, offsets.mean, offsets.std))
        and all(table.shape == (knots.rows, width) for table in tables)
        and all(w.shape == shape for (w, _), shape in dense)
        and all(b is None or b.shape == shape[:1] for (_, b), shape in dense)
    )


def _dense(layer: tuple[Tensor, Tensor | None]) -> tuple[np.ndarray, ...]:
    """Weight, bias, the weight transposed, and that of which it was made."""
    weight, bias = layer
    bias = weight.new_zeros(weight.size(0)) if bias is None else bias
    array = weight.detach().numpy()
    return array, bias.detach().numpy(), array.T.copy(), array.copy()


def _copied(arrays: Any) -> Any:
    if isinstance(arrays, tuple):
        return tuple(map(_copied, arrays))
    return arrays.copy() if isinstance(arrays, np.ndarray) else arrays
