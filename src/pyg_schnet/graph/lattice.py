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
        fractional: Fractional coordinates of the atoms, ``[N, 3]``, float64, as seen from the
            first atom of each system.
        spread: How far these reach, ``[B, 3]``.
        radius: The radius and a little more, ``[B]``, float64: pairs within the radius in the
            arithmetic of the positions are within this one in exact arithmetic.
        reach: Fractional coordinates that ``radius`` spans, ``[B, 3]``.
    """

    vectors: Tensor
    dual: Tensor
    fractional: Tensor
    spread: Tensor
    radius: Tensor
    reach: Tensor

    def part(self, systems: slice, atoms: slice) -> "Lattice":
        """Some of the systems, and their atoms."""
        return Lattice(
            self.vectors[systems],
            self.dual[systems],
            self.fractional[atoms],
            self.spread[systems],
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
    num_systems = cells.size(0)
    members = pos.new_zeros(pos.size(0), dtype=torch.long) if batch is None else batch.long()
    fractional = by_system(from_first(pos, batch, num_systems), dual, members)
    inverse_heights = dual.norm(dim=1)  # [B, 3]
    num_atoms = sizes_of(pos, batch, num_systems)  # [B]
    low, high = bounds(fractional, members, num_systems)
    spread = high - low  # [B, 3]
    low, high = bounds(pos, members, num_systems)
    extent = (high - low).double().sum(dim=1)  # [B]
    # Rounding errors of a distance: those of the shift, of the difference, of the norm.
    images = spread + r * inverse_heights + 1.0  # [B, 3]
    magnitude = r + extent + (images * vectors.double().norm(dim=2)).sum(dim=1)  # [B]
    error = _slack(pos) * magnitude * periodic.any(dim=1)
    radius = r * (1.0 + _slack(pos)) + error
    reach = radius.unsqueeze(1) * inverse_heights
    _check_numbers(r, error, images, inverse_heights, num_atoms)
    return Lattice(vectors, dual, fractional, spread, radius, reach)


def without_cell(pos: Tensor, r: float, num_systems: int = 1) -> Lattice:
    """The lattice of open systems with positions ``[N, 3]``."""
    radius = pos.new_full((num_systems,), r * (1.0 + _slack(pos)), dtype=torch.float64)
    nothing = torch.zeros(num_systems, 3, 3, dtype=torch.float64, device=pos.device)
    fractional = nothing.new_zeros(1, 1).expand(pos.size(0), 3)
    none = nothing[:, 0]
    return Lattice(nothing.to(pos.dtype), nothing, fractional, none, radius, none)


def safe_radius(centred: Tensor, r: float, members: Tensor, lattice: Lattice) -> Tensor:
    """A radius ``[B]`` that also allows for the roundings of a search in float64.

    Args:
        centred: Positions from :func:`from_first`, ``[N, 3]``.
        r: Radius.
        members: System of each atom, ``[N]``.
        lattice: Cells of the systems.
    """
    low, high = bounds(centred, members, lattice.radius.size(0))
    turns = lattice.spread + lattice.reach + 2.0  # [B, 3]
    size = (high - low).sum(dim=1) + (turns * lattice.vectors.double().norm(dim=2)).sum(dim=1)
    return 2.0 * lattice.radius - r + 64.0 * torch.finfo(torch.float64).eps * size


def completed(vectors: Tensor, periodic: Tensor) -> Tensor:
    """Lattice vectors with unit vectors at right angles to all others along open directions.

    Args:
        vectors: Lattice vectors in rows, ``[B, 3, 3]``, zero along open directions.
        periodic: Periodic directions, bool ``[B, 3]``.
    """
    # The last rows of the factor V span what the periodic vectors do not.
    spanned = periodic.sum(dim=1, keepdim=True)
    row = torch.where(periodic, 0, spanned + (~periodic).cumsum(dim=1) - 1)  # [B, 3]
    normal = torch.linalg.svd(vectors).Vh.gather(1, row.unsqueeze(2).expand(-1, -1, 3))
    return torch.where(periodic.unsqueeze(2), vectors, normal)


def sizes_of(pos: Tensor, batch: Tensor | None, num_systems: int) -> Tensor:
    """Atoms of each system, ``[B]``."""
    if batch is None:
        return torch.full((num_systems,), pos.size(0), device=pos.device)
    return _starts(batch, num_systems).diff()


def from_first(pos: Tensor, batch: Tensor | None, num_systems: int) -> Tensor:
    """Positions ``[N, D]`` as seen from the first atom of each system, in float64.

    Where atoms are far from the origin, rounding is then that of their distances.
    """
    wide = pos.double()
    if batch is None or num_systems == 1:
        return wide - wide[:1]
    first = _starts(batch, num_systems)[:-1].index_select(0, batch)
    return wide - wide.index_select(0, first)


def _starts(batch: Tensor, num_systems: int) -> Tensor:
    # Not bincount, which on a GPU makes the host wait.
    systems = torch.arange(num_systems + 1, dtype=batch.dtype, device=batch.device)
    return torch.searchsorted(batch.contiguous(), systems)


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


def bounds(rows: Tensor, members: Tensor, num_systems: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest values of each system in rows ``[N, K]``, both ``[B, K]``.

    Zero where a system has none.
    """
    if num_systems == 1 and rows.size(0) > 0:
        return rows.amin(dim=0, keepdim=True), rows.amax(dim=0, keepdim=True)
    nothing = rows.new_zeros(num_systems, rows.size(1))
    index = members.unsqueeze(1).expand_as(rows)
    low = nothing.scatter_reduce(0, index, rows, "amin", include_self=False)
    return low, nothing.scatter_reduce(0, index, rows, "amax", include_self=False)


def by_system(rows: Tensor, matrices: Tensor, members: Tensor) -> Tensor:
    """Each row ``[N, 3]`` times the matrix ``[B, 3, 3]`` of its system."""
    if matrices.size(0) == 1:
        return rows @ matrices[0]
    return (rows.unsqueeze(1) @ matrices.index_select(0, members)).squeeze(1)


def _check_numbers(
    r: float, error: Tensor, images: Tensor, inverse_heights: Tensor, num_atoms: Tensor
) -> None:
    # Within the box around the ball: images of one atom at most, atoms at their mean density.
    spans = 2.0 * r * inverse_heights  # [B, 3]
    density = torch.where(inverse_heights > 0, spans, 1.0).prod(dim=1) * num_atoms
    seen = torch.maximum((spans + 1.0).prod(dim=1), density)  # [B]
    wrong = torch.stack(
        [(seen > _MAX_NEIGHBORS).any(), ((error >= 0.1 * r) | (images >= 2.0**30).any(dim=1)).any()]
    )
    crowded, uncertain = wrong.tolist()
    if crowded:
        raise ValueError(
            f"within r = {r:g} an atom has about {float(seen.max()):.0e} neighbours: are 'cell' "
            "and 'r' in the same unit?"
        )
    if uncertain:
        raise ValueError(
            f"atoms are up to {float(images.max()):.0e} cells apart, so far that distances are "
            f"uncertain by {float(error.max()):.1g} (with r = {r:g}): wrap them into the cell, or "
            "use float64"
        )
