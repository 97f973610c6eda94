"""PyG's own SchNet under ``torch.compile``."""

import torch
from torch import Tensor

from contenders.common import Inputs
from contenders.pyg import PyG


class PyGCompiled(PyG):
    """Energies, and the loss with forces, each compiled as a whole for shapes that change.

    What torch can compile depends on its version: by default it breaks the graph where PyG counts
    the molecules, and refuses derivatives of derivatives.
    """

    def build(self, network: dict) -> None:
        """Compilation is done by the first calls."""
        from torch._dynamo import config as settings

        super().build(network)
        settings.capture_scalar_outputs = True
        if hasattr(settings, "trace_autograd_ops"):
            settings.trace_autograd_ops = True
        # All tasks and both modes of the model are versions of two functions.
        settings.recompile_limit = 64
        self._energies = torch.compile(self._energy_of, dynamic=True)
        self._losses = torch.compile(self._loss_of, dynamic=True)

    def energy(self, inputs: Inputs) -> Tensor:
        """From given edges."""
        return self._energies(inputs)

    def force_step(self, inputs: Inputs, optimizer: torch.optim.Optimizer) -> None:
        """A training step on energies and forces; the first derivatives are compiled too."""
        optimizer.zero_grad()
        pos = inputs.pos.detach().requires_grad_()
        self._losses(self._at(inputs, pos), pos).backward()
        optimizer.step()

    def _energy_of(self, inputs: Inputs) -> Tensor:
        return super().energy(inputs)

    def _loss_of(self, inputs: Inputs, pos: Tensor) -> Tensor:
        energy = self._energy_of(inputs)
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        force_loss = (gradient + inputs.forces).square().sum(dim=1).mean()
        return 0.01 * (energy - inputs.energy).square().mean() + force_loss
