"""What all contenders share; imports nothing but torch and numpy, for any environment."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Inputs:
    """A system as tensors.

    Attributes:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, 3]``.
        batch: Molecule of each atom ``[N]``.
        edge_index: Edges ``[2, E]``, sorted by target.
        energy: Labels ``[B]``.
        forces: Labels ``[N, 3]``.
        size: Number B of molecules.
        cell: Lattice vectors in rows ``[B, 3, 3]``, if the system is periodic; the next two go
            with it.
        edge_shift: Lattice vectors by which each source is displaced, ``[E, 3]``.
        offsets: The same in angstrom, ``[E, 3]``.
        data: The same as a PyG object, for those who want one.
    """

    z: Tensor
    pos: Tensor
    batch: Tensor
    edge_index: Tensor
    energy: Tensor
    forces: Tensor
    size: int
    cell: Tensor | None = None
    edge_shift: Tensor | None = None
    offsets: Tensor | None = None
    data: Any = None

    @classmethod
    def read(cls, path: str) -> "Inputs":
        """Reads what ``systems.write_system`` wrote."""
        with np.load(path) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
        return cls(**tensors, size=len(tensors["energy"]))

    def to(self, device: str) -> "Inputs":
        """The same on another device."""
        fields = {
            name: value.to(device) if hasattr(value, "to") else value
            for name, value in vars(self).items()
        }
        return Inputs(**fields)

    def vectors(self, pos: Tensor) -> Tensor:
        """From target to source of each edge, ``[E, 3]``."""
        j, i = self.edge_index
        vectors = pos[j] - pos[i]
        return vectors if self.offsets is None else vectors + self.offsets


class Contender:
    """An implementation of SchNet, with the four tasks that are timed."""

    model: torch.nn.Module

    def build(self, network: dict) -> None:
        """Makes ``self.model``."""
        raise NotImplementedError(f"{type(self).__name__}.build")

    def energy(self, inputs: Inputs) -> Tensor:
        """Energies ``[B]``, differentiable."""
        raise NotImplementedError(f"{type(self).__name__}.energy")

    def prepare_inference(self) -> None:
        """Called once before inference is timed."""
        self.model.eval()

    def prepare_training(self) -> None:
        """Called once before training is timed."""
        self.model.train()

    def forward(self, inputs: Inputs) -> None:
        """Energies without gradients."""
        with torch.no_grad():
            self.energy(inputs)

    def predict(self, inputs: Inputs) -> None:
        """Energies and forces."""
        pos = inputs.pos.detach().requires_grad_()
        energy = self.energy(self._at(inputs, pos))
        torch.autograd.grad(energy.sum(), pos)

    def energy_step(self, inputs: Inputs, optimizer: torch.optim.Optimizer) -> None:
        """A training step on energies."""
        optimizer.zero_grad()
        (self.energy(inputs) - inputs.energy).square().mean().backward()
        optimizer.step()

    def force_step(self, inputs: Inputs, optimizer: torch.optim.Optimizer) -> None:
        """A training step on energies and forces."""
        optimizer.zero_grad()
        pos = inputs.pos.detach().requires_grad_()
        energy = self.energy(self._at(inputs, pos))
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        force_loss = (gradient + inputs.forces).square().sum(dim=1).mean()
        (0.01 * (energy - inputs.energy).square().mean() + force_loss).backward()
        optimizer.step()

    @staticmethod
    def _at(inputs: Inputs, pos: Tensor) -> Inputs:
        return Inputs(**(vars(inputs) | {"pos": pos}))
