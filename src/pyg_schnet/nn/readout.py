r"""Readouts: from atom features to properties of molecules."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from ..data.species import NUM_SPECIES
from .dense import Dense
from .offsets import Offsets
from .radial import ShiftedSoftplus
from .settings import RemembersSettings

ACTIVATIONS = {"ssp": ShiftedSoftplus, "silu": nn.SiLU}


class AtomwiseReadout(RemembersSettings):
    r"""Sum (extensive) or mean (intensive properties) of atom-wise contributions.

    .. math::
        E = \sum_i E_i, \qquad
        E_i = \sigma \left( \mathbf{a}^\top \phi(A \mathbf{x}_i + \mathbf{b}) + b \right)
        + \mu + E^{\mathrm{ref}}_{z_i}

    with the shifted softplus as activation :math:`\phi`, or another.

    Padding atoms (z = 0) contribute nothing, to a mean neither.

    Args:
        hidden_channels: Size F of the atom features.
        reduce: ``"add"`` or ``"mean"``.
        mean: See :class:`Offsets`, as ``std`` and ``atomref``.
        std: Standard deviation per atom.
        atomref: References by atomic number.
        activation: ``"ssp"``, the shifted softplus, or ``"silu"``.

    Shapes: features ``[N, F]`` to the property ``[B, 1]`` and its contributions ``[N]``, float64.
    """

    def __init__(
        self,
        hidden_channels: int,
        reduce: str = "add",
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
        activation: str = "ssp",
    ):
        super().__init__()
        if reduce not in ("add", "sum", "mean"):
            raise ValueError(f"'readout' must be 'add' or 'mean' (got '{reduce}')")
        self.reduce = "mean" if reduce == "mean" else "sum"
        self.activation = activation
        self.lin1 = Dense(hidden_channels, hidden_channels // 2)
        self.act = _activation(activation)
        self.lin2 = Dense(hidden_channels // 2, 1)
        self.offsets = Offsets(mean, std, atomref)

    implied: ClassVar[dict[str, Any]] = {"activation": "ssp"}

    def settings(self) -> dict[str, str]:
        """What the meaning of the weights depends on, beside their shapes."""
        return {"readout": self.reduce, "activation": self.activation}

    def reset_parameters(self) -> None:
        """Draws new weights; the offsets stay."""
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(
        self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Reads the property and its atom-wise contributions from the features."""
        return self.pool(self.lin2(self.act(self.lin1(x))), z, batch, batch_size)

    def pool(self, h: Tensor, z: Tensor, batch: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """Applies the offsets to outputs of the network ``[N, 1]`` and sums or averages them."""
        if h.size(-1) != 1:
            raise ValueError(
                f"the readout has one output per atom (got {list(h.shape)} of its last layer): for "
                "several, put a head of your own on model.features(data)"
            )
        contributions = self.offsets(h, z)
        real = (z > 0).to(contributions.device)
        contributions = contributions * real
        batch = batch.to(contributions.device)
        total = contributions.new_zeros(batch_size).index_add(0, batch, contributions)  # [B]
        if self.reduce == "mean":
            total = total / _count(real.to(total), batch, batch_size)
        return total.unsqueeze(-1), contributions

    def pool_gradient(self, z: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Derivative of the property by the output of each atom, ``[N]``; see :meth:`pool`."""
        gradient = (z > 0).to(self.offsets.std) * self.offsets.std
        if self.reduce == "mean":
            batch = batch.to(gradient.device)
            gradient = gradient / _count((z > 0).to(gradient), batch, batch_size)[batch]
        return gradient.to(z.device)


class DipoleReadout(nn.Module):
    r"""Magnitude of the dipole moment, from learned partial charges.

    .. math::
        \mu = \left| \sum_i q_i (\mathbf{r}_i - \mathbf{r}_0) \right|

    with the centre of mass :math:`\mathbf{r}_0`. As in PyG the charges need not sum to zero,
    which is why the origin matters.

    Args:
        hidden_channels: Size F of the atom features.
        activation: ``"ssp"``, the shifted softplus, or ``"silu"``.

    Shapes: features ``[N, F]`` to the dipole moment ``[B, 1]`` and charges ``[N]``, float64.
    """

    atomic_mass: Tensor

    def __init__(self, hidden_channels: int, activation: str = "ssp"):
        super().__init__()
        self.lin1 = Dense(hidden_channels, hidden_channels // 2)
        self.act = _activation(activation)
        self.lin2 = Dense(hidden_channels // 2, 1)
        self.register_buffer("atomic_mass", _atomic_masses())

    def reset_parameters(self) -> None:
        """Draws new weights."""
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(
        self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Reads the dipole moment and the partial charges from the features."""
        charge = self.lin2(self.act(self.lin1(x))).double() * (z > 0).unsqueeze(-1)  # [N, 1]
        mass = self.atomic_mass.double()[z].unsqueeze(-1)  # [N, 1]
        pos = pos.double()
        total_mass = scatter(mass, batch, dim_size=batch_size).clamp(min=1e-12)
        center = scatter(mass * pos, batch, dim_size=batch_size) / total_mass  # [B, 3]
        dipole = scatter(charge * (pos - center[batch]), batch, dim_size=batch_size)  # [B, 3]
        squared = dipole.square().sum(dim=-1, keepdim=True)
        nonzero = squared > 0  # the root has no derivative at zero
        return torch.where(nonzero, squared, 1.0).sqrt() * nonzero, charge.squeeze(-1)


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"'head_activation' must be one of {tuple(ACTIVATIONS)} (got '{name}')")
    return ACTIVATIONS[name]()


def _count(real: Tensor, batch: Tensor, batch_size: int) -> Tensor:
    return scatter(real, batch, dim_size=batch_size, reduce="sum").clamp(min=1)


def _atomic_masses() -> Tensor:
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()
    masses = [0.0] + [table.GetAtomicWeight(z) for z in range(1, NUM_SPECIES)]
    return torch.tensor(masses, dtype=torch.float64)
