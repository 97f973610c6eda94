"""Data sets in memory, and a comparison of batches down to what PyG keeps private."""

from typing import Any

import torch
from torch_geometric.data import InMemoryDataset
from torch_geometric.data.data import BaseData


class InMemory(InMemoryDataset):
    """Some molecules, collated."""

    def __init__(self, molecules: list, transform: Any = None):
        super().__init__(None, transform)
        self._data, self.slices = self.collate(molecules)


def assert_same(one: Any, two: Any, where: str = "") -> None:
    """Compares what may be in a batch, dtypes and private entries included."""
    assert type(one) is type(two), where
    if isinstance(one, BaseData):
        assert len(one.stores) == len(two.stores)
        for left, right in zip(one.stores, two.stores):
            assert list(left.keys()) == list(right.keys()), where
            private = [
                {name: value for name, value in store.__dict__.items() if name != "_parent"}
                for store in (left, right)
            ]
            assert_same(*private, where)
            assert left._parent() is not None
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert one.layout == two.layout, where
        assert one.device == two.device, where
        assert one.shape == two.shape, where
        if one.layout == torch.strided:
            assert torch.equal(one, two), where
        else:
            assert torch.equal(one.to_dense(), two.to_dense()), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for left, right in zip(one, two, strict=True):
            assert_same(left, right, where)
    else:
        assert one == two, where
