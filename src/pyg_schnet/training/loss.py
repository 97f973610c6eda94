r"""What training makes small.

.. math::
    \ell = \frac{1}{B} \sum_{m=1}^{B} \left( w_E\, \phi(E_m - \hat E_m)
    + \frac{w_F}{n_m} \sum_{i=1}^{n_m} \sum_{c=1}^{3} \phi(F_{mic} - \hat F_{mic})
    + w_\sigma \sum_{a,b=1}^{3} \phi(\sigma_{mab} - \hat \sigma_{mab}) \right)

for B molecules of :math:`n_m` atoms. With :math:`\phi(x) = x^2`, :math:`w_E = \rho = 0.01` and
:math:`w_F = 1` it is the loss of the paper: components of a force are summed, atoms averaged. Each
of the three sums runs over the molecules that have that label, and is divided by their number.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Data

from ..loader import MoleculeLoader
from ..nn import SchNet, forces_from_energy
from ..nn.response import strained, stress_from_energy, volumes_of
from ..nn.system import check_system
from ..nn.unpack import unpack
from .config import TrainConfig
from .labels import LabelReader, Molecules


def penalty(config: TrainConfig) -> Callable[[Tensor], Tensor]:
    r"""The function :math:`\phi` of each error: its square, magnitude, or Huber's of both."""
    if config.loss == "mse":
        return torch.square
    if config.loss == "l1":
        return torch.abs
    delta = config.huber_delta
    return lambda error: functional.huber_loss(
        error, torch.zeros_like(error), reduction="none", delta=delta
    )


class Objective(nn.Module):
    """The loss as a module around the model, in parts that can be summed over batches.

    Args:
        model: Model to train.
        read: Reads the label of the energy or another target.
        config: Weights of the parts.
    """

    def __init__(self, model: SchNet, read: LabelReader, config: TrainConfig):
        super().__init__()
        self.model, self.read, self.config = model, read, config
        self._phi = penalty(config)

    def forward(self, batch: Data) -> tuple[Tensor, Tensor]:
        """Weighted errors of a batch of molecules.

        Args:
            batch: Molecules, with ``force`` ``[N, 3]`` and ``stress`` ``[B, 3, 3]`` if these are
                trained.

        Returns:
            The sums of energies, forces and stress over molecules with labels, ``[3]`` in float64,
            and the numbers of these molecules, ``[3]``; zero for parts that are not trained.

        Raises:
            ValueError: If forces or stress are to be trained and ``batch`` has none.
        """
        config, system = self.config, unpack(self.model, batch)
        pos, strain, cell = system.pos, None, system.cell
        if config.with_forces:
            pos = pos.detach().clone().requires_grad_()
            system = system._replace(pos=pos)
        if config.with_stress:
            cell = check_system(self.model, system).cell
            volumes_of(cell)  # complains of molecules
            moved, cell, strain = strained(pos, cell, system.batch)  # type: ignore[arg-type]
            system = system._replace(pos=moved, cell=cell)
        output = self.model(**system._asdict()).squeeze(-1)  # [B]
        member = system.batch
        if member is None:
            member = torch.zeros_like(system.z)
        sizes = torch.bincount(member, minlength=len(output)).clamp(min=1)  # [B]
        nothing = output.new_zeros(()), torch.zeros((), dtype=torch.long, device=output.device)
        parts = [nothing, nothing, nothing]
        if config.energy_weight > 0:
            parts[0] = self._of_labels(output, self.read(batch).to(output.device), sizes)
        if config.with_forces:
            force = force_labels(batch).to(pos)
            found = forces_from_energy(output, pos, create_graph=True)
            parts[1] = self._of_forces(found, force, member, sizes)
        if strain is not None:
            stress = stress_labels(batch).to(pos)
            found = stress_from_energy(output, strain, cell, create_graph=True)  # type: ignore[arg-type]
            parts[2] = self._of_stress(found, stress)
        return torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])

    def _of_labels(self, output: Tensor, label: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        known = ~label.isnan()
        # Missing labels must not reach the difference: the gradient of 0 * NaN is NaN.
        error = torch.where(known, output - label.nan_to_num(), 0.0)
        if self.config.per_atom:
            error = error / sizes
        return self.config.energy_weight * self._phi(error).sum(), known.sum()

    def _of_forces(
        self, found: Tensor, force: Tensor, member: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        known = ~force.isnan().any(dim=1)  # [N]
        error = torch.where(known.unsqueeze(1), found - force.nan_to_num(), 0.0)
        unknown = torch.bincount(member[~known], minlength=len(sizes))
        complete = unknown == 0  # a molecule counts if all of its forces are known
        share = (complete.double() / sizes)[member]  # [N]
        by_atom = self._phi(error).sum(dim=1) * share
        return self.config.force_weight * by_atom.sum(), complete.sum()

    def _of_stress(self, found: Tensor, stress: Tensor) -> tuple[Tensor, Tensor]:
        known = ~stress.isnan().flatten(1).any(dim=1)  # [B]
        error = torch.where(known.view(-1, 1, 1), found - stress.nan_to_num(), 0.0)
        return self.config.stress_weight * self._phi(error).double().sum(), known.sum()


def mean_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """The loss from what :class:`Objective` returns, or from the sum of that over batches.

    Args:
        sums: Weighted errors ``[3]``.
        counts: Molecules in each ``[3]``.
    """
    return (sums / counts.clamp(min=1)).sum()


def force_labels(batch: Data) -> Tensor:
    """The forces ``[N, 3]`` of a molecule or batch.

    Raises:
        ValueError: If there are none, or of another shape.
    """
    return _labels(batch, "force", list(batch.pos.shape))


def stress_labels(batch: Data) -> Tensor:
    """The stress ``[B, 3, 3]`` of a crystal or batch.

    Raises:
        ValueError: If there is none, or of another shape.
    """
    cells = batch.get("cell")
    number = 1 if cells is None else cells.reshape(-1, 3, 3).size(0)
    return _labels(batch, "stress", [number, 3, 3])


def _labels(batch: Data, name: str, shape: list[int]) -> Tensor:
    label = batch.get(name)
    if not isinstance(label, Tensor) or list(label.shape) != shape:
        found = f"shape {list(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise ValueError(
            f"training on '{name}' needs '{name}' {shape} in the data (got {found}; "
            f"the fields are {sorted(batch.keys())}): set '{name}_weight' to 0, or add them"
        )
    return label


def force_scale(dataset: Molecules) -> float:
    """Root mean square of the components of all forces of a data set; 1 if they vanish.

    Raises:
        ValueError: If a force is infinite, or all are missing.
    """
    total, count = 0.0, 0
    for batch in MoleculeLoader(dataset, 1024):
        force = force_labels(batch).double()
        if force.isinf().any():
            raise ValueError("the training set has infinite forces")
        known = ~force.isnan()
        total += float(force[known].square().sum())
        count += int(known.sum())
    if count == 0:
        raise ValueError("the training set has no forces: all are missing (NaN)")
    return (total / count) ** 0.5 or 1.0
