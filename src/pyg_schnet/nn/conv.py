r"""The continuous-filter convolution as a layer of PyTorch Geometric."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.typing import Adj, OptTensor, PairOptTensor, Size

from .dense import Dense
from .filters import GaussianFilter


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
        in_channels: Size of each input, -1 to infer it; for bipartite graphs a pair (only the
            sources are used).
        out_channels: Size of each output.
        num_filters: Number F of filters; ``out_channels`` if ``None``.
        filter: Any module from distances ``[E]`` to filters ``[E, F]``; it is also given
            ``edge_attr`` where ``forward`` gets one. ``None`` builds the network of the paper, a
            :class:`GaussianFilter`.
        num_gaussians: Gaussians of the default filter.
        cutoff: Range of the default filter in angstrom; it is zero beyond.
        lin1_bias: Whether ``lin1`` has a bias, as in the paper; PyG leaves it out.
        aggr: Aggregation; the sum is what makes energies extensive.
        **kwargs: Further arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** features ``[N, in_channels]`` or a pair of them, ``edge_index`` ``[2, E]``,
          distances ``edge_weight`` ``[E]``, ``edge_attr`` ``[E, ...]``
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
        num_filters = out_channels if num_filters is None else num_filters
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_filters = num_filters
        # Position of the neighbours in a bipartite pair.
        self._neighbor = 0 if self.flow == "source_to_target" else 1
        channels = in_channels[self._neighbor] if isinstance(in_channels, tuple) else in_channels
        self.lin1 = Dense(channels, num_filters, bias=lin1_bias)
        self.filter = filter or GaussianFilter(num_filters, num_gaussians, cutoff)
        self.lin2 = Dense(num_filters, out_channels)

    def reset_parameters(self) -> None:
        """Draws new weights for the layer and, where it can, for its filter."""
        super().reset_parameters()
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()
        if hasattr(self.filter, "reset_parameters"):
            self.filter.reset_parameters()

    def forward(
        self,
        x: Tensor | PairOptTensor,
        edge_index: Adj,
        edge_weight: OptTensor = None,
        edge_attr: OptTensor = None,
        size: Size = None,
    ) -> Tensor:
        r"""Convolves atom features with filters of the distances.

        Args:
            x: Features ``[N, in_channels]``, or a pair for sources and targets of a bipartite
                graph; the targets may be ``None`` if ``size`` is given.
            edge_index: Edges ``[2, E]``, or a sparse adjacency matrix.
            edge_weight: Distances ``[E]`` in angstrom.
            edge_attr: Whatever else the filter wants, ``[E, ...]``.
            size: Numbers of sources and targets of a bipartite graph.

        Raises:
            ValueError: If neither distances nor edge features are given, the filters do not have
                shape ``[E, num_filters]``, or the number of targets cannot be known.
        """
        # Step 1: features of the neighbours; targets only tell how many they are.
        if not isinstance(x, Tensor):
            size = self._bipartite_size(x, edge_index, size)
            x = x[self._neighbor]
        x = self.lin1(x)
        # Step 2: filters, products and their sum.
        W = self._filters(edge_weight, edge_attr)
        # propagate_type: (x: Tensor, W: Tensor)
        x = self.propagate(edge_index, x=x, W=W, size=size)
        # Step 3
        return self.lin2(x)

    def message(self, x_j: Tensor, W: Tensor) -> Tensor:
        """Multiplies the features of the neighbours ``[E, F]`` by the filters ``[E, F]``."""
        if W.shape != x_j.shape:
            raise ValueError(
                f"the filter must give one row of {self.num_filters} values per edge, shape "
                f"{list(x_j.shape)} (got {list(W.shape)})"
            )
        return x_j * W

    def _filters(self, edge_weight: OptTensor, edge_attr: OptTensor) -> Tensor:
        if edge_weight is None and edge_attr is None:
            raise ValueError(
                "SchNetConv needs the distances 'edge_weight' [E], or an 'edge_attr' for filters "
                "that do not take distances; pyg_schnet.RadiusGraph stores distances in the data"
            )
        if edge_weight is not None and edge_weight.dim() != 1:
            raise ValueError(
                f"'edge_weight' must have shape [E] (got {list(edge_weight.shape)}); "
                "flatten the distances"
            )
        return self.filter(*(given for given in (edge_weight, edge_attr) if given is not None))

    def _bipartite_size(self, x: PairOptTensor, edge_index: Adj, size: Size) -> Size:
        if size is not None or not isinstance(edge_index, Tensor) or edge_index.is_sparse:
            return size
        if x[1 - self._neighbor] is None:
            raise ValueError(
                "the number of targets is unknown: give features for them in 'x', or "
                "'size=(num_sources, num_targets)'"
            )
        return x[0].size(0), x[1].size(0)
