r"""Settings that weights depend on, kept beside them in the ``state_dict``."""

import json
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class RemembersSettings(nn.Module):
    r"""A module whose ``state_dict`` knows by which settings the weights were trained.

    Shapes alone do not tell a filter of 5 angstrom from one of 10. The settings are stored as JSON
    in a tensor of bytes, which every format for weights can hold.
    """

    #: Settings that files of earlier versions do not state, and what they mean by that.
    implied: ClassVar[dict[str, Any]] = {}

    def settings(self) -> dict[str, Any]:
        """The settings, for JSON."""
        raise NotImplementedError(f"{type(self).__name__} does not state its settings")

    def get_extra_state(self) -> Tensor:
        """The settings as bytes."""
        return torch.tensor(list(json.dumps(self.settings()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compares settings that were loaded with those of the module.

        Raises:
            ValueError: If they differ.
        """
        loaded = self.implied | json.loads(bytes(state.tolist()))
        ours = self.settings()
        different = [
            f"{name} was {loaded.get(name)!r} and is {value!r}"
            for name, value in ours.items()
            if not _same(loaded.get(name), value)
        ]
        if different:
            raise ValueError(
                f"these are weights of another architecture: in {type(self).__name__} "
                f"{', '.join(different)}; build the model with the same settings"
            )


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-5)
    return one == two
