r"""What training makes small.

.. math::
    \ell = \frac{1}{B} \sum_{m=1}^{B} \left( w_E\, \phi(E_m - \hat E_m)
    + \frac{w_F}{n_m} \sum_{i=1}^{n_m} \sum_{c=1}^{3} \phi(F_{mic} - \hat F_{mic}) \right)

for B molecules of :math:`n_m` atoms. With :math:`\phi(x) = x^2`, :math:`w_E = \rho = 0.01` and
:math:`w_F = 1` it is the loss of the paper: components of a force are summed, atoms averaged.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.data import Data

from ..loader import MoleculeLoader
from ..nn import SchNet, forces_from_energy
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


def loss(model: SchNet, batch: Data, read: LabelReader, config: TrainConfig) -> tuple[Tensor, int]:
    """The loss of a batch, over its molecules with labels, and their number.

    Args:
        model: Model in training.
        batch: Molecules, with ``force`` ``[N, 3]`` if forces are trained.
        read: Reads the label of the energy or another target.
        config: Weights of the parts.

    Raises:
        ValueError: If forces are to be trained and ``batch`` has none.
    """
    phi, system = penalty(config), unpack(model, batch)
    with_forces = config.force_weight > 0
    pos, member = system.pos, system.batch
    if with_forces:
        pos = pos.detach().clone().requires_grad_()
    if member is None:
        member = torch.zeros_like(system.z)
    predicted = model(**system._replace(pos=pos)._asdict()).squeeze(-1)  # [B]
    label = read(batch).to(predicted.device)
    sizes = torch.bincount(member, minlength=len(predicted)).clamp(min=1)  # [B]
    total, count = predicted.new_zeros(()), 0
    if config.energy_weight > 0:
        known = ~label.isnan()
        # Missing labels must not reach the difference: the gradient of 0 * NaN is NaN.
        error = torch.where(known, predicted - label.nan_to_num(), 0.0)
        if config.per_atom:
            error = error / sizes
        count = int(known.sum())
        total = config.energy_weight * phi(error).sum() / max(count, 1)
    if with_forces:
        force = force_labels(batch).to(pos)
        forces = forces_from_energy(predicted, pos, create_graph=True)
        known = ~force.isnan().any(dim=1)  # [N]
        error = torch.where(known.unsqueeze(1), forces - force.nan_to_num(), 0.0)
        by_atom = phi(error).sum(dim=1) / sizes[member]  # [N]
        unknown = torch.bincount(member[~known], minlength=len(predicted))
        complete = unknown == 0  # a molecule counts if all of its forces are known
        by_atom = by_atom * complete[member]
        molecules = int(complete.sum())
        total = total + config.force_weight * by_atom.double().sum() / max(molecules, 1)
        count = max(count, molecules)
    return total, count


def force_labels(batch: Data) -> Tensor:
    """The forces ``[N, 3]`` of a molecule or batch.

    Raises:
        ValueError: If there are none, or of another shape.
    """
    force = batch.get("force")
    if not isinstance(force, Tensor) or force.shape != batch.pos.shape:
        found = f"shape {list(force.shape)}" if isinstance(force, Tensor) else type(force).__name__
        raise ValueError(
            f"training on forces needs 'force' {list(batch.pos.shape)} in the data (got {found}; "
            f"the fields are {sorted(batch.keys())}): set 'force_weight' to 0, or add them"
        )
    return force


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
