r"""Neighbours by sorted cells in plain PyTorch: best for large systems on a GPU.

Everything happens on the device of the positions, for all systems of a batch at once, in time and
memory linear in the number of atoms:

1. Atoms are wrapped into their cells, and copied to wherever an image may be seen by one of them.
   From here on nothing is periodic, and the shape of the cells does not matter.
2. Atoms and images are sorted into columns along the third axis, and by height within a column.
3. Each atom looks at the columns around it, in each at those heights that are within the radius:
   at consecutive points, which two binary searches find, so that empty space costs nothing.
4. Of these candidates, about two for one pair, those count that are within the radius in the
   arithmetic of the model.

1 to 3 are done in double precision with a slightly larger radius, so that no pair is missed.

The host waits for the device once for the number of images, and in each block of atoms for the
number of candidates and for that of pairs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .distance import squared_lengths
from .lattice import Lattice, bounds, by_system, from_first, safe_radius
from .pairs import boxes, cuts, images_within, in_order, ranked

# Atoms that look around at once, and candidates examined at once: bound the memory.
_ATOMS = 1 << 16
_MAX_CANDIDATES = 1 << 21
# Columns that the radius spans. More of them fit the ball better, and take more searches.
_FINENESS = 2
# Bits of a key that say how high in its column a point is; others number the columns.
_HEIGHT_BITS, _COLUMN_BITS = 22, 40
# Beyond, coordinates are cut off, which brings no two atoms further apart.
_FARTHEST = 1e100


@dataclass(frozen=True)
class _Points:
    """Atoms and their images.

    Attributes:
        place: Where they are, ``[M, 3]`` float64.
        atom: Which atom each one is, ``[M]``; ``None`` if they are the atoms.
        image: Which of its images, ``[M, 3]`` int32; ``None`` without periodic directions.
        home: Where the atoms are as seen from their images in the cell, ``[N, 3]`` int32.
        at_home: Places of these images, ``[N, 3]``.
        distinct: Whether no atom sees two images of another one, nor of itself.
    """

    place: Tensor
    atom: Tensor | None
    image: Tensor | None
    home: Tensor | None
    at_home: Tensor
    distinct: bool


@dataclass(frozen=True)
class _Grid:
    """Columns of B systems.

    Attributes:
        low: Corner, ``[B, 3]``.
        width: Width of the columns, ``[B, 2]``, and the height of what is told apart in them.
        count: Columns along the first two axes, ``[B, 2]``.
        before: Columns of the systems before, ``[B]``.
        radius: The radius, ``[B]``.
    """

    low: Tensor
    width: Tensor
    count: Tensor
    before: Tensor
    radius: Tensor


def cell_pairs(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice, periodic: bool
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of systems with cells or without.

    Args:
        pos: Positions, ``[N, 3]``.
        r: Radius, finite.
        batch: System of each atom, ``[N]``; all in the first one if ``None``.
        lattice: Cells of the systems.
        periodic: Whether any of them is. Otherwise there are no shifts, ``[0, 3]``.
    """
    num_systems = lattice.radius.size(0)
    members = pos.new_zeros(pos.size(0), dtype=torch.long) if batch is None else batch.long()
    centred = from_first(pos, batch, num_systems).clamp(-_FARTHEST, _FARTHEST)
    radius = safe_radius(centred, r, members, lattice)
    if periodic:
        points = _with_images(centred, members, lattice, radius)
    else:
        points = _Points(centred, None, None, None, centred, True)
    whose = members if points.atom is None else members.index_select(0, points.atom)
    grid = _grid(points.place, whose, radius)
    keys, order = _keys(points.place, whose, grid).sort()
    parts, shifts = [pos.new_empty(2, 0, dtype=torch.long)], [pos.new_empty(0, 3)]
    for edges, images in _candidates(points, members, grid, keys, order):
        if images is None:
            found = _within(pos, r, edges)
        else:
            found, shift = images_within(
                pos, r, batch, lattice.vectors, edges, images.to(pos.dtype)
            )
            if points.distinct:
                rising = _by_pair(found, pos.size(0))
                found, shift = found[:, rising], shift[rising]
            else:
                found, shift = in_order(pos, batch, lattice.vectors, found, shift)
            shifts.append(shift)
        parts.append(found)
    if len(parts) == 2:
        return parts[1], shifts[-1]
    return torch.cat(parts, dim=1), torch.cat(shifts)


def _with_images(centred: Tensor, members: Tensor, lattice: Lattice, radius: Tensor) -> _Points:
    vectors = lattice.vectors.double()
    turns = lattice.fractional.floor()  # [N, 3]
    at_home = centred - by_system(turns, vectors, members)
    fractional = lattice.fractional - turns
    low, high = bounds(fractional, members, radius.size(0))
    reach = lattice.reach * (radius / lattice.radius).unsqueeze(1)  # [B, 3]
    first = ((low - reach).index_select(0, members) - fractional).ceil()
    last = ((high + reach).index_select(0, members) - fractional).floor()
    counts = (last - first + 1.0).clamp(min=1.0).long()
    # Two images of one pair are at least a height of the cell apart.
    total, distinct = torch.stack([counts.prod(dim=1).sum(), (reach < 0.5).all()]).tolist()
    atom, step = boxes(first, counts, total)
    place = at_home.index_select(0, atom) + by_system(step, vectors, members.index_select(0, atom))
    image = (step - turns.index_select(0, atom)).int()
    return _Points(place, atom, image, (-turns).int(), at_home, bool(distinct))


def _grid(place: Tensor, whose: Tensor, radius: Tensor) -> _Grid:
    num_systems = radius.size(0)
    low, high = bounds(place, whose, num_systems)
    extent = high - low
    most = 2 ** ((_COLUMN_BITS - math.ceil(math.log2(num_systems))) // 2)
    # A little wider, so that rounding never makes a ball touch one column more.
    columns = torch.maximum((1.0 + 1e-9) / _FINENESS * radius.unsqueeze(1), extent[:, :2] / most)
    levels = torch.maximum(radius / 32.0, extent[:, 2] / (2**_HEIGHT_BITS - 2))
    count = (extent[:, :2] / columns).floor().long() + 1  # [B, 2]
    total = count.prod(dim=1)
    width = torch.cat([columns, levels.unsqueeze(1)], dim=1)
    return _Grid(low, width, count, total.cumsum(0) - total, radius)


def _keys(place: Tensor, whose: Tensor, grid: _Grid) -> Tensor:
    """The column of each point, and how high it is there, in one number."""
    cell = place - grid.low.index_select(0, whose)
    cell = (cell / grid.width.index_select(0, whose)).floor().long()
    column = grid.before.index_select(0, whose) + (
        cell[:, 0] * grid.count[:, 1].index_select(0, whose) + cell[:, 1]
    )
    return (column << _HEIGHT_BITS) + cell[:, 2]


def _candidates(
    points: _Points, members: Tensor, grid: _Grid, keys: Tensor, order: Tensor
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Pairs that may be within the radius, ``[2, n]``, and images ``[n, 3]``, by target."""
    atom = order if points.atom is None else points.atom.index_select(0, order)
    image = None if points.image is None else points.image.index_select(0, order)
    for begin in range(0, members.size(0), _ATOMS):
        block = slice(begin, begin + _ATOMS)
        first, count = _ranges(points.at_home[block], members[block], grid, keys)  # [n, K]
        for part, total in cuts(count.sum(dim=1), _MAX_CANDIDATES):
            run, rank = ranked(count[part].flatten(), total)
            place = first[part].flatten().index_select(0, run) + rank
            target = run.div_(count.size(1), rounding_mode="floor").add_(begin + part.start)
            edges = torch.stack([atom.index_select(0, place), target])
            if image is None or points.home is None:
                yield edges, None
            else:
                yield edges, image.index_select(0, place) - points.home.index_select(0, target)


def _ranges(place: Tensor, whose: Tensor, grid: _Grid, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Where the points near each atom begin in each of K columns ``[n, K]``, and how many."""
    radius = grid.radius.index_select(0, whose).unsqueeze(1)  # [n, 1]
    width = grid.width.index_select(0, whose)  # [n, 3]
    count = grid.count.index_select(0, whose)  # [n, 2]
    inside = place - grid.low.index_select(0, whose)  # [n, 3]
    across, step = inside[:, :2], torch.arange(2 * _FINENESS + 1, device=place.device)
    low = ((across - radius) / width[:, :2]).floor().long().clamp_(min=0)
    high = torch.minimum(((across + radius) / width[:, :2]).floor().long(), count - 1)
    cell = low.unsqueeze(2) + step  # [n, 2, k]
    left = cell * width[:, :2].unsqueeze(2) - across.unsqueeze(2)
    gap = torch.maximum(left, -left - width[:, :2].unsqueeze(2)).clamp_(min=0.0).square_()
    gap.masked_fill_(cell > high.unsqueeze(2), math.inf)  # beyond the last column
    square = radius.square().unsqueeze(2) - gap[:, 0].unsqueeze(2) - gap[:, 1].unsqueeze(1)
    square = square.flatten(1)  # [n, K]
    column = cell[:, 0].unsqueeze(2) * count[:, 1].view(-1, 1, 1) + cell[:, 1].unsqueeze(1)
    column = (column.flatten(1) + grid.before.index_select(0, whose).unsqueeze(1)) << _HEIGHT_BITS
    reach = square.clamp(min=0.0).sqrt_()
    height, level = inside[:, 2:], width[:, 2:]
    bottom = ((height - reach) / level).floor_().clamp_(min=0.0).long()
    top = ((height + reach) / level).floor_().clamp_(max=2.0**_HEIGHT_BITS - 1.0).long()
    first = torch.searchsorted(keys, column + bottom)
    end = torch.searchsorted(keys, column + top, right=True)
    return first, torch.where(square < 0.0, 0, end - first)


def _within(pos: Tensor, r: float, edges: Tensor) -> Tensor:
    """Those of the candidates without images that are within the radius, in order."""
    source, target = edges
    apart = pos.index_select(0, source) - pos.index_select(0, target)
    near = (squared_lengths(apart) < r * r) & (source != target)
    edges = edges.index_select(1, near.nonzero()[:, 0])
    return edges[:, _by_pair(edges, pos.size(0))]


def _by_pair(edges: Tensor, num_atoms: int) -> Tensor:
    return (edges[1] * num_atoms + edges[0]).argsort()
