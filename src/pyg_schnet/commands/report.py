r"""Errors of a model, in a table and in JSON, beside those of predictors without a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, InMemoryDataset

from ..data.statistics import atom_references
from ..data.units import convert
from ..loader import MoleculeLoader
from ..nn import SchNet
from ..training import Evaluation, Labelled, evaluate
from ..training.distributed import World
from ..training.loss import force_labels, stress_labels

# Standard deviations of the errors, beyond which their mean is not by chance.
_SHIFTED = 5.0
MODEL, MEAN, LINEAR = "SchNet", "mean predictor", "atom references"


@dataclass(frozen=True)
class Errors:
    """Errors on one set of molecules.

    Attributes:
        label: What was compared with.
        molecules: How many.
        units: Unit of the label, if it is known.
        rows: By predictor and quantity (the label, ``"forces"``, ``"stress"``), ``mae`` and
            ``rmse``. There is no label among these where it is not known, see :func:`errors_on`.
        remark: What is strange about the errors of the model, for people; empty if nothing is.
    """

    label: str
    molecules: int
    units: str | None
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]
    remark: str = ""

    def unit_of(self, quantity: str) -> str | None:
        """Unit of a quantity."""
        per = {"forces": "/Ang", "stress": "/Ang^3"}.get(quantity, "")
        return None if self.units is None else self.units + per

    def table(self) -> str:
        """The errors for people."""
        quantities = list(self.rows[MODEL])
        width = max(map(len, self.rows)) + 2
        heads = [
            f"{name}{f', {unit}' if (unit := self.unit_of(name)) else ''}" for name in quantities
        ]
        lines = [
            " " * width + "".join(f"{head:>26}" for head in heads),
            " " * width + f"{'MAE':>13}{'RMSE':>13}" * len(heads),
        ]
        for predictor, errors in self.rows.items():
            cells = [errors[name][kind] for name in quantities for kind in ("mae", "rmse")]
            lines.append(f"{predictor:<{width}}" + "".join(f"{cell:13.5g}" for cell in cells))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The errors for programs."""
        units = {name: self.unit_of(name) for name in self.rows[MODEL]}
        return {"molecules": self.molecules, "units": units, "errors": self.rows}


def errors_on(
    model: SchNet,
    test: InMemoryDataset,
    label: str | int,
    batch_size: int,
    *,
    train: InMemoryDataset | None = None,
    forces: bool = False,
    stress: bool = False,
    units: str | None = None,
    world: World | None = None,
    progress: bool = False,
) -> Errors:
    """Errors of a model, and of simpler predictors if the training set is known.

    Energies are left out where none is known to compare with, and of a model that was trained on
    none: it knows them up to a constant only.

    Args:
        model: The model.
        test: Molecules with labels in its units.
        label: What to compare with.
        batch_size: Molecules per step.
        train: What it was trained on.
        forces: Whether to compare forces too.
        stress: Whether to compare stress too.
        units: Unit of energy to give the errors in; those of the model if ``None``.
        world: Processes that share out the molecules; only this one if ``None``.
        progress: Whether to show a bar on a terminal.

    Raises:
        ValueError: If there is nothing to compare, or units make no sense.
    """
    result = evaluate(
        *(model, test, label, batch_size),
        forces=forces,
        stress=stress,
        world=world,
        progress=progress,
    )
    predictors, with_label = {MODEL: result}, result.known
    if train is not None:
        known = Labelled.read(train, label, required=False)
        with_label = with_label and known.known
        if not (with_label or forces or stress):
            raise ValueError(
                f"the training set has no '{label}', which the model so knows up to a constant "
                "only: compare forces"
            )
        others = _baselines(model, train, test, label, known, result, with_label)
        predictors = {**others, **predictors}
    factor = 1.0
    if units is not None:
        if model.units is None:
            raise ValueError("the model does not know its unit: there is nothing to convert from")
        factor = convert(1.0, model.units, units)
    rows = {
        name: {
            quantity: {"mae": factor * one.mae, "rmse": factor * one.rmse}
            for quantity, one in (
                (str(label), it if with_label else None),
                ("forces", it.forces),
                ("stress", it.stress),
            )
            if one is not None
        }
        for name, it in predictors.items()
    }
    units = units or model.units
    remark = ""
    if with_label and model.target == "energy":
        remark = _remark_on_shift(factor * result.errors, units)
    return Errors(str(label), len(test), units, rows, remark)


def _remark_on_shift(errors: Tensor, units: str | None) -> str:
    """Says so where all energies are off by nearly the same, which is nothing to be learnt."""
    if len(errors) < 2:
        return ""
    mean, spread = errors.mean().item(), errors.std().item()
    if abs(mean) <= _SHIFTED * spread:
        return ""
    unit = f" {units}" if units else ""
    return (
        f"All energies are off by nearly the same: predictions minus labels are {mean:.5g}{unit} "
        f"on average, with a standard deviation of {spread:.3g}{unit}. The labels may be of "
        "another level of theory than those of the training set, or have other reference energies"
    )


def _baselines(
    model: SchNet,
    train: InMemoryDataset,
    test: InMemoryDataset,
    label: str | int,
    known: Labelled,
    result: Evaluation,
    with_label: bool,
) -> dict[str, Evaluation]:
    """Predictors that know means of the training set only, or sums over kinds of atoms."""
    asked = Labelled.read(test, label, "test", required=False)
    forces = stress = None
    if result.forces is not None:
        mean = _mean(train, force_labels, _atoms_in_common(known, asked))
        forces = _constant(mean, result.forces)
    if result.stress is not None:
        stress = _constant(_mean(train, stress_labels, 3), result.stress)
    mean_label = known.labels.nanmean() if with_label else torch.zeros(())
    means = mean_label.expand_as(result.reference)
    baselines = {MEAN: Evaluation.of(means, result.reference, None, forces, stress)}
    counts = known.counts
    if (
        with_label
        and model.config["readout"] != "mean"
        and model.target != "dipole"
        and (counts != counts[0]).any()
    ):
        sums = asked.counts @ atom_references(counts, known.labels)
        baselines[LINEAR] = Evaluation.of(sums, result.reference, None, forces, stress)
    return baselines


def _atoms_in_common(train: Labelled, test: Labelled) -> int:
    """Atoms of a molecule, if all molecules have the same ones in the same order; else 1."""
    size = int(train.sizes[0])
    for part in (train, test):
        if not (part.sizes == size).all() or not (part.z.view(-1, size) == train.z[:size]).all():
            return 1
    return size


def _mean(train: InMemoryDataset, labels: Callable[[Batch], Tensor], rows: int) -> Tensor:
    """Mean over blocks of so many rows of three numbers each, without missing ones, flat."""
    total, count = torch.zeros(2, rows, 3, dtype=torch.float64)
    for batch in MoleculeLoader(train, 1024):
        blocks = labels(batch).double().reshape(-1, rows, 3)
        total += blocks.nan_to_num().sum(dim=0)
        count += (~blocks.isnan()).sum(dim=0)
    return (total / count.clamp(min=1)).flatten()


def _constant(mean: Tensor, result: Evaluation) -> Evaluation:
    repeats = result.reference.numel() // mean.numel()
    return Evaluation.of(mean.repeat(repeats), result.reference)
