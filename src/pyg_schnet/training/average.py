r"""The moving average of the weights."""

import torch
from torch.optim.swa_utils import AveragedModel

from ..nn import SchNet


class MovingAverage(AveragedModel):
    """The exponential moving average of the weights of a model, as a model.

    It has the state of its base class, which looks for all parameters anew in every update: a
    twentieth of a training step.

    Args:
        model: Model that is trained.
        decay: Weight of the average in the next. It grows to this, as the first weights are random.
    """

    def __init__(self, model: SchNet, decay: float):
        super().__init__(model)
        self.decay = decay
        self._averaged, self._current = list(self.module.parameters()), list(model.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the present weights."""
        count = int(self.n_averaged)
        weight = 1.0 if count == 0 else 1 - min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(self._averaged, self._current, weight)
        self.n_averaged += 1
