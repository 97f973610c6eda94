r"""Errors of a model on a data set."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from torch_geometric.data import Data
from tqdm import tqdm

from ..data.packed import PackedMolecules, UnpackableError
from ..loader import MoleculeLoader
from ..nn import SchNet
from .distributed import World
from .labels import Labelled, Molecules, check_units, label_reader
from .loss import force_labels, stress_labels
from .packed_evaluation import PackedPredictor
from .packing import check_packable, pack


@dataclass(frozen=True)
class Evaluation:
    """Predictions and their errors.

    Attributes:
        predicted: Predictions ``[M]``, float64.
        reference: Labels ``[M]``, float64; NaN where missing.
        units: Unit of all of these, if the model knows it.
        forces: The same of the components of all forces, where they were asked for.
        stress: The same of the components of all stress tensors, where they were asked for.
    """

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
        """Checks predictions.

        Raises:
            ValueError: If a prediction is not finite, a label infinite, or no label is known: of
                the forces or the stress, or of the energy where it has neither beside it.
        """
        for what, values, wrong in (
            ("prediction", predicted, ~predicted.isfinite()),
            ("label", reference, reference.isinf()),
        ):
            if wrong.any():
                first = int(wrong.nonzero()[0])
                raise ValueError(f"{what} {first} is {values[first].item()}")
        evaluation = cls(predicted, reference, units, forces, stress)
        if forces is None and stress is None:
            evaluation._check_known()
        return evaluation

    @property
    def known(self) -> bool:
        """Whether any label is known: without energies there are errors of the forces alone."""
        return not bool(self.reference.isnan().all())

    @property
    def errors(self) -> Tensor:
        """Predictions minus labels, of those that are known."""
        return (self.predicted - self.reference)[~self.reference.isnan()]

    @property
    def mae(self) -> float:
        """Mean absolute error, over molecules with a label.

        Raises:
            ValueError: If there are none.
        """
        self._check_known()
        return self.errors.abs().mean().item()

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, over molecules with a label.

        Raises:
            ValueError: If there are none.
        """
        self._check_known()
        return self.errors.square().mean().sqrt().item()

    def __repr__(self) -> str:
        parts = [f"mae={self.mae:.6g}", f"rmse={self.rmse:.6g}"] if self.known else ["no labels"]
        values = (("units", self.units), ("forces", self.forces), ("stress", self.stress))
        parts += [f"{name}={value!r}" for name, value in values if value is not None]
        return f"Evaluation({', '.join(parts)})"

    def _check_known(self) -> None:
        if not self.known:
            raise ValueError("no molecule has a label: there is no error to compute")


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
    progress: bool = False,
    packed: bool | None = None,
) -> Evaluation:
    """Evaluates a model on every molecule of a data set.

    Species that the model was not trained on are a warning here, not an error: what they do to the
    error is in the result.

    Data without energies will do for forces and stress: ``result.known`` is False then, and
    ``result.forces`` and ``result.stress`` have the errors. A model that was trained on such data
    knows energies up to a constant only, so that errors of its energies mean nothing.

    Args:
        model: Model; its device is used, its mode (train or eval) restored.
        dataset: Molecules with labels.
        label: What to compare with, see :class:`TrainConfig`.
        batch_size: Molecules per step.
        forces: Whether to compare the forces with ``force`` ``[N, 3]`` too.
        stress: Whether to compare the stress of crystals with ``stress`` ``[B, 3, 3]`` too.
        world: Processes that share out the batches, and all get the same result, that of a single
            process.
        progress: Whether to show a progress bar on standard error, where that is a terminal.
        packed: Whether to put all molecules on the device of the model first, with their edges, and
            wait for it only once, so that there is no progress to show; see :func:`fit`. By default
            on a GPU, wherever possible.

    Raises:
        ValueError: If the data set is empty, without labels, or in other units than the model, or
            cannot be ``packed`` as it must, or forces are asked for and the model has none.
    """
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size})")
    if (forces or stress) and model.target != "energy":
        raise ValueError(f"forces and stress are of an energy; the model predicts '{model.target}'")
    read = label_reader(dataset, label, energy_optional=forces or stress)
    check_units(model, dataset, label)
    world = World() if world is None else world
    if packed or (packed is None and model.device.type == "cuda"):
        try:
            if stress or world.size > 1:
                raise UnpackableError("stress is asked for, or several processes share the work")
            predict, molecules, z = packed_predictor(model, dataset, label, batch_size, forces)
            found = evaluation_of(predict, molecules, model)
            warn_of_unknown_species(model, z)
            return found
        except (UnpackableError, torch.OutOfMemoryError) as error:
            if packed:
                raise ValueError(f"packed=True, but {error}: leave 'packed' out") from error
    labels: dict[str, Callable[[Data], Tensor]] = {model.target: read}
    labels |= {"forces": force_labels} if forces else {}
    labels |= {"stress": stress_labels} if stress else {}
    batches = list(BatchSampler(range(len(dataset)), batch_size, drop_last=False))
    mine = batches[world.rank :: world.size]
    shown = progress and world.is_main and sys.stderr is not None and sys.stderr.isatty()
    results: list[dict[str, tuple[Tensor, Tensor]]] = []
    training, refuse = model.training, model.refuse_unknown_species
    model.eval()
    model.refuse_unknown_species = False
    total = sum(map(len, mine))
    bar = tqdm(total=total, desc="evaluate", unit="molecule", disable=not shown)
    try:
        for batch in MoleculeLoader(dataset, batch_sampler=mine):
            warn_of_unknown_species(model, batch.z)
            result = model.predict(batch, forces, stress=stress)
            results.append(
                {name: (_flat(result[name]), _flat(of(batch))) for name, of in labels.items()}
            )
            bar.update(batch.num_graphs)
    finally:
        bar.close()
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


def packed_predictor(
    model: SchNet, dataset: Molecules, label: str | int, batch_size: int, forces: bool
) -> tuple[PackedPredictor, PackedMolecules, Tensor]:
    """A predictor for a data set, its molecules packed, and their atomic numbers ``[A]``.

    Raises:
        UnpackableError: If they cannot be packed.
    """
    check_packable(model, dataset)  # before anything is read
    data = Labelled.read(dataset, label, required=False)
    molecules = pack(model, dataset, data, forces)
    return PackedPredictor(model, molecules, batch_size, forces), molecules, data.z


def evaluation_of(
    predict: PackedPredictor, molecules: PackedMolecules, model: SchNet
) -> Evaluation:
    """Predictions for packed molecules beside their labels."""
    predicted, forces = predict()
    errors = None
    if forces is not None and molecules.force is not None:
        units = None if model.units is None else model.units + "/Ang"
        errors = Evaluation.of(_flat(forces), _flat(molecules.force[:-1]), units)
    reference = molecules.energy[:-1]
    return Evaluation.of(_flat(predicted), _flat(reference), model.units, errors)


def _flat(values: Tensor) -> Tensor:
    return values.flatten().double().cpu()


def warn_of_unknown_species(model: SchNet, z: Tensor) -> None:
    """Warns the caller of the caller of atoms that a model was not trained on."""
    z = z[(z > 0) & (z < model.species.numel())].long().to(model.species.device)
    unknown = z[~model.species[z]].unique().tolist()
    if unknown:
        warnings.warn(
            f"the data have atomic numbers that the model was not trained on: {unknown}",
            stacklevel=4,  # no_grad has a frame of its own
        )
