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
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Data

from ..data.packed import PackedBatch
from ..loader import MoleculeLoader
from ..nn import SchNet, forces_from_energy
from ..nn.packed import evaluate_packed
from ..nn.response import strained, stress_from_energy, volumes_of
from ..nn.system import check_system
from ..nn.unpack import unpack
from .config import TrainConfig
from .labels import LabelReader, Molecules

if TYPE_CHECKING:
    from .evaluation import Evaluation


# Predictions and what they should be.
_Pair: TypeAlias = tuple[Tensor, Tensor]


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
        labels = forces = stress = None
        if config.energy_weight > 0:
            labels = output, self.read(batch).to(output.device)
        if config.with_forces:
            force = force_labels(batch).to(pos)
            forces = forces_from_energy(output, pos, create_graph=True), force
        if strain is not None:
            wanted = stress_labels(batch).to(pos)
            found = stress_from_energy(output, strain, cell, create_graph=True)  # type: ignore[arg-type]
            stress = found, wanted
        return self.sums(sizes, member, labels, forces, stress)

    def of_packed(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """The same of a packed batch, energies and forces, without waiting for its device."""
        pos = batch.pos.requires_grad_(self.config.with_forces)
        output = evaluate_packed(self.model, batch, pos)
        labels = forces = None
        if self.config.energy_weight > 0:
            labels = output, batch.energy
        if self.config.with_forces:
            assert batch.force is not None
            forces = forces_from_energy(output, pos, create_graph=True), batch.force.to(pos)
        return self.sums(batch.sizes, batch.molecule, labels, forces, None)

    def of_evaluation(self, result: "Evaluation", sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The same of predictions that are known, such as those of a whole validation set.

        Args:
            result: Predictions, of what is trained at least.
            sizes: Atoms of each molecule ``[M]``.
        """
        labels = forces = stress = None
        if self.config.energy_weight > 0:
            labels = result.predicted, result.reference
        if result.forces is not None:
            forces = result.forces.predicted.view(-1, 3), result.forces.reference.view(-1, 3)
        if result.stress is not None:
            shape = (-1, 3, 3)
            stress = result.stress.predicted.view(shape), result.stress.reference.view(shape)
        member = torch.arange(len(sizes)).repeat_interleave(sizes)
        return self.sums(sizes, member, labels, forces, stress)

    def sums(
        self,
        sizes: Tensor,
        member: Tensor,
        labels: _Pair | None,
        forces: _Pair | None,
        stress: _Pair | None,
    ) -> tuple[Tensor, Tensor]:
        """Weighted errors of pairs of predictions and labels, ``None`` for what is not trained.

        Args:
            sizes: Atoms of each molecule ``[B]``.
            member: Molecule of each atom ``[N]``.
            labels: Energies, say ``[B]``.
            forces: Forces ``[N, 3]``.
            stress: Stress ``[B, 3, 3]``.
        """
        nothing = sizes.new_zeros((), dtype=torch.double), sizes.new_zeros(())
        parts = (
            nothing if labels is None else self._of_labels(*labels, sizes),
            nothing if forces is None else self._of_forces(*forces, member, sizes),
            nothing if stress is None else self._of_stress(*stress),
        )
        sums, counts = zip(*parts)
        return torch.stack(sums), torch.stack(counts)

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
        complete = torch.zeros_like(sizes).index_add(0, member, known.to(sizes)) == sizes
        # A molecule counts if all of its forces are known; without atoms it does not.
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
            f"the data must have '{name}' of shape {shape} (got {found}; the fields are "
            f"{sorted(batch.keys())}): add it, or train and evaluate without it"
        )
    return label


def derivative_scale(dataset: Molecules, labels: Callable[[Data], Tensor], what: str) -> float:
    """Root mean square of the components of all forces, say, of a data set; 1 if they vanish.

    Args:
        dataset: Molecules with them.
        labels: :func:`force_labels` or :func:`stress_labels`.
        what: What to call them in errors.

    Raises:
        ValueError: If one is infinite, absent or of another shape, or all are missing (NaN).
    """
    total, count, first = 0.0, 0, 0
    try:
        for batch in MoleculeLoader(dataset, 1024):
            values = labels(batch).double()
            if values.isinf().any():
                row = int(values.flatten(1).isinf().any(dim=1).nonzero()[0])
                number = first + (row if len(values) == batch.num_graphs else int(batch.batch[row]))
                raise ValueError(f"molecule {number} has an infinite {what}")
            known = ~values.isnan()
            total += float(values[known].square().sum())
            count += int(known.sum())
            first += batch.num_graphs
    except KeyError as error:  # from PyG, which puts the molecules together
        raise ValueError(
            f"there is not a {what} for all molecules: some have no {error}; add it, as NaN where "
            "it is unknown"
        ) from error
    if count == 0:
        raise ValueError(f"there is no {what}: all are missing (NaN)")
    return (total / count) ** 0.5 or 1.0
