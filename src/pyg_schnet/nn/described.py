r"""What a network says of itself."""

from typing import Any

import torch
from torch import Tensor, nn


class Described(nn.Module):
    r"""A network that knows its settings, and what its target means.

    Attributes:
        config: Everything that rebuilds the architecture: ``SchNet(**model.config)``.
    """

    config: dict[str, Any]

    @property
    def target(self) -> str:
        """What the model predicts."""
        return self.config["target"]

    @property
    def units(self) -> str | None:
        """Unit of the target."""
        return self.config["units"]

    @units.setter
    def units(self, units: str | None) -> None:
        self.config["units"] = units

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        """The first weight: usually, and then quickly found, that of the embedding."""
        weight = self._modules["embedding"]._parameters.get("weight")  # type: ignore[union-attr]
        return next(self.parameters()) if weight is None else weight

    @property
    def cutoff(self) -> float:
        """Range of the filters in angstrom."""
        return self.config["cutoff"]

    @property
    def envelope(self) -> str:
        """Name of the envelope."""
        return self.config["envelope"]
