r"""A readout for the electronic spatial extent of molecules, the target r2 of QM9."""

from typing import Any

from torch import Tensor
from torch_geometric.utils import scatter

from pyg_schnet import SchNet
from pyg_schnet.data.units import BOHR
from pyg_schnet.nn import DipoleReadout


class SpatialExtentReadout(DipoleReadout):
    r"""Electronic spatial extent from learned numbers of electrons.

    .. math::
        \langle R^2 \rangle = \sum_i q_i |\mathbf{r}_i - \mathbf{r}_0|^2, \qquad q_i = Z_i + h_i

    with the centre of mass :math:`\mathbf{r}_0`, as in `"SchNet: A deep learning architecture for
    molecules and materials" <https://doi.org/10.1063/1.5019779>`_ (Schütt et al., J. Chem. Phys.
    148, 241722, 2018). That :math:`q_i` begins near the nuclear charge is ours: the electrons of an
    atom are where it is, so this alone is most of the target, as atom references are of an energy.

    Args:
        hidden_channels: Size F of the atom features.

    Shapes: features ``[N, F]`` to the extent ``[B, 1]`` in Bohr^2 and numbers of electrons ``[N]``,
    float64; positions in angstrom.
    """

    def forward(
        self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Reads the extent and the numbers of electrons."""
        learned = self.lin2(self.act(self.lin1(x))).double().squeeze(-1)  # [N]
        electrons = (learned + z) * (z > 0)
        mass = self.atomic_mass.double()[z].unsqueeze(-1)  # [N, 1]
        pos = pos.double() / BOHR
        total = scatter(mass, batch, dim_size=batch_size).clamp(min=1e-12)
        center = scatter(mass * pos, batch, dim_size=batch_size) / total  # [B, 3]
        squared = (pos - center[batch]).square().sum(dim=-1)  # [N]
        extent = scatter(electrons * squared, batch, dim_size=batch_size)
        return extent.unsqueeze(-1), electrons


class SpatialExtentSchNet(SchNet):
    r"""SchNet with this readout.

    Args:
        **settings: Arguments of :class:`~pyg_schnet.SchNet`; ``target`` cannot be an energy.
    """

    def __init__(self, **settings: Any):
        super().__init__(**({"target": "r2"} | settings))
        self.readout = SpatialExtentReadout(self.config["hidden_channels"])
