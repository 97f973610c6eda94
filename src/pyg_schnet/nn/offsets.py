r"""Offsets of the targets: atom references, mean and standard deviation, in double precision."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..data.species import NUM_SPECIES


class Offsets(nn.Module):
    r"""Scales and shifts the atom-wise output of the network to the target.

    .. math::
        E_i = \sigma \, h_i + \mu + E^{\mathrm{ref}}_{z_i}

    Total energies are thousands of eV, errors a thousandth: float32 cannot hold both. So these
    buffers stay float64 whatever happens to the model (``.float()``, ``.half()``, ``.to(dtype)``),
    and so does the sum. On devices without float64 they stay on the CPU.

    Args:
        mean: Mean per atom :math:`\mu`, after subtraction of the references; 0 if ``None``.
        std: Standard deviation per atom :math:`\sigma`; 1 if ``None``.
        atomref: References by atomic number, ``[Z]`` or ``[Z, 1]`` with Z up to 101; 0 if
            ``None``.

    Shapes: ``h`` ``[N]`` or ``[N, 1]`` and ``z`` ``[N]`` to ``[N]`` in float64.

    Raises:
        ValueError: If a value is not finite, ``std`` is not positive, or ``atomref`` has another
            shape.
    """

    mean: Tensor
    std: Tensor
    atomref: Tensor

    def __init__(
        self,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("std", torch.ones((), dtype=torch.float64))
        self.register_buffer("atomref", torch.zeros(NUM_SPECIES, dtype=torch.float64))
        self.set(mean, std, atomref)

    def set(
        self,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        """Replaces all three; ``None`` restores the neutral value."""
        mean = torch.as_tensor(0.0 if mean is None else mean, dtype=torch.float64, device="cpu")
        std = torch.as_tensor(1.0 if std is None else std, dtype=torch.float64, device="cpu")
        if mean.numel() != 1 or std.numel() != 1 or not (mean.isfinite() and std.isfinite()):
            raise ValueError(f"'mean' and 'std' must be finite numbers (got {mean} and {std})")
        if std <= 0:
            raise ValueError(f"'std' must be positive (got {std.item()})")
        references = torch.zeros(NUM_SPECIES, dtype=torch.float64, device="cpu")
        if atomref is not None:
            given = torch.as_tensor(atomref).detach().to("cpu", torch.float64)
            if given.dim() not in (1, 2) or given.numel() != given.size(0) > 0:
                raise ValueError(
                    f"'atomref' must have shape [Z] or [Z, 1] (got {list(given.shape)})"
                )
            if given.numel() > NUM_SPECIES or not given.isfinite().all():
                raise ValueError(
                    f"'atomref' must hold at most {NUM_SPECIES} finite values, one by atomic "
                    f"number from 0 (got {given.numel()})"
                )
            references[: given.numel()] = given.flatten()
        self.mean.copy_(mean.reshape(()))
        self.std.copy_(std.reshape(()))
        self.atomref.copy_(references)

    @property
    def is_neutral(self) -> bool:
        """Whether output equals input."""
        return bool(self.mean == 0) and bool(self.std == 1) and not bool(self.atomref.any())

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Applies the offsets to atom-wise outputs."""
        mean = self.mean
        shift = (self.atomref + mean).index_select(0, z.to(mean.device))
        return torch.addcmul(shift, h.reshape(z.shape).to(mean), self.std)  # [N]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Offsets":
        # Follow the model to its device, but never to its dtype.
        device = fn(torch.empty(0, device=self.mean.device)).device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        for name, buffer in self._buffers.items():
            assert buffer is not None
            if buffer.is_meta:
                self._buffers[name] = torch.empty_like(buffer, device=device)
            else:
                self._buffers[name] = buffer.to(device)
        return self
