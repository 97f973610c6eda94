r"""Predictions for a whole data set that never wait for the device."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..data.packed import Capacity, PackedMolecules, UnpackableError
from ..nn import SchNet
from ..nn.layers import Layer, read_layers
from ..nn.packed import predict_packed
from ..ops import Knots
from .capture import Captured


class PackedPredictor:
    """Energies and forces of packed molecules, as the weights of a model are when it is called.

    All batches have one size, so that on a GPU the way through the network and back is a single
    CUDA graph. Nothing is read from the device.

    Args:
        model: The model, which must keep its parts and the place of its weights.
        molecules: Molecules on its device, with its edges.
        batch_size: Molecules of a batch.
        forces: Whether to compute forces.

    Raises:
        UnpackableError: If filters of the model differ in their knots.
    """

    def __init__(self, model: SchNet, molecules: PackedMolecules, batch_size: int, forces: bool):
        layers = read_layers(model)
        if not layers:
            raise UnpackableError("a part of the model is not the original, or has hooks")
        self._layers = layers
        with torch.no_grad():
            knots = {layer.conv.knots_for(molecules.longest) for layer in layers}
        if len(knots) > 1:
            raise UnpackableError("filters differ in their range")
        self._knots = knots.pop()
        # Where the graph expects what changes from call to call and from batch to batch.
        self._tables = [torch.empty_like(table) for table in self._filters()]
        device, most = molecules.device, len(molecules)
        size = min(batch_size, most)
        self._numbers = torch.full((size,), most, device=device)
        order = torch.arange(-(-most // size) * size, device=device).clamp(max=most)
        self._batches = order.view(-1, size)
        needed = [
            molecules.needed(part) for part in np.split(np.arange(most), range(size, most, size))
        ]
        self._output = torch.zeros(most + 1, dtype=torch.float64, device=device)
        self._forces = torch.zeros_like(molecules.pos) if forces else None
        capacity = Capacity(*(max(counts) for counts in zip(*needed)))
        # It knows places, and not this object: that would be a cycle, which keeps the memory of the
        # device until Python looks for cycles.
        places = self._numbers, self._output, self._forces
        self._step = Captured(
            partial(
                _predict, model, layers, self._tables, molecules, capacity, self._knots, *places
            ),
            device,
        )

    def __call__(self) -> tuple[Tensor, Tensor | None]:
        """Predictions ``[M]`` in float64 and forces ``[A, D]``; they stay on the device.

        The next call overwrites them.
        """
        for table, present in zip(self._tables, self._filters()):
            table.copy_(present)
        for numbers in self._batches:
            self._numbers.copy_(numbers)
            self._step()
        return self._output[:-1], None if self._forces is None else self._forces[:-1]

    @torch.no_grad()
    def _filters(self) -> list[Tensor]:
        return [layer.conv.table(self._knots) for layer in self._layers]


def _predict(
    model: SchNet,
    layers: list[Layer],
    tables: list[Tensor],
    molecules: PackedMolecules,
    capacity: Capacity,
    knots: Knots,
    numbers: Tensor,
    output: Tensor,
    forces: Tensor | None,
) -> None:
    """One batch, all of it on the device; what is of padding goes behind the last of each kind."""
    batch = molecules.batch(numbers, capacity, knots)
    found = predict_packed(model, layers, tables, batch, forces is not None)
    output.index_copy_(0, numbers, found.output[:-1, 0].to(output.dtype))
    if forces is not None and found.forces is not None:
        forces.index_copy_(0, batch.rows, found.forces)
