r"""What the baselines have of SchNet: everything but the network.

A baseline learns through the same loop, from the same labels, with the same atom references, and is
tested, saved and resumed by the same code. Rows of a table then differ by the network alone.
"""

from typing import Any, ClassVar

from torch import Tensor

from pyg_schnet import SchNet
from pyg_schnet.nn import checks, edges
from pyg_schnet.nn.system import System, check_system

# All pairs of a molecule are edges, as in the papers; nothing of SchNet's own network is made.
_SETTINGS: dict[str, Any] = {
    "num_interactions": 0,
    "cutoff": 30.0,
    "envelope": "none",
    "dipole": False,
}


class Baseline(SchNet):
    r"""SchNet's inputs, checks, edges, offsets and outputs around another network.

    Subclasses refine the embeddings in :meth:`refine`.

    Args:
        own: Settings of the network; part of ``config``, which rebuilds it.
        **settings: Arguments of :class:`~pyg_schnet.SchNet` that have a meaning here:
            ``hidden_channels``, ``readout``, ``target``, ``units``, ``mean``, ``std``, ``atomref``.

    Raises:
        ValueError: If others are given that would have no effect.
    """

    #: Settings that the representation shows.
    shown: ClassVar[tuple[str, ...]] = ()

    def __init__(self, own: dict[str, Any], **settings: Any):
        for name, value in _SETTINGS.items():
            if settings.get(name, value) != value:
                raise ValueError(
                    f"{type(self).__name__} has '{name}' of {value!r} (got {settings[name]!r}): "
                    "leave it out"
                )
        super().__init__(**(settings | _SETTINGS))
        self.config |= own

    def refine(
        self, x: Tensor, edge_index: Tensor, distance: Tensor, batch: Tensor, batch_size: int
    ) -> Tensor:
        """Features ``[N, F]`` from embeddings ``[N, F]``, edges ``[2, E]`` and lengths ``[E]``."""
        raise NotImplementedError(f"{type(self).__name__} has no network")

    def _evaluate(self, system: System) -> tuple[Tensor, Tensor, Tensor]:
        checked = check_system(self, system)
        z, pos, batch, batch_size, *_ = checked
        edge_index, distance = edges.measured(self, checked)
        if not bool((distance > 0).all()):
            checks.check_distances(edge_index, distance)
        x = self.embedding(z)  # [N, F]
        x = self.refine(x, edge_index, distance.to(x.dtype), batch, batch_size)
        output, contributions = self.readout(x, z, pos, batch, batch_size)
        return output, contributions, x

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={self.config[name]:g}" for name in self.shown)
        return f"{type(self).__name__}({settings})"
