r"""Errors of a model on a data set."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from torch_geometric.data import Batch, Data

from ..loader import MoleculeLoader
from ..nn import SchNet
from .distributed import World
from .labels import Molecules, check_units, label_reader
from .loss import force_labels, stress_labels


@dataclass(frozen=True)
class Evaluation:
    """Predictions and their errors.

    Attributes:
        mae: Mean absolute error, over molecules with a label.
        rmse: Root of the mean squared error.
        predicted: Predictions ``[M]``, float64.
        reference: Labels ``[M]``, float64; NaN where missing.
        units: Unit of all of these, if the model knows it.
        forces: The same of the components of all forces, where they were asked for.
        stress: The same of the components of all stress tensors, where they were asked for.
    """

    mae: float
    rmse: float
    predicted: Tensor
    reference: Tensor
    units: str | None = None
    forces: "Evaluation | None" = None
    stress: "Evaluation | None" = None

    @classmethod
    def of(
        cls,
        predicted: Tensor,
        reference: Tensor,
        units: str | None = None,
        forces: "Evaluation | None" = None,
        stress: "Evaluation | None" = None,
    ) -> "Evaluation":
        """Computes the errors of predictions.

        Raises:
            ValueError: If no label is known or a prediction is not finite.
        """
        if not predicted.isfinite().all():
            first = int((~predicted.isfinite()).nonzero()[0])
            raise ValueError(f"prediction {first} is {predicted[first].item()}")
        error = (predicted - reference)[~reference.isnan()]
        if error.numel() == 0:
            raise ValueError("no molecule has a label: there is no error to compute")
        return cls(
            error.abs().mean().item(),
            error.square().mean().sqrt().item(),
            predicted,
            reference,
            units,
            forces,
            stress,
        )

    @property
    def errors(self) -> Tensor:
        """Predictions minus labels, of those that are known."""
        return (self.predicted - self.reference)[~self.reference.isnan()]


@torch.no_grad()
def evaluate(
    model: SchNet,
    dataset: Molecules,
    label: str | int = "energy",
    batch_size: int = 128,
    *,
    forces: bool = False,
    stress: bool = False,
    world: World | None = None,
) -> Evaluation:
    """Evaluates a model on every molecule of a data set.

    Species that the model was not trained on are a warning here, not an error: what they do to the
    error is in the result.

    Args:
        model: Model; its device is used, its mode (train or eval) restored.
        dataset: Molecules with labels.
        label: What to compare with, see :class:`TrainConfig`.
        batch_size: Molecules per step.
        forces: Whether to compare the forces with ``force`` ``[N, 3]`` too.
        stress: Whether to compare the stress of crystals with ``stress`` ``[B, 3, 3]`` too.
        world: Processes that share out the batches, and all get the same result, that of a single
            process.

    Raises:
        ValueError: If the data set is empty, without labels, or in other units than the model.
    """
    read = label_reader(dataset, label)
    check_units(model, dataset, label)
    labels: dict[str, Callable[[Data], Tensor]] = {model.target: read}
    labels |= {"forces": force_labels} if forces else {}
    labels |= {"stress": stress_labels} if stress else {}
    world = World() if world is None else world
    batches = list(BatchSampler(range(len(dataset)), batch_size, drop_last=False))
    results: list[dict[str, tuple[Tensor, Tensor]]] = []
    training, refuse = model.training, model.refuse_unknown_species
    model.eval()
    model.refuse_unknown_species = False
    try:
        for batch in MoleculeLoader(dataset, batch_sampler=batches[world.rank :: world.size]):
            _warn_of_unknown_species(model, batch)
            result = model.predict(batch, forces, stress=stress)
            results.append(
                {name: (_flat(result[name]), _flat(of(batch))) for name, of in labels.items()}
            )
    finally:
        model.train(training)
        model.refuse_unknown_species = refuse
    in_turn = zip_longest(*world.gather(results))
    results = [result for round in in_turn for result in round if result is not None]
    whole = {
        name: [torch.cat(side) for side in zip(*(result[name] for result in results))]
        for name in labels
    }
    parts = {}
    for name, per in (("forces", "/Ang"), ("stress", "/Ang^3")):
        if name in labels:
            units = None if model.units is None else model.units + per
            parts[name] = Evaluation.of(whole[name][0], whole[name][1], units)
    predicted, reference = whole[model.target]
    return Evaluation.of(predicted, reference, model.units, **parts)


def _flat(values: Tensor) -> Tensor:
    return values.flatten().double().cpu()


def _warn_of_unknown_species(model: SchNet, batch: Batch) -> None:
    z = batch.z[(batch.z > 0) & (batch.z < model.species.numel())].to(model.species.device)
    unknown = z[~model.species[z]].unique().tolist()
    if unknown:
        warnings.warn(
            f"the data have atomic numbers that the model was not trained on: {unknown}",
            stacklevel=3,
        )
