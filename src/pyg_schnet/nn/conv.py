r"""The continuous-filter convolution as a layer of PyTorch Geometric."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import Aggregation, MultiAggregation
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.typing import Adj, OptTensor, PairOptTensor, Size
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor, to_edge_index

from ..ops import EdgePlan, Knots, cfconv, has_kernels, transforming
from .checks import check_edge_weight, check_range, longest
from .dense import Dense
from .filters import GaussianFilter, RadialFilter
from .tables import frozen_table, knots_of, offers_table, table_of

MODES = ("auto", "exact", "table")
# What PyG calls around messages; there are no messages in the kernels.
_HOOKS = tuple(
    f"_{stage}_forward_{when}hooks"
    for stage in ("propagate", "message", "aggregate")
    for when in ("", "pre_")
)


class SchNetConv(MessagePassing):
    r"""The continuous-filter convolution from `"SchNet: A Continuous-filter Convolutional Neural
    Network for Modeling Quantum Interactions" <https://arxiv.org/abs/1706.08566>`_.

    .. math::
        \mathbf{x}^{\prime}_i = A_2 \sum_{j \in \mathcal{N}(i)} (A_1 \mathbf{x}_j) \odot
        W(d_{ji}) + \mathbf{b}_2

    where :math:`W: \mathbb{R} \to \mathbb{R}^F` turns the distance :math:`d_{ji}` between two
    atoms into F filter values.

    1. ``lin1``: atom features to F channels.
    2. ``filter``: distances to filters; their elementwise products are summed over neighbours.
    3. ``lin2``: F channels to output features.

    Args:
        in_channels: Size of each input, -1 to infer it; for bipartite graphs a pair, in the order
            of ``x`` (only features of neighbours are used).
        out_channels: Size of each output.
        num_filters: Number F of filters; ``out_channels`` if ``None``.
        filter: Any module from distances ``[E]`` to filters ``[E, F]``; it is also given
            ``edge_attr`` where ``forward`` gets one. ``None`` builds the network of the paper, a
            :class:`GaussianFilter`.
        num_gaussians: Gaussians of the default filter.
        cutoff: Range of the default filter in angstrom; it is zero beyond.
        mode: How filters are evaluated: on every edge (``"exact"``), or on a few hundred radial
            knots and interpolated to 1e-6 (``"table"``), which never makes a tensor of shape
            ``[E, F]``. ``"auto"`` takes tables in float32 where the filter offers them and there
            are kernels for the device. Parameters are the same in all modes. Derivatives by
            distances are those of the interpolation: the second is off by about 1e-3. Aggregations
            other than the sum, explainers, message hooks, sparse matrices and ``edge_attr`` are
            always exact.
        lin1_bias: Whether ``lin1`` has a bias, as in the paper; PyG leaves it out.
        aggr: Aggregation; the sum is what makes energies extensive.
        **kwargs: Further arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** features ``[N, in_channels]`` or a pair of them, ``edge_index`` ``[2, E]``,
          distances ``edge_weight`` ``[E]``, ``edge_attr`` ``[E, ...]``; features of several graphs
          with the same edges may be ``[..., N, in_channels]``
        - **output:** ``[N, out_channels]``, or ``[N_target, out_channels]`` if bipartite

    >>> SchNetConv(64, 64)
    SchNetConv(64, 64)
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        num_filters: int | None = None,
        filter: Callable[..., Tensor] | None = None,
        *,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        mode: str = "auto",
        lin1_bias: bool = False,
        aggr: str | list[str] | Aggregation | None = "sum",
        **kwargs: Any,
    ):
        if kwargs.get("decomposed_layers", 1) > 1:
            raise ValueError(
                "SchNetConv cannot split its channels: filters have num_filters columns. "
                f"Use decomposed_layers=1 (got {kwargs['decomposed_layers']})"
            )
        super().__init__(aggr=aggr, **kwargs)
        if not isinstance(out_channels, int) or out_channels < 1:
            raise ValueError(f"'out_channels' must be at least 1 (got {out_channels!r})")
        num_filters = out_channels if num_filters is None else num_filters
        if not isinstance(num_filters, int) or num_filters < 1:
            raise ValueError(f"'num_filters' must be a positive whole number (got {num_filters!r})")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_filters = num_filters
        # Position of the neighbours in a bipartite pair.
        self._neighbor = 0 if self.flow == "source_to_target" else 1
        channels = in_channels[self._neighbor] if isinstance(in_channels, tuple) else in_channels
        self.lin1 = Dense(channels, num_filters, bias=lin1_bias)
        if filter is None:
            filter = GaussianFilter(num_filters, num_gaussians, cutoff)
        self.filter = filter
        width = num_filters
        if isinstance(self.aggr_module, MultiAggregation):
            width = self.aggr_module.get_out_channels(num_filters)
        self.lin2 = Dense(width, out_channels)
        if mode not in MODES:
            raise ValueError(f"'mode' must be one of {MODES} (got '{mode}')")
        if mode == "table" and not offers_table(self.filter):
            raise ValueError(
                f"the filter {type(self.filter).__name__} offers no table: it must state its "
                "'length_scale' and 'd_min'; use mode='auto' or mode='exact'"
            )
        self.mode = mode
        self._frozen: tuple[Knots, Tensor, Any] | None = None

    def reset_parameters(self) -> None:
        """Draws new weights for the layer and, where it can, for its filter."""
        self._frozen = None
        super().reset_parameters()
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()
        if hasattr(self.filter, "reset_parameters"):
            self.filter.reset_parameters()

    def forward(
        self,
        x: Tensor | PairOptTensor,
        edge_index: Adj | EdgePlan,
        edge_weight: OptTensor = None,
        edge_attr: OptTensor = None,
        size: Size = None,
    ) -> Tensor:
        r"""Convolves atom features with filters of the distances.

        Args:
            x: Features ``[N, in_channels]``, or a pair of a bipartite graph, for the nodes in the
                first and in the second row of ``edge_index``. Those of the targets, which are the
                second by default and the first with ``flow="target_to_source"``, may be ``None`` if
                ``size`` is given.
            edge_index: Edges ``[2, E]``, a sparse adjacency matrix, or the
                :class:`~pyg_schnet.ops.EdgePlan` of a batch, to prepare the edges only once for
                several layers; its destinations receive the messages, whatever the ``flow``.
            edge_weight: Distances ``[E]`` in angstrom, in the order of the edges; of a sparse
                matrix that is the order of its values, which are taken if ``None``.
            edge_attr: Whatever else the filter wants, ``[E, ...]``.
            size: Numbers of nodes of a bipartite graph, in the order of ``x``.

        Raises:
            ValueError: If neither distances nor edge features are given, distances are negative or
                not finite, the filters do not have shape ``[E, num_filters]``, or the number of
                targets cannot be known or is another than that of their features.
        """
        if edge_weight is None and is_torch_sparse_tensor(edge_index):
            edge_weight = to_edge_index(edge_index)[1]
        # Step 1: features of the neighbours; targets only tell how many they are.
        if not isinstance(x, Tensor):
            size = self._bipartite_size(x, edge_index, size)
            x = x[self._neighbor]
        x = self.lin1(x)
        # Step 2: filters, products and their sum.
        if edge_attr is None and self.tabulates(x, edge_index):
            x = self._convolve(x, edge_index, edge_weight, size)
        else:
            square = x.size(-2) if size is None else None
            W = self._filters(edge_weight, edge_attr, edge_index, square)
            if isinstance(edge_index, EdgePlan):
                size = (edge_index.num_src, edge_index.num_dst)
                edge_index = self._oriented(edge_index.edge_index)
            # propagate_type: (x: Tensor, W: Tensor)
            x = self.propagate(edge_index, x=x, W=W, size=size)
        # Step 3
        return self.lin2(x)

    def message(self, x_j: Tensor, W: Tensor) -> Tensor:
        """Multiplies the features of the neighbours ``[E, F]`` by the filters ``[E, F]``."""
        if W.shape != x_j.shape[-2:]:
            raise ValueError(
                f"the filter must give one row of {self.num_filters} values per edge, shape "
                f"{list(x_j.shape[-2:])} (got {list(W.shape)})"
            )
        return x_j * W

    def tabulates(self, x: Tensor, edges: Adj | EdgePlan) -> bool:
        """Whether the convolution of ``x`` along ``edges`` takes its filters from a table."""
        plain = isinstance(edges, EdgePlan) or not is_sparse(edges)
        return (
            plain
            and x.dim() == 2
            and self.has_table()
            and not self.has_message_hooks()
            and type(self).message is SchNetConv.message
            and type(self).propagate is SchNetConv.propagate
        )

    def has_table(self) -> bool:
        """Whether mode, filter and aggregation allow filters from a table."""
        if self.mode == "exact" or self.aggr not in ("sum", "add") or self.explain:
            return False
        if not offers_table(self.filter):
            return False
        if self.mode == "table":
            return True
        weight = self._weight
        return weight.dtype == torch.float32 and has_kernels(weight)

    def has_message_hooks(self) -> bool:
        """Whether somebody listens to the messages, of which the kernels have none."""
        return any(map(self.__dict__.get, _HOOKS))

    def _convolve(
        self, x: Tensor, edges: Tensor | EdgePlan, edge_weight: OptTensor, size: Size
    ) -> Tensor:
        """Sum over neighbours ``[N_target, F]`` with filters from a table."""
        check_edge_weight(edge_weight)
        weight = self._weight
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._convolve(x.to(weight.dtype), edges, edge_weight, size)
        distances = edge_weight.to(weight.dtype)
        if isinstance(edges, EdgePlan):
            plan = edges if edges.mutual else self._verified(edges, distances)
        else:
            # The kernels know sources and targets only.
            size = (x.size(0), x.size(0)) if size is None else self._oriented(size)
            plan = EdgePlan.build(self._oriented(edges), size, distances, self.knots_for)
        plan = self._with_knots(plan, distances)
        table = self.table(plan.require_knots())
        if table.size(1) != self.num_filters:
            raise ValueError(
                f"the filter must give one row of {self.num_filters} values per edge "
                f"(got {table.size(1)})"
            )
        out = cfconv(x, distances, table, plan)
        if plan.short is not None:  # too short for the table
            j, i = plan.edge_index[:, plan.short]
            out = out.index_add(0, i, x[j] * self.filter(distances[plan.short]))
        return out

    def _verified(self, plan: EdgePlan, distances: Tensor) -> EdgePlan:
        """A plan of the user's own, which may have been made for other distances."""
        if torch.compiler.is_compiling():
            return plan
        if plan.reverse is not None:
            arranged = plan.arrange(distances)
            if not torch.equal(arranged, arranged[plan.reverse.long()]):
                raise ValueError(
                    "the EdgePlan was built from distances that are the same in both directions, "
                    "these are not: build a new one"
                )
        if plan.knots is not None:
            plan = plan.with_knots(self.knots_for(longest(distances)), distances)
        return plan

    def _with_knots(self, plan: EdgePlan, distances: Tensor) -> EdgePlan:
        if self.is_frozen and plan.knots == self.frozen_knots:
            return plan
        knots = knots_of(self.filter)
        if plan.knots is not None and plan.knots.spacing == knots.spacing:
            same = plan.knots.start == knots.start and plan.knots.intervals <= knots.intervals
            if same and (plan.knots == knots or not plan.knots.vanishes):
                return plan
        return plan.with_knots(self.knots_for(longest(distances)), distances)

    def knots_for(self, longest: float) -> Knots:
        """Knots of the table for distances up to the longest: the frozen ones, or those needed."""
        if self.is_frozen and not torch.is_grad_enabled():
            return self.frozen_knots
        knots = knots_of(self.filter)
        return knots if torch.compiler.is_compiling() else knots.covering(longest)

    def table(self, knots: Knots) -> Tensor:
        """Spline coefficients of the filter ``[K, F]``: the frozen ones, or those of now."""
        frozen = None if torch.is_grad_enabled() or not self.is_frozen else self._frozen
        if frozen is not None and knots == frozen[0]:
            return frozen[1]
        weight = self._weight
        return table_of(self.filter, knots, weight.dtype, weight.device)

    def freeze(self, knots: Knots | None = None) -> "SchNetConv":
        """Keeps the table of the present weights for inference, until :meth:`thaw`.

        The knots are made twice as dense until halfway between them the error is below 1e-6 of the
        largest filter value. Training mode, loading weights and moving the layer thaw it.

        Args:
            knots: Knots to begin with; those of training if ``None``.

        Raises:
            ValueError: If the filter offers no table.
        """
        knots, table = frozen_table(self.filter, knots)
        self._frozen = (knots, table.to(self._weight), self.filter)
        return self

    @property
    def frozen_knots(self) -> Knots:
        """Knots of the frozen table.

        Raises:
            RuntimeError: If the layer is not frozen.
        """
        if self._frozen is None:
            raise RuntimeError("the layer is not frozen: call freeze() first")
        return self._frozen[0]

    @property
    def is_frozen(self) -> bool:
        """Whether a table of the present filter is kept."""
        return self._frozen is not None and self._frozen[2] is self.filter

    def thaw(self) -> None:
        """Forgets the table that :meth:`freeze` made."""
        self._frozen = None

    def train(self, mode: bool = True) -> "SchNetConv":
        """Sets training mode, which forgets tables."""
        if mode:
            self.thaw()
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> "SchNetConv":
        self.thaw()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.thaw()
        super()._load_from_state_dict(*args, **kwargs)

    def _oriented(self, pair: Any) -> Any:
        """Sources first, whichever way messages flow."""
        if self._neighbor == 0:
            return pair
        return pair.flip(0) if isinstance(pair, Tensor) else pair[::-1]

    def _filters(
        self,
        edge_weight: OptTensor,
        edge_attr: OptTensor,
        edges: Adj | EdgePlan,
        num_nodes: int | None,
    ) -> Tensor:
        """Filters ``[E, F]``, evaluated on edges; ``num_nodes`` if the graph is not bipartite."""
        if edge_attr is None or edge_weight is not None:
            check_edge_weight(edge_weight)
        if edge_weight is not None:
            edge_weight = edge_weight.to(self._weight.dtype)
            compiling = torch.compiler.is_compiling()
            if not (compiling or transforming() or isinstance(edges, EdgePlan)):
                check_range(edge_weight)
        if edge_attr is not None:
            if isinstance(self.filter, RadialFilter):
                raise ValueError(
                    "the filter takes distances only, but 'edge_attr' was given: leave it out, or "
                    "give a 'filter' of distances and edge features"
                )
            return self.filter(*(e for e in (edge_weight, edge_attr) if e is not None))
        # Both directions of a pair can share a filter, unless each distance wants its derivative.
        apart = edge_weight.requires_grad or transforming()
        mutual = isinstance(edges, EdgePlan) and edges.mutual
        shared = offers_table(self.filter) and (mutual or not apart)
        shared = shared and not (compiling or is_sparse(edges))
        if isinstance(edges, Tensor) and shared and num_nodes is not None:
            edges = EdgePlan.build(edges, num_nodes, edge_weight)
        if shared and isinstance(edges, EdgePlan) and edges.symmetric:
            representatives, pairs = edges.undirected()
            return self.filter(edge_weight[representatives])[pairs]
        return self.filter(edge_weight)

    def _bipartite_size(self, x: PairOptTensor, edge_index: Adj, size: Size) -> Size:
        if x[self._neighbor] is None:
            raise ValueError(
                f"the features of the neighbours are missing: x[{self._neighbor}] is None"
            )
        for k, (given, features) in enumerate(zip(size or (None, None), x)):
            if given is not None and features is not None and features.size(-2) != given:
                raise ValueError(
                    f"'size' says {given} nodes, but x[{k}] has features of {features.size(-2)}"
                )
        if size is not None or isinstance(edge_index, EdgePlan) or is_sparse(edge_index):
            return size
        if x[1 - self._neighbor] is None:
            raise ValueError(
                "the number of targets is unknown: give features for them in 'x', or "
                "'size=(num_sources, num_targets)'"
            )
        return x[0].size(-2), x[1].size(-2)

    @property
    def _weight(self) -> Tensor:
        """A weight, for its dtype and device; also where ``lin1`` has been exchanged."""
        return self.lin1.weight if type(self.lin1) is Linear else next(self.parameters())
