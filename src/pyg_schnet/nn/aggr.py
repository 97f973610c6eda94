r"""Aggregation through torch-scatter, where that is installed."""

from torch import Tensor
from torch_geometric.nn.aggr import Aggregation


class ScatterSum(Aggregation):
    r"""Sum over neighbours by ``torch_scatter.scatter_sum``.

    Gives what ``aggr="sum"`` gives; for those whose torch-scatter is faster on their hardware::

        SchNetConv(64, 64, aggr=ScatterSum())

    It can be differentiated twice, so forces can be trained through it. The ``segment_*`` functions
    of torch-scatter cannot: their second derivatives are empty.

    Raises:
        ImportError: If torch-scatter is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import torch_scatter
        except ImportError as error:
            raise ImportError(
                "ScatterSum needs the package torch-scatter: pip install pyg-schnet[ext], "
                "or use aggr='sum'"
            ) from error
        self._scatter_sum = torch_scatter.scatter_sum

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        """Sums messages ``[E, F]`` by ``index`` ``[E]`` into ``[dim_size, F]``."""
        self.assert_index_present(index)
        return self._scatter_sum(x, index, dim=dim, dim_size=dim_size)
