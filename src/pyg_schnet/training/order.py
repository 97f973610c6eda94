r"""The order in which training goes through the molecules."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


class BatchOrder(Sampler[list[int]]):
    """Batches in a new order each epoch, from seed and epoch alone.

    So a resumed run sees the same batches.

    Args:
        size: Molecules in the training set.
        batch_size: Molecules per batch; the last of an epoch may have fewer.
        seed: Seed of all orders.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """The molecules of each batch of an epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.size, generator=generator).split(self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches(self.epoch))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)
