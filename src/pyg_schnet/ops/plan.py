r"""What the edges of a batch need before convolutions can run on them, prepared once."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import plan_tensors
from .checks import check_distances, check_indices, check_range, check_sizes, extent_of
from .dispatch import selected_backend, use_cpu_kernels
from .knot_chunks import KnotChunks
from .table import Knots

# Parts of a batch that threads share out. A constant, so that no result can depend on how many
# threads there are.
NUM_BLOCKS = 64


@dataclass(eq=False)
class EdgePlan:
    r"""Edges of a batch, sorted by destination, with what convolutions and their derivatives need.

    Built once per batch by :meth:`build` and shared by all interaction blocks. "Plan order" sorts
    edges by destination, then source, then distance; :meth:`arrange` brings values per edge into
    it.

    Attributes:
        source: Source atom of each edge in plan order, ``[E]`` int32.
        target: Destination atom of each edge in plan order, ``[E]`` int32.
        num_src: Number of source atoms.
        num_dst: Number of destination atoms; the same unless the graph is bipartite.
        rowptr: Position of the first edge into each atom, ``[num_dst + 1]`` int32.
        permutation: Position in the user's list of each edge in plan order, ``[E]`` int64;
            ``None`` if the user's edges are in plan order already.
        reverse: For symmetric graphs the position of each edge's reverse, ``[E]`` int32. Otherwise
            ``None``.
        blocks: Cuts of the atoms into runs for threads to share out, between molecules where
            these are small, ``[65]`` int32 (the last ones repeat), for symmetric graphs on the
            CPU. Otherwise ``None``.
        extent: The shortest and the longest distance it was built from, if any was given.
        knots: Radial knots of the filters.
        short: The user's positions of edges shorter than the first knot, where the table has no
            filter (they contribute zero) and the caller evaluates it exactly; ``None`` if there
            are none.
        mutual: Whether the caller knows that both directions of a pair have the same distance as
            functions of the positions, so that gradients may go to either.
        packed: All integers in one tensor, in compiled graphs. Otherwise ``None``.
    """

    source: Tensor
    target: Tensor
    num_src: int
    num_dst: int
    rowptr: Tensor | None = None
    permutation: Tensor | None = None
    reverse: Tensor | None = None
    blocks: Tensor | None = None
    extent: tuple[float, float] | None = None
    knots: Knots | None = None
    short: Tensor | None = None
    mutual: bool = False
    packed: Tensor | None = field(default=None, repr=False)
    _transposed: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False)
    _edge_index: Tensor | None = field(default=None, repr=False)
    _pairs: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _by_knot: tuple[Knots, Tensor] | None = field(default=None, repr=False)
    _chunks: tuple[Knots, KnotChunks] | None = field(default=None, repr=False)

    @classmethod
    def build(
        cls,
        edge_index: Tensor,
        num_nodes: int | tuple[int, int],
        distances: Tensor | None = None,
        knots: Knots | Callable[[float], Knots] | None = None,
    ) -> "EdgePlan":
        r"""Prepares the edges of a batch.

        Edges sorted by destination and source take about 0.1 ms per 10,000 on a CPU; on a GPU they
        take one sort, and one wait for the device, others four sorts and two waits. Whether
        every edge has its reverse with the very same distance is checked, and used by
        the backward pass; graphs without that property work as well.

        Args:
            edge_index: Sources and destinations, ``[2, E]``.
            num_nodes: Number of atoms, or numbers of sources and of destinations.
            distances: Length of each edge, ``[E]``. Only used to compare and to check: gradients
                flow through what :func:`cfconv` is given. Without them the graph counts as
                asymmetric.
            knots: Radial knots, needed by :func:`cfconv`, or a function that chooses them by the
                longest distance.

        Returns:
            The plan, on the device of ``edge_index``.

        Raises:
            ValueError: If shapes do not match, an index is out of range, a distance is not a
                number, or a distance lies beyond the range of a filter that does not vanish there.
        """
        if edge_index.dim() != 2 or edge_index.size(0) != 2:
            raise ValueError(f"'edge_index' must have shape [2, E] (got {list(edge_index.shape)})")
        num_src, num_dst = num_nodes if isinstance(num_nodes, tuple) else (num_nodes, num_nodes)
        if distances is not None:
            distances = distances.detach()
            if distances.shape != edge_index.shape[1:]:
                raise ValueError(
                    f"'distances' must have shape [{edge_index.size(1)}], one per edge "
                    f"(got {list(distances.shape)})"
                )
        compiling = torch.compiler.is_compiling()
        if not compiling and max(edge_index.size(1), num_src, num_dst) >= 2**31 - 1:
            raise ValueError(
                "a plan holds fewer than 2^31 - 1 edges and atoms "
                f"(got {edge_index.size(1)} edges of {max(num_src, num_dst)} atoms)"
            )
        if compiling:
            knots = knots(math.inf) if callable(knots) else knots
            plan = _trace(edge_index, num_src, num_dst, distances, knots)
        elif use_cpu_kernels(_like(edge_index, distances)):
            plan = _build_on_cpu(edge_index, num_src, num_dst, distances)
        else:
            plan = _build_anywhere(edge_index, num_src, num_dst, distances)
        if callable(knots):
            knots = knots(0.0 if plan.extent is None else plan.extent[1])
        return plan if knots is None else plan._on(knots, distances, plan.extent)

    @property
    def num_edges(self) -> int:
        """Number E of directed edges."""
        return self.source.size(0)

    @property
    def symmetric(self) -> bool:
        """Whether every edge was found to have its reverse with the same distance."""
        return self.reverse is not None

    def with_knots(self, knots: Knots, distances: Tensor | None = None) -> "EdgePlan":
        r"""The same edges for filters on other knots.

        Args:
            knots: The knots.
            distances: Length of each edge in the user's order, ``[E]``, to be checked against
                the range of the knots. Unchecked if ``None``.

        Raises:
            ValueError: If a filter that does not vanish ends before the longest edge.
        """
        if distances is None or torch.compiler.is_compiling():
            return self._on(knots, None, None)
        return self._on(knots, distances, extent_of(distances.detach()))

    def _on(
        self, knots: Knots, distances: Tensor | None, extent: tuple[float, float] | None
    ) -> "EdgePlan":
        short = None
        everywhere = knots.vanishes and knots.start <= 0.0  # no distance is out of range
        if extent is not None and distances is not None and self.num_edges > 0 and not everywhere:
            check_range(*extent, knots)
            if extent[0] < knots.start:
                short = (distances < knots.start).nonzero()[:, 0]
        plan = object.__new__(EdgePlan)  # a tenth of the time of copy.copy
        plan.__dict__.update(self.__dict__, knots=knots, short=short)
        return plan

    def require_knots(self) -> Knots:
        """The knots.

        Raises:
            ValueError: If the plan was built without.
        """
        if self.knots is None:
            raise ValueError(
                "this EdgePlan has no knots: build it with EdgePlan.build(..., knots=knots) or "
                "use plan.with_knots(knots)"
            )
        return self.knots

    def arrange(self, values: Tensor) -> Tensor:
        """Brings values per edge, ``[E, ...]``, from the user's order into that of the plan."""
        return values if self.permutation is None else values.index_select(0, self.permutation)

    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Edges sorted by source.

        Returns:
            Row pointers ``[num_src + 1]``, the destination of each edge ``[E]``, and its position
            in plan order ``[E]``, all int32. In a symmetric graph those are the row pointers, the
            sources and the reverse edges of the plan itself.
        """
        if self._transposed is None:
            if self.reverse is not None and self.rowptr is not None:
                self._transposed = (self.rowptr, self.source, self.reverse)
            else:
                order = self.source.argsort(stable=True)
                rowptr = _row_pointers(self.source.index_select(0, order), self.num_src)
                target = self.target.index_select(0, order)
                self._transposed = (rowptr, target, order.int())
        return self._transposed

    def by_knot(self, distances: Tensor, again: bool = False) -> Tensor:
        r"""Edges by rising distance, from knot to knot; found once for all blocks.

        Args:
            distances: Length of each edge, ``[E]``, in plan order, on the CPU.
            again: Sort anew, for other distances.

        Returns:
            Positions of edges in plan order, int32: ``[E]``, or in a symmetric graph one edge of
            each pair, that from the lower to the higher atom.
        """
        knots = self.require_knots()
        known = self._by_knot  # read once: other threads may replace it
        if again or known is None or known[0] != knots:
            from . import plan_kernels

            scaled = (distances.detach() - knots.start) * (1.0 / knots.spacing)
            order = plan_kernels.sort_by_knot(
                scaled.numpy(),
                self.source.numpy(),
                self.target.numpy(),
                knots.intervals,
                self.symmetric,
            )
            known = (knots, torch.from_numpy(order))
            self._by_knot = known
        return known[1]

    def chunks_by_knot(self, distances: Tensor) -> KnotChunks:
        r"""Edges by rising interval of the knots, in chunks, on any device; found once.

        Args:
            distances: Length of each edge, ``[E]``, in plan order. Of later calls they are not
                looked at: that would need the host to wait.
        """
        knots = self.require_knots()
        known = self._chunks
        if known is None or known[0] != knots:
            self._chunks = known = (knots, KnotChunks.of(distances, knots))
        return known[1]

    @property
    def edge_index(self) -> Tensor:
        """The edges as the user gave them, ``[2, E]`` int64."""
        if self._edge_index is None:
            edges = torch.stack([self.source, self.target]).long()
            if self.permutation is not None:
                edges = torch.empty_like(edges).index_copy_(1, self.permutation, edges)
            self._edge_index = edges
        return self._edge_index

    def undirected(self) -> tuple[Tensor, Tensor]:
        r"""Pairs of atoms, for what is the same in both directions.

        Returns:
            The user's position of one edge of each pair ``[P]``, and the pair of each of the
            user's edges ``[E]``, both int64: ``f(d)`` equals
            ``f(d[edges]).index_select(0, pairs)``.

        Raises:
            ValueError: If the graph is not symmetric.
        """
        if self.reverse is None:
            raise ValueError("only a symmetric graph has undirected pairs: see EdgePlan.symmetric")
        if self._pairs is None:
            positions = torch.arange(self.num_edges, device=self.source.device)
            first = positions <= self.reverse
            edges = first.nonzero()[:, 0]
            pairs = (first.cumsum(0) - 1).index_select(0, torch.minimum(positions, self.reverse))
            if self.permutation is not None:
                edges = self.permutation.index_select(0, edges)
                pairs = torch.empty_like(pairs).index_copy_(0, self.permutation, pairs)
            self._pairs = (edges, pairs)
        return self._pairs


def _like(edge_index: Tensor, distances: Tensor | None) -> Tensor:
    # Indices alone follow the default for float32 tensors on their device.
    return distances if distances is not None else edge_index.new_empty(0, dtype=torch.float32)


def _row_pointers(rows: Tensor, count: int) -> Tensor:
    """First position of each row in a sorted list of rows, and the end."""
    bounds = torch.arange(count + 1, dtype=rows.dtype, device=rows.device)
    return torch.searchsorted(rows, bounds, out_int32=True)


def _trace(
    edge_index: Tensor,
    num_src: int,
    num_dst: int,
    distances: Tensor | None,
    knots: Knots | None,
) -> EdgePlan:
    if distances is None or selected_backend(distances) == "reference":
        # Plain PyTorch: nothing that depends on values is traced, and any order of edges will do.
        return EdgePlan(edge_index[0].int(), edge_index[1].int(), num_src, num_dst)
    from . import library

    shortest, longest = 0.0, math.inf
    if knots is not None:
        shortest, longest = knots.start, math.inf if knots.vanishes else knots.stop
    packed, permutation = library.edge_plan(
        edge_index, distances, num_src, num_dst, shortest, longest
    )
    source, target = edge_index.index_select(1, permutation).int()
    return EdgePlan(source, target, num_src, num_dst, permutation=permutation, packed=packed)


def _build_anywhere(
    edge_index: Tensor, num_src: int, num_dst: int, distances: Tensor | None
) -> EdgePlan:
    check_sizes(edge_index.size(1), num_src, num_dst)
    found = plan_tensors.sort_edges(edge_index, num_src, num_dst, distances)
    return EdgePlan(
        found.source,
        found.target,
        num_src,
        num_dst,
        rowptr=_row_pointers(found.target, num_dst),
        permutation=found.permutation,
        reverse=found.reverse,
        extent=found.extent,
    )


def _build_on_cpu(
    edge_index: Tensor, num_src: int, num_dst: int, distances: Tensor | None
) -> EdgePlan:
    from . import plan_kernels

    num_edges = edge_index.size(1)
    check_sizes(num_edges, num_src, num_dst)
    indices = edge_index.contiguous().numpy()
    lengths = distances if distances is not None else torch.zeros(num_edges, device="cpu")
    lengths_array = lengths.contiguous().numpy()
    status, rowptr, source, target, permutation, *extent = plan_kernels.sort_edges(
        indices, lengths_array, num_src, num_dst
    )
    if status == plan_kernels.OUT_OF_RANGE:
        check_indices(edge_index, num_src, num_dst)
    if status == plan_kernels.NO_DISTANCE:
        check_distances(lengths)
    plan = EdgePlan(
        torch.from_numpy(source),
        torch.from_numpy(target),
        num_src,
        num_dst,
        rowptr=torch.from_numpy(rowptr),
        permutation=None if status == plan_kernels.SORTED else torch.from_numpy(permutation),
        extent=None if distances is None else (extent[0], extent[1]),
    )
    if distances is not None and num_src == num_dst:
        if plan.permutation is not None:
            lengths_array = lengths_array[permutation]
        symmetric, reverse, blocks = plan_kernels.match_reverse(
            rowptr, source, lengths_array, NUM_BLOCKS
        )
        if symmetric:
            plan.reverse, plan.blocks = torch.from_numpy(reverse), torch.from_numpy(blocks)
    return plan
