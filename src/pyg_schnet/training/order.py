r"""The order in which training goes through the molecules."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


class BatchOrder(Sampler[list[int]]):
    """Batches in a new order each epoch, from seed and epoch alone.

    So a resumed run sees the same batches. Of R processes, the r-th gets molecules r, r + R,
    r + 2R, ... of a batch. One that would get nothing gets a molecule of another, only to take
    part: it must not count, see :meth:`stands_in`.

    Args:
        size: Molecules in the training set.
        batch_size: Molecules per batch of all processes; the last of an epoch may have fewer.
        seed: Seed of all orders.
        rank: Number of this process.
        world_size: Number of processes.

    >>> [list(BatchOrder(5, 3, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    [[[4, 1], [3]], [[0], [2]]]
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0
        self.rank, self.world_size = rank, world_size

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """The molecules of each batch of an epoch, of all processes."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.size, generator=generator).split(self.batch_size)

    def share(self, batch: Tensor) -> Tensor:
        """The molecules of this process in a batch, one at least."""
        return batch[self.rank :: self.world_size] if self.rank < len(batch) else batch[:1]

    def stands_in(self, number: int) -> bool:
        """Whether what this process has of a batch of an epoch belongs to another."""
        return self.rank >= min(self.batch_size, self.size - number * self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.share(batch).tolist() for batch in self.batches(self.epoch))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)
