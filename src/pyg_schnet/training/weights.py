r"""The weights of a model in one piece of memory, and their moving average."""

from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.optim.swa_utils import AveragedModel

from ..nn import SchNet

# Parameters begin at multiples of so many numbers: 64 bytes in float32.
_ALIGNED = 16


class FlatWeights:
    r"""The parameters of a model that are trained, laid end to end.

    What goes over all parameters, first of all the optimiser, is one operation on a long tensor in
    place of one on each of dozens, which would take a tenth of a training step. The parameters of
    the model become views of the long tensors, and their gradients views of those of these.

    Args:
        model: Model, on its device.
        weight_decay: Decay of matrices; biases and embeddings do not decay.

    Attributes:
        parameters: The parameters of the model that are trained.
        flat: The long tensors: that of matrices, if they decay, and that of all others.

    Raises:
        ValueError: If nothing is trained, or parameters differ in dtype or device.
    """

    def __init__(self, model: SchNet, weight_decay: float):
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter to train: none has 'requires_grad'")
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            listed = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(
                f"parameters of a model must be of one kind (got {listed}): call model.to(...)"
            )
        decaying: list[nn.Parameter] = []
        if weight_decay > 0:
            embedding = set(model.embedding.parameters())
            decaying = [p for p in self.parameters if p.dim() > 1 and p not in embedding]
        chosen = set(decaying)
        others = [p for p in self.parameters if p not in chosen]
        parts = [part for part in ((decaying, weight_decay), (others, 0.0)) if part[0]]
        self.flat = [_flattened(group) for group, _ in parts]
        self._decays, self._weight_decay = [decay for _, decay in parts], weight_decay

    def of(self, copy: SchNet) -> "FlatWeights":
        """Those of a copy of the model, in the same order."""
        return FlatWeights(copy, self._weight_decay)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The long tensors as groups of an optimiser."""
        decays = zip(self.flat, self._decays)
        return [{"params": [flat], "weight_decay": decay} for flat, decay in decays]

    def zero_grad(self) -> None:
        """Sets all gradients to zero."""
        for flat in self.flat:
            flat.grad.zero_()  # type: ignore[union-attr] # it always has one

    @torch.no_grad()
    def set_grad(self, gradients: tuple[torch.Tensor, ...]) -> None:
        """Sets the gradients, one for each of :attr:`parameters`."""
        views: list[Any] = [p.grad for p in self.parameters]
        torch._foreach_copy_(views, gradients)

    def gradient_norm(self) -> torch.Tensor:
        """Euclidean norm of all gradients."""
        norms = [torch.linalg.vector_norm(flat.grad) for flat in self.flat]
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def changed(self) -> None:
        """Notes a change of the long tensors, which nobody can see in the parameters."""
        increment_version(self.parameters)

    @torch.no_grad()
    def release(self) -> None:
        """Gives each parameter memory of its own again, and no gradient.

        What is pickled or saved of a view would be all of the long tensor.
        """
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()
            parameter.grad = None


class MovingAverage(AveragedModel):
    """The exponential moving average of the weights of a model, as a model.

    Args:
        model: Model that is trained.
        weights: Its weights.
        decay: Weight of the average in the next. It grows to this, as the first weights are random.
    """

    def __init__(self, model: SchNet, weights: FlatWeights, decay: float):
        super().__init__(model, device=weights.flat[0].device)  # where it counts, too
        self._weights, self._averaged = weights, weights.of(self.module)  # type: ignore[arg-type]
        self.decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the present weights."""
        count = int(self.n_averaged)
        weight = 1.0 if count == 0 else 1 - min(self.decay, (1 + count) / (10 + count))
        for averaged, current in zip(self._averaged.flat, self._weights.flat):
            averaged.lerp_(current, weight)
        self.changed()
        self.n_averaged += 1

    @torch.no_grad()
    def update_where(self, wanted: torch.Tensor) -> None:
        """The same if ``wanted``, a bool on the device, which nobody on the host looks at.

        To be followed by :meth:`changed`, also where it is repeated as part of a CUDA graph.
        """
        count = self.n_averaged.double()
        decay = ((1 + count) / (10 + count)).clamp(max=self.decay)
        weight = torch.where(count == 0, 1.0, 1 - decay) * wanted
        for averaged, current in zip(self._averaged.flat, self._weights.flat):
            averaged.lerp_(current, weight.to(averaged.dtype))
        self.n_averaged.add_(wanted)

    def changed(self) -> None:
        """Notes a change of the average, as :meth:`FlatWeights.changed` does."""
        self._averaged.changed()


@torch.no_grad()
def _flattened(parameters: list[nn.Parameter]) -> nn.Parameter:
    """A tensor that these become views of, with zero gradients, of which theirs do."""
    sizes = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in parameters]
    flat = nn.Parameter(parameters[0].new_zeros(sum(sizes)))
    flat.grad = torch.zeros_like(flat)
    for parameter, end, size in zip(parameters, accumulate(sizes), sizes):
        place = slice(end - size, end - size + parameter.numel())
        view = flat[place].view_as(parameter)
        view.copy_(parameter)
        parameter.data = view
        parameter.grad = flat.grad[place].view_as(parameter)
    return flat
