"""The kept neighbour list against a fresh search at every step."""

import math

import pytest
import torch
from molecules import random_molecule
from torch import Tensor

from pyg_schnet import edge_lengths, ops, radius_graph
from pyg_schnet.graph import NeighborList

CUTOFF = 3.0


def rows(edge_index: Tensor, edge_shift: Tensor) -> list[list[float]]:
    return sorted(torch.cat([edge_index.T, edge_shift], dim=1).tolist())


def crystal(
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor, torch.Generator]:
    """Positions, batch, cells and periodic directions of a solid, a slab and a cluster."""
    generator = torch.Generator().manual_seed(4)
    cells = torch.tensor(
        [
            [[6, 0, 0], [2, 6, 0], [-1, 3, 5]],
            [[5, 0, 1], [-2, 5, 0], [0, 0, 0]],
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        ],
        dtype=dtype,
    )
    pbc = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    batch = torch.arange(3).repeat_interleave(torch.tensor([14, 9, 7]))
    pos = 6.0 * torch.rand(30, 3, generator=generator, dtype=dtype)
    return pos, batch, cells, pbc, generator


def wrap(pos: Tensor, batch: Tensor, cells: Tensor, pbc: Tensor) -> Tensor:
    """Back into the cell, along periodic directions."""
    full = cells + torch.diag_embed((~pbc).to(cells))
    fractional = torch.linalg.solve(full[batch].mT, pos.unsqueeze(2)).squeeze(2)
    whole = fractional.floor() * pbc[batch]
    return pos - (whole.unsqueeze(1) @ cells[batch]).squeeze(1)


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("deformed", [True, False])
def test_equals_a_fresh_search_at_every_step(deformed, wrapped, dtype, kernels):
    pos, batch, cells, pbc, generator = crystal(dtype)
    neighbor_list = NeighborList(CUTOFF, skin=0.8)
    jumps = 0
    with ops.backend(kernels):
        for _ in range(60):
            pos = pos + 0.04 * torch.randn(pos.shape, generator=generator, dtype=dtype)
            if deformed:
                strain = 0.004 * torch.randn(3, 3, 3, generator=generator, dtype=dtype)
                pos = pos + (pos.unsqueeze(1) @ strain[batch]).squeeze(1)
                cells = cells + cells @ strain
            if wrapped:
                home = wrap(pos, batch, cells, pbc)
                jumps += int((home - pos).abs().gt(1.0).any(dim=1).sum())
                pos = home
            found = neighbor_list(pos, batch, cells, pbc)
            assert rows(*found) == rows(*radius_graph(pos, CUTOFF, batch, cells, pbc))
    assert 2 <= neighbor_list.builds <= 30  # it was kept, and it was renewed
    assert (jumps > 10) == wrapped


@pytest.mark.parametrize("dimension", [2, 3])
def test_open_systems(dimension):
    generator = torch.Generator().manual_seed(0)
    pos = 6.0 * torch.rand(20, dimension, generator=generator)
    batch = torch.arange(20) // 10
    neighbor_list = NeighborList(2.0, skin=0.5)
    for _ in range(20):
        pos = pos + 0.02 * torch.randn(pos.shape, generator=generator)
        # Sorted as usual: without images the order is the same.
        assert torch.equal(neighbor_list(pos, batch), radius_graph(pos, 2.0, batch))
    assert 1 < neighbor_list.builds < 10


def test_searches_as_soon_as_half_the_skin_is_exceeded():
    pos = torch.zeros(2, 3, dtype=torch.float64)
    pos[1, 0] = 3.9
    neighbor_list = NeighborList(3.0, skin=1.0)
    step = torch.tensor([[1.0, 0, 0], [-1, 0, 0]], dtype=torch.float64)
    assert neighbor_list(pos).size(1) == 0
    assert neighbor_list(pos + 0.499 * step).size(1) == 2
    assert neighbor_list.builds == 1
    neighbor_list(pos + 0.501 * step)
    assert neighbor_list.builds == 2


def test_a_pair_from_beyond_the_skin_is_not_missed():
    # Just outside of the larger radius; atoms and cell move as far as they may, towards each other.
    pos = torch.tensor([[0.1, 0, 0], [4.101, 0, 0]], dtype=torch.float64)
    cell = torch.diag(torch.tensor([8.1, 9.0, 9.0], dtype=torch.float64))
    neighbor_list = NeighborList(3.0, skin=1.0)
    assert neighbor_list(pos, cell=cell)[0].size(1) == 0
    for squeeze in (0.99, 0.95, 0.9, 0.8, 0.76, 0.745, 0.7):
        deformed = cell * torch.tensor([squeeze, 1.0, 1.0])
        for nearer in (0.0, 0.02, 0.1):
            moved = pos * torch.tensor([squeeze, 1.0, 1.0]) + torch.tensor(
                [[nearer, 0, 0], [0, 0, 0]]
            )
            fresh = radius_graph(moved, 3.0, None, deformed)
            assert rows(*neighbor_list(moved, cell=deformed)) == rows(*fresh)
    assert neighbor_list.builds < 12


def test_a_shrinking_cell_brings_images_in():
    """An atom that stays where it is sees those that were beyond the skin."""
    neighbor_list = NeighborList(2.9, skin=0.4)
    atom, cell = torch.zeros(1, 3), 3.4 * torch.eye(3)
    counts = [neighbor_list(atom, cell=scale * cell)[0].size(1) for scale in (1.0, 0.98, 0.82)]
    assert counts == [0, 0, 6]
    assert neighbor_list.builds == 2


def test_atoms_are_followed_across_the_border_of_a_strained_cell():
    """Their way is that of the cell as it is now: otherwise 0.8 A would seem to be missing."""
    neighbor_list = NeighborList(CUTOFF, skin=1.0)
    pos, cell = random_molecule(8).pos, 40.0 * torch.eye(3, dtype=torch.float64)
    neighbor_list(pos, cell=cell)
    moved, wider = 1.02 * pos, 1.02 * cell
    moved[:3] += wider[1]
    assert rows(*neighbor_list(moved, cell=wider)) == rows(*radius_graph(moved, CUTOFF, cell=wider))
    assert neighbor_list.builds == 1


def test_pairs_of_the_skin_on_request():
    pos, batch, cells, pbc, _ = crystal()
    neighbor_list = NeighborList(CUTOFF, skin=0.8, exact=False)
    first = neighbor_list(pos, batch, cells, pbc)
    assert rows(*first) == rows(*radius_graph(pos, CUTOFF + 0.8, batch, cells, pbc))
    second = neighbor_list(pos + 0.1, batch, cells, pbc)
    assert all(a is b for a, b in zip(first, second))


def test_another_system_is_searched_anew():
    neighbor_list = NeighborList(CUTOFF, skin=1.0)
    pos, cell = random_molecule(8).pos, 7.0 * torch.eye(3, dtype=torch.float64)
    calls = [
        (pos, None, None, None),
        (pos[:7], None, None, None),  # an atom less
        (pos[:7].flip(0), None, None, None),  # another order
        (pos[:7], torch.arange(7) // 4, None, None),  # two molecules
        (pos[:7], torch.arange(7) // 3, None, None),  # other molecules
        (pos[:7], None, cell, None),  # periodic
        (pos[:7], None, cell, torch.tensor([True, False, True])),  # less so
        (pos[:7].float(), None, cell, torch.tensor([True, False, True])),
    ]
    for count, call in enumerate(calls, start=1):
        found, fresh = neighbor_list(*call), radius_graph(call[0], CUTOFF, *call[1:])
        if call[2] is None:
            assert torch.equal(found, fresh)
        else:
            assert rows(*found) == rows(*fresh)
        assert neighbor_list.builds == count
    assert neighbor_list(pos[:0]).shape == (2, 0)


def test_a_list_made_under_inference_mode_serves_gradients():
    pos = random_molecule(6).pos
    neighbor_list = NeighborList(CUTOFF, exact=False)
    with torch.inference_mode():
        neighbor_list(pos)
    edges = neighbor_list(pos)
    edge_lengths(pos.requires_grad_(), edges).sum().backward()
    assert neighbor_list.builds == 1
    assert pos.grad.isfinite().all()


def test_another_radius_is_searched_anew():
    pos = random_molecule(12).pos
    neighbor_list = NeighborList(1.5, skin=0.5)
    neighbor_list(pos)
    neighbor_list.cutoff = 3.0
    assert torch.equal(neighbor_list(pos), radius_graph(pos, 3.0))
    neighbor_list.skin = 0.1
    assert torch.equal(neighbor_list(pos), radius_graph(pos, 3.0))
    assert neighbor_list.builds == 3


def test_positions_changed_in_place_are_noticed():
    pos = random_molecule(8).pos
    neighbor_list = NeighborList(CUTOFF, skin=0.5)
    neighbor_list(pos)
    pos *= 0.7
    assert torch.equal(neighbor_list(pos), radius_graph(pos, CUTOFF))
    batch = torch.arange(8) // 4
    neighbor_list(pos, batch)
    batch.copy_(torch.arange(8) // 2)
    assert torch.equal(neighbor_list(pos, batch), radius_graph(pos, CUTOFF, batch))


@pytest.mark.parametrize("with_cell", [True, False])
def test_bad_input_after_a_good_step(with_cell):
    pos = random_molecule(5).pos
    cell = 9.0 * torch.eye(3, dtype=torch.float64) if with_cell else None
    neighbor_list = NeighborList(CUTOFF)
    neighbor_list(pos, cell=cell)
    broken = pos.clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"finite .* for atom 3"):
        neighbor_list(broken, cell=cell)
    if cell is not None:
        with pytest.raises(ValueError, match="linearly dependent"):
            neighbor_list(pos, cell=cell * torch.tensor([1.0, 1, 0]))
        with pytest.raises(ValueError, match="must be finite"):
            neighbor_list(pos, cell=cell / 0.0)
    with pytest.raises(ValueError, match="no 'cell'"):
        neighbor_list(pos, pbc=True)
    for wrong in (dict(cutoff=0.0), dict(cutoff=math.inf), dict(cutoff=2.0, skin=-1.0)):
        with pytest.raises(ValueError, match="positive and finite"):
            NeighborList(**wrong)
