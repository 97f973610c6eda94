r"""Mini-batches of molecules, fast."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler, Subset
from torch_geometric.data import Batch, Data, Dataset, InMemoryDataset
from torch_geometric.loader.dataloader import Collater

from .data.slicer import Slicer, UnsliceableError, edges_to_add
from .graph import RadiusGraph


class MoleculeLoader:
    r"""Loads a data set in batches, as :class:`torch_geometric.loader.DataLoader` does, but faster.

    The batches are those of PyG's loader, field by field, and in the same order for the same
    generator. They are cut out of the collated tensors of an ``InMemoryDataset`` (or of views of
    one: ``dataset[:100]``, ``torch.utils.data.Subset``), all molecules at once, so no workers are
    needed. The tensors are those that the data set has when the loader is made.

    Other data go PyG's way, molecule by molecule, to the same batches in the same order;
    :attr:`reason` then says why. These are data sets with a ``transform`` or with access methods of
    their own, lists of ``Data``, data sets of one molecule, ``HeteroData`` and kinds of ``Data``
    with rules of their own for batching, a ``num_nodes`` set by hand or to be guessed, and fields
    that are sparse, nested, dictionaries, lists of other things than strings, or tensors with
    ``batch`` in their name.

    With ``cutoff`` molecules get what :class:`~pyg_schnet.RadiusGraph` stores: ``edge_index``
    ``[2, E]``, ``edge_weight`` ``[E]`` and ``cutoff`` ``[B]``. They are found anew for each batch,
    which takes less time than to fetch stored ones from all over the memory, and no memory (on QM9
    within 5 angstrom: 0.8 GB). Edges that the data set stores within just this cutoff are kept.

    Every ``iter(loader)`` begins an epoch, also where the one before was broken off. Samplers with
    a ``set_epoch`` are told its number. :meth:`state_dict` lets a loader resume within an epoch; it
    knows of one iteration at a time.

    Args:
        dataset: Molecules.
        batch_size: Molecules per batch.
        shuffle: Whether each epoch goes through the molecules in a new random order.
        generator: Source of that order. By default one that is seeded once, here, from PyTorch's
            global random numbers.
        sampler: Indices of molecules, in place of ``shuffle``, such as
            :class:`torch.utils.data.DistributedSampler`.
        batch_sampler: Lists of indices, in place of all of these.
        drop_last: Whether to leave out a last batch that is not full.
        cutoff: Radius of the edges in the unit of ``pos``; ``math.inf`` gives all pairs.
        device: Where the batches are. The tensors are moved there once; only row numbers and edges
            are for each batch. By default where the data are.
        follow_batch: Fields that get assignment vectors of their own, as in PyG.
        exclude_keys: Fields to leave out, as in PyG.

    Attributes:
        epoch: Number of the present epoch, or of the next, from 0.
        reason: Why the batches are made molecule by molecule; ``None`` where they are cut out.

    Raises:
        TypeError: If ``dataset`` has no length and indices, or ``batch_size`` is no whole number.
        ValueError: If the data set is empty, arguments contradict each other, the molecules have
            other edges than those asked for, or only some of a batch have a cell (PyG would drop
            it).
        IndexError: If a sampler gives an index that is out of range.

    >>> from pyg_schnet.datasets import QM9Sample
    >>> loader = MoleculeLoader(QM9Sample(), batch_size=32, shuffle=True, cutoff=5.0)
    >>> len(loader), next(iter(loader)).num_graphs
    (92, 32)
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[Data],
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        generator: torch.Generator | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        drop_last: bool = False,
        cutoff: float | None = None,
        device: torch.device | str | None = None,
        follow_batch: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
    ):
        _check_arguments(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last, cutoff)
        self.dataset = dataset
        self.batch_size = batch_size if batch_sampler is None else None
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        self.epoch = 0
        self.reason: str | None = None
        self._shuffle = shuffle
        if shuffle and generator is None:
            seed = int(torch.empty((), dtype=torch.long, device="cpu").random_())
            self.generator = torch.Generator().manual_seed(seed)

        device = None if device is None else torch.device(device)
        follow, exclude = tuple(follow_batch or ()), tuple(exclude_keys or ())
        self._make: Callable[[np.ndarray], Batch]
        try:
            base, self._numbers = _behind_views(dataset)
            self._make = Slicer(base, cutoff, device, exclude, follow)
        except UnsliceableError as error:
            self.reason = str(error)
            self._numbers = np.arange(len(dataset))
            self._make = _Collater(dataset, cutoff, device, exclude, follow)

        given = (batch_sampler, getattr(batch_sampler, "sampler", None), sampler)
        self._samplers = [one for one in given if one is not None]
        self._told = self._epoch_of_samplers()
        self._within = False  # an epoch that has begun, and not ended
        self._position = 0  # batches of it that were handed out
        self._resuming = False
        self._begin: Tensor | None = None  # state of the random numbers as it began

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type] # most have one
        count = len(self._numbers if self.sampler is None else self.sampler)  # type: ignore[arg-type]
        assert self.batch_size is not None
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        told = self._epoch_of_samplers()
        if self._resuming:
            self._resuming = False
        else:
            self._position = 0
            self.epoch += self._within
            if told != self._told:  # the user has called set_epoch
                assert told is not None
                self.epoch = told
        for sampler in self._samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.epoch)
        self._told = self._epoch_of_samplers()
        self._within = True
        source = self._random_source()
        self._begin = None if source is None else source.get_state()
        if self._shuffle:
            # PyTorch's loader draws a seed for its workers first.
            torch.empty((), dtype=torch.long, device="cpu").random_(generator=self.generator)
        return self._run(islice(self._choices(), self._position, None))

    def _run(self, choices: Iterator[np.ndarray]) -> Iterator[Batch]:
        for numbers in choices:
            batch = self._make(numbers)
            self._position += 1
            yield batch
        self.epoch += 1
        self._position = 0
        self._within = False

    def _choices(self) -> Iterator[np.ndarray]:
        """The numbers of the molecules of each batch of an epoch, ``[B]``."""
        batches = self.batch_sampler
        if self.sampler is not None:
            batches = BatchSampler(self.sampler, self.batch_size, self.drop_last)  # type: ignore[arg-type]
        if batches is not None:
            for indices in batches:
                yield _take(self._numbers, indices)
            return
        order = self._numbers
        if self._shuffle:
            # To its end, behind which the sampler may draw once more.
            order = order[list(RandomSampler(order, generator=self.generator))]
        assert self.batch_size is not None
        for i in range(len(self)):
            yield order[i * self.batch_size : (i + 1) * self.batch_size]

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Lets the next iteration begin elsewhere.

        What is random in the order comes from samplers that follow the number of the epoch; that of
        ``shuffle=True`` goes on from where the generator is.

        Args:
            epoch: Number of the epoch.
            position: Batches of it to leave out, as they have been.

        Raises:
            ValueError: If one of them is negative.
        """
        if epoch < 0 or position < 0:
            raise ValueError(f"epoch and position must not be negative (got {epoch}, {position})")
        self.epoch, self._position, self._resuming, self._within = epoch, position, True, False
        source = self._random_source()
        self._begin = None if source is None else source.get_state()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, between any two batches.

        Returns:
            ``epoch``, ``position`` (batches of that epoch handed out), ``generator`` (state as the
            epoch began, uint8 tensor or ``None``), and by what to notice another loader:
            ``batch_size`` and ``num_molecules``.

        Raises:
            RuntimeError: If a sampler draws from the global random numbers, so that its order
                cannot be repeated.
        """
        for sampler in self._samplers:
            if getattr(sampler, "generator", self) is None:
                raise RuntimeError(
                    f"the order of {type(sampler).__name__} cannot be repeated: give it a "
                    "'generator' of its own"
                )
        source = self._random_source()
        begin = self._begin
        if not (self._within or self._resuming):
            begin = None if source is None else source.get_state()
        return {
            "epoch": self.epoch,
            "position": self._position,
            "generator": begin,
            "batch_size": self.batch_size,
            "num_molecules": len(self._numbers),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next iteration go on where another loader was, made with the same arguments.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            ValueError: If it is the state of a loader of other batches.
        """
        here = {"batch_size": self.batch_size, "num_molecules": len(self._numbers)}
        for name, value in here.items():
            if state[name] != value:
                raise ValueError(
                    f"this is the state of another loader: {name} was {state[name]} and is "
                    f"{value}; resume with the same data and settings"
                )
        source = self._random_source()
        if (source is None) != (state["generator"] is None):
            raise ValueError(
                "this is the state of another loader: one of them has a random order and the other "
                "has not; resume with the same 'shuffle' and 'sampler'"
            )
        if source is not None:
            source.set_state(state["generator"])
        self.set_epoch(state["epoch"], state["position"])

    def _random_source(self) -> torch.Generator | None:
        if self._shuffle:
            return self.generator
        sources = [getattr(sampler, "generator", None) for sampler in self._samplers]
        return next((one for one in sources if isinstance(one, torch.Generator)), None)

    def _epoch_of_samplers(self) -> int | None:
        for sampler in self._samplers:
            if hasattr(sampler, "set_epoch") and hasattr(sampler, "epoch"):
                return sampler.epoch
        return None

    def __repr__(self) -> str:
        how = "" if self.reason is None else f", molecule by molecule: {self.reason}"
        return f"{type(self).__name__}({len(self._numbers)}, batch_size={self.batch_size}{how})"


class _Collater:
    """PyG's way of making a batch."""

    def __init__(
        self,
        dataset: Dataset | Sequence[Data],
        cutoff: float | None,
        device: torch.device | None,
        exclude: Sequence[str],
        follow: Sequence[str],
    ):
        self._dataset, self._cutoff, self._device, self._exclude = dataset, cutoff, device, exclude
        self._collate = Collater(dataset, list(follow), list(exclude))
        if cutoff is not None:
            self._collate = Collater(dataset, list(follow))
            self._with_edges(dataset[0])  # complains early

    def __call__(self, numbers: np.ndarray) -> Batch:
        molecules = [self._dataset[i] for i in numbers.tolist()]
        _check_cells(molecules)
        if self._cutoff is not None:
            molecules = [self._with_edges(data) for data in molecules]
        batch = self._collate(molecules)
        if self._device is None or self._device.type == "cpu":
            return batch if self._device is None else batch.to(self._device)
        if self._device.type == "cuda":
            return batch.pin_memory().to(self._device, non_blocking=True)
        return batch.to(self._device)

    def _with_edges(self, data: Data) -> Data:
        data = copy.copy(data)
        for key in self._exclude:
            if key in data:
                del data[key]
        radius = edges_to_add(data.to_dict(), self._cutoff)
        return data if radius is None else RadiusGraph(radius)(data)


def _check_cells(molecules: Sequence[Any]) -> None:
    """Refuses molecules of which only some have a cell: PyG would forget those cells in silence."""
    for key in ("cell", "pbc"):
        having = [data.get(key) is not None for data in molecules if isinstance(data, Data)]
        if any(having) and not all(having):
            raise ValueError(
                f"some molecules of a batch have '{key}' and others have not (molecule "
                f"{having.index(False)} of the batch): give the latter cell=torch.zeros(1, 3, 3) "
                "with pbc=torch.zeros(1, 3, dtype=torch.bool)"
            )


def _check_arguments(
    dataset: Any,
    batch_size: int,
    shuffle: bool,
    sampler: Any,
    batch_sampler: Any,
    drop_last: bool,
    cutoff: float | None,
) -> None:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(f"'dataset' must have a length and indices (got {type(dataset).__name__})")
    if len(dataset) == 0:
        raise ValueError("the data set is empty: there are no molecules to load")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"'batch_size' must be a whole number (got {batch_size!r})")
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size})")
    if sampler is not None and shuffle:
        raise ValueError("'sampler' gives the order, which contradicts shuffle=True: use one")
    if batch_sampler is not None and (
        batch_size != 1 or shuffle or drop_last or sampler is not None
    ):
        raise ValueError(
            "'batch_sampler' makes the batches, which contradicts 'batch_size', 'shuffle', "
            "'sampler' and 'drop_last': leave those out"
        )
    if cutoff is not None and not cutoff > 0:
        raise ValueError(f"'cutoff' must be positive (got {cutoff})")


def _behind_views(dataset: Any) -> tuple[InMemoryDataset, np.ndarray]:
    """The data set that holds the tensors, and the numbers of the molecules in it."""
    if type(dataset) is Subset:
        base, numbers = _behind_views(dataset.dataset)
        return base, _take(numbers, dataset.indices)
    if not isinstance(dataset, InMemoryDataset):
        raise UnsliceableError(f"{type(dataset).__name__} is no InMemoryDataset")
    numbers = np.asarray(dataset.indices(), dtype=np.int64)
    if numbers.min() < 0 or numbers.max() >= dataset.len():
        raise IndexError(
            f"the view has molecules {numbers.min()} to {numbers.max()} of a data set of "
            f"{dataset.len()}"
        )
    return dataset, numbers


def _take(numbers: np.ndarray, indices: Sequence[int]) -> np.ndarray:
    """The numbers at some indices, which may count from the end."""
    wanted = np.asarray(indices)
    if wanted.size == 0:
        raise ValueError("a sampler gave an empty list of molecules: a batch needs one at least")
    if wanted.dtype.kind not in "iu" or wanted.ndim != 1:
        raise TypeError(f"indices of molecules must be whole numbers (got {indices!r})")
    try:
        return numbers[wanted]
    except IndexError as error:
        size = len(numbers)
        wrong = int(wanted[(wanted < -size) | (wanted >= size)][0])
        raise IndexError(
            f"there is no molecule {wrong}: the data set has {size}, from 0 to {size - 1}"
        ) from error
