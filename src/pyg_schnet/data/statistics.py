r"""Statistics of the labels: atom references, mean and standard deviation per atom."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .species import NUM_SPECIES


def composition(z: Tensor, batch: Tensor, batch_size: int) -> Tensor:
    """Counts the atoms of each species in each molecule.

    Args:
        z: Atomic numbers ``[N]``; padding (0) is not counted.
        batch: Molecule of each atom ``[N]``.
        batch_size: Number B of molecules.

    Returns:
        Counts ``[B, 101]`` in float64.

    >>> composition(torch.tensor([8, 1, 1]), torch.tensor([0, 0, 0]), 1)[0, [0, 1, 8]]
    tensor([0., 2., 1.], dtype=torch.float64)
    """
    # Of 10^6 molecules this is 0.8 GB: made once, and not by way of integers.
    counts = torch.zeros(batch_size * NUM_SPECIES, dtype=torch.float64, device=z.device)
    one = counts.new_ones(1).expand(z.numel())
    counts = counts.index_add_(0, batch * NUM_SPECIES + z, one).view(batch_size, NUM_SPECIES)
    counts[:, 0] = 0.0
    return counts


def atom_references(counts: Tensor, energy: Tensor) -> Tensor:
    r"""Fits one energy per species to the energies of molecules, by least squares in float64.

    .. math::
        E_m \approx \sum_z n_{mz} E^{\mathrm{ref}}_z

    Where the compositions leave the references undetermined, they stay as near as possible to
    the mean energy per atom; for a single composition they are that mean.

    Args:
        counts: Composition of the molecules ``[M, 101]``.
        energy: Energies ``[M]``; NaN marks missing ones.

    Returns:
        References ``[101]`` in float64, 0 for species that do not occur.

    Raises:
        ValueError: If no energy is known.
    """
    known = _known(energy)
    if not known.all():
        counts, energy = counts[known], energy[known]
    energy = energy.double()
    present = counts.any(dim=0)
    counts = counts[:, present]
    per_atom = energy.sum() / counts.sum()
    residual = energy - per_atom * counts.sum(dim=1)
    fitted = torch.linalg.lstsq(counts, residual.unsqueeze(1), driver="gelsd").solution
    references = torch.zeros(NUM_SPECIES, dtype=torch.float64)
    references[present] = per_atom + fitted.squeeze(1)
    return references


@dataclass(frozen=True)
class TargetStatistics:
    """Mean, spread and range of a target, in its unit.

    Attributes:
        mean: Mean over molecules.
        std: Standard deviation over molecules.
        min: Smallest value.
        max: Largest value.
    """

    mean: float
    std: float
    min: float
    max: float


def per_atom_statistics(
    counts: Tensor, energy: Tensor, references: Tensor | None = None
) -> TargetStatistics:
    """Statistics of the energy per atom, after subtraction of atom references.

    Args:
        counts: Composition of the molecules ``[M, 101]``.
        energy: Energies ``[M]``; NaN marks missing ones.
        references: Atom references ``[101]``; zero if ``None``.
    """
    if references is not None:
        energy = energy.double() - counts @ references
    return target_statistics(energy / counts.sum(dim=1).clamp(min=1))


def target_statistics(target: Tensor) -> TargetStatistics:
    """Statistics of a target over molecules; NaN marks missing values.

    Raises:
        ValueError: If no value is known.
    """
    values = target[_known(target)].double()
    numbers = (values.mean(), values.std(correction=0), values.min(), values.max())
    return TargetStatistics(*[number.item() for number in numbers])


def _known(label: Tensor) -> Tensor:
    known = ~label.isnan()
    if not known.any():
        raise ValueError(f"all {label.numel()} labels are missing (NaN or none at all)")
    return known
