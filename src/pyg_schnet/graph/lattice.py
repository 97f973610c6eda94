r"""The geometry of periodic cells that a neighbour search needs.

With lattice vectors :math:`a_k` and dual vectors :math:`b_k` (:math:`a_k \cdot b_l = \delta_{kl}`),
:math:`|x \cdot b_k| \le |x| |b_k|`: a vector shorter than r has fractional coordinates of at most
:math:`r |b_k|`. This bounds the images to look at, whatever the shape of the cell. Open directions
have :math:`a_k = b_k = 0`, and so no images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Heights of a cell below this fraction of its edges count as zero.
_FLATTEST = 1e-6

# Neighbours of one atom: a hundred times more than any model wants.
_MAX_NEIGHBORS = 1 << 21


@dataclass(frozen=True)
class Lattice:
    """Cells of B systems, and where their atoms are in them.

    Attributes:
        vectors: Lattice vectors in rows, ``[B, 3, 3]``, dtype of the positions; zero where open.
        dual: Dual vectors in columns, ``[B, 3, 3]``, float64; zero where open.
        fractional: Fractional coordinates of the atoms, ``[N, 3]``, float64.
        radius: The radius and a little more, ``[B]``, float64: pairs within the radius in the
            arithmetic of the positions are within this one in exact arithmetic.
        reach: Fractional coordinates that ``radius`` spans, ``[B, 3]``.
    """

    vectors: Tensor
    dual: Tensor
    fractional: Tensor
    radius: Tensor
    reach: Tensor

    def part(self, systems: slice, atoms: slice) -> "Lattice":
        """Some of the systems, and their atoms."""
        return Lattice(
            self.vectors[systems],
            self.dual[systems],
            self.fractional[atoms],
            self.radius[systems],
            self.reach[systems],
        )


def build_lattice(
    pos: Tensor, r: float, batch: Tensor | None, cells: Tensor, periodic: Tensor
) -> Lattice:
    """Works out all that the search needs of the cells.

    Args:
        pos: Positions, ``[N, 3]``.
        r: Radius.
        batch: System of each atom, ``[N]``; all in the first one if ``None``.
        cells: Lattice vectors in rows, ``[B, 3, 3]``, finite.
        periodic: Periodic directions, bool ``[B, 3]``.

    Raises:
        ValueError: If lattice vectors along periodic directions are linearly dependent, if an atom
            has more neighbours than could be wanted, or if rounding makes distances meaningless.
    """
    vectors = (cells * periodic.unsqueeze(-1)).contiguous()
    dual = dual_vectors(vectors, periodic)
    if batch is None:
        fractional = pos.double() @ dual[0]
    else:
        fractional = (pos.double().unsqueeze(1) @ dual[batch]).squeeze(1)
    inverse_heights = dual.norm(dim=1)  # [B, 3]
    members = pos.new_zeros(pos.size(0), dtype=torch.long) if batch is None else batch.long()
    num_atoms = torch.bincount(members, minlength=cells.size(0))  # [B]
    spread = _spread(fractional, members, cells.size(0))  # [B, 3]
    extent = _spread(pos, members, cells.size(0)).double().sum(dim=1)  # [B]
    # Rounding errors of a distance: those of the shift, of the difference, of the norm.
    images = spread + r * inverse_heights + 1.0  # [B, 3]
    magnitude = r + extent + (images * vectors.double().norm(dim=2)).sum(dim=1)  # [B]
    error = _slack(pos) * magnitude * periodic.any(dim=1)
    radius = r * (1.0 + _slack(pos)) + error
    reach = radius.unsqueeze(1) * inverse_heights
    _check_numbers(r, error, images, inverse_heights, num_atoms)
    return Lattice(vectors, dual, fractional, radius, reach)


def without_cell(pos: Tensor, r: float) -> Lattice:
    """The lattice of one open system with positions ``[N, 3]``."""
    radius = pos.new_full((1,), r * (1.0 + _slack(pos)), dtype=torch.float64)
    nothing = torch.zeros(1, 3, 3, dtype=torch.float64, device=pos.device)
    fractional = nothing[0, 0].expand(pos.size(0), 3)
    return Lattice(nothing.to(pos.dtype), nothing, fractional, radius, nothing[:, 0])


def dual_vectors(vectors: Tensor, periodic: Tensor) -> Tensor:
    """Dual vectors in columns, ``[B, 3, 3]`` in float64, zero along open directions.

    Args:
        vectors: Lattice vectors in rows, ``[B, 3, 3]``, zero along open directions.
        periodic: Periodic directions, bool ``[B, 3]``.

    Raises:
        ValueError: If those along periodic directions are linearly dependent.
    """
    wide = vectors.double()
    lengths = wide.norm(dim=2)  # [B, 3]
    # Vectors of length one, so that all numbers below are of that order.
    unit = wide / torch.where(periodic & (lengths > 0), lengths, 1.0).unsqueeze(-1)
    full = bool(periodic.all())
    dual = torch.linalg.inv_ex(unit).inverse if full else torch.linalg.pinv(unit)
    identity = torch.diag_embed(periodic.double())
    independent = (
        ((unit @ dual - identity).abs() < _FLATTEST).all(dim=2)
        & (dual.norm(dim=1) * _FLATTEST < 1.0)
    ).all(dim=1)  # [B]; NaN is neither
    if not independent.all():
        system = int((~independent).nonzero()[0])
        raise ValueError(
            f"the lattice vectors along periodic directions are linearly dependent or zero (got "
            f"{vectors[system].tolist()} with pbc {periodic[system].tolist()} for system {system})"
            ": set 'pbc' to False along open directions"
        )
    return (dual / torch.where(periodic, lengths, 1.0).unsqueeze(1)) * periodic.unsqueeze(1)


def _slack(pos: Tensor) -> float:
    """Bound on the relative rounding error of a distance without shifts."""
    return 16.0 * torch.finfo(pos.dtype).eps


def _spread(rows: Tensor, members: Tensor, num_systems: int) -> Tensor:
    """Largest minus smallest row of each system, ``[B, K]``; zero where there are none."""
    if num_systems == 1 and rows.size(0) > 0:
        return (rows.amax(dim=0) - rows.amin(dim=0)).unsqueeze(0)
    nothing = rows.new_zeros(num_systems, rows.size(1))
    index = members.unsqueeze(1).expand_as(rows)
    high = nothing.scatter_reduce(0, index, rows, "amax", include_self=False)
    return high - nothing.scatter_reduce(0, index, rows, "amin", include_self=False)


def _check_numbers(
    r: float, error: Tensor, images: Tensor, inverse_heights: Tensor, num_atoms: Tensor
) -> None:
    # Within the box around the ball: images of one atom at most, atoms at their mean density.
    spans = 2.0 * r * inverse_heights  # [B, 3]
    density = torch.where(inverse_heights > 0, spans, 1.0).prod(dim=1) * num_atoms
    seen = torch.maximum((spans + 1.0).prod(dim=1), density)  # [B]
    if bool((seen > _MAX_NEIGHBORS).any()):
        raise ValueError(
            f"within r = {r:g} an atom has about {float(seen.max()):.0e} neighbours: are 'cell' "
            "and 'r' in the same unit?"
        )
    if bool((error >= 0.1 * r).any()) or bool((images >= 2.0**30).any()):
        raise ValueError(
            f"atoms are up to {float(images.max()):.0e} cells apart, so far that distances are "
            f"uncertain by {float(error.max()):.1g} (with r = {r:g}): wrap them into the cell, or "
            "use float64"
        )
