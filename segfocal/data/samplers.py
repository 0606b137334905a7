"""Which samples a process reads, in which order and in which batches.

Orders are drawn in the main process, so that they do not depend on the number of workers.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset, Sampler

from segfocal.data.datasets import Batch, SegmentationDataset
from segfocal.data.sampling import RareImages


class SeededSampler(Sampler[tuple[int, int]]):
    """Shuffled indices, each with the seed of its random numbers, drawn in the main process.

    The order and seeds depend on `seed` and the epoch alone, so any number of workers gives the same batches. The first
    `skip` indices of the next round are left out.

    Of several processes each gets its part of every batch: the batches number k of all `ranks`, put together, are batch
    number k of one process whose batches are `ranks` times as large. What does not fill such a batch is left out, as
    one image alone would upset batch normalisation; but a split smaller than that is one batch.

    >>> one, first, second = SeededSampler(9, 0, 4), SeededSampler(9, 0, 2, 0, 2), SeededSampler(9, 0, 2, 1, 2)
    >>> a, b, c = list(one), list(first), list(second)
    >>> a[:4] == b[:2] + c[:2], a[4:] == b[2:] + c[2:]
    (True, True)
    """

    def __init__(
        self,
        count: int,
        seed: int,
        batch_size: int = 1,
        rank: int = 0,
        ranks: int = 1,
        *,
        rare: RareImages | None = None,
    ) -> None:
        if count < ranks:
            raise ValueError(
                f"Expected an image for each process, got {count} to train on for {ranks} processes. "
                "Lower trainer.devices."
            )
        self.seed = seed
        self.epoch = 0  # of the order to be drawn next
        self.drawn = -1  # of the order drawn last
        self.skip = 0
        self.count = count
        self.rare = rare
        whole = batch_size * ranks
        starts = range(rank * batch_size, count - count % whole, whole)
        self._places = [place for start in starts for place in range(start, start + batch_size)]
        if count < whole:
            self._places = list(range(*_part(count, rank, ranks)))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.drawn = self.epoch
        self.epoch += 1
        order = random.permutation(self.count)
        seeds = random.integers(2**32, size=self.count).tolist()
        if self.rare is not None:
            order = self.rare.replaced(order, random)
        left = [(int(order[place]), seeds[place]) for place in self._places[self.skip :]]
        self.skip = 0
        return iter(left)

    def set_epoch(self, epoch: int) -> None:
        """Go to the order of this epoch; the trainer calls it, a plain loop need not."""
        self.epoch = epoch


@dataclass(frozen=True)
class Filler:
    """The key of an image that counts nowhere, for a process that has no image left while others have."""

    index: int


class WithFillers(Dataset[Batch]):
    """A data set that takes a `Filler` for a key: every label of its item is `ignore_index`, and its name None."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | Filler) -> Batch:
        """Read one sample."""
        if not isinstance(key, Filler):
            return self.dataset[key]
        item = self.dataset[key.index] | {"name": None}
        if "mask" in item:
            item["mask"] = torch.full_like(item["mask"], self.dataset.labels.ignore_index)
        return item


class EqualSizeBatches(BatchSampler):
    """Batches of indices in which all sizes are equal, so that nothing is padded; otherwise in order.

    Of several processes each gets its part of batches that are `ranks` times as large. Every index is in one batch of
    one of them. All have the same number of batches, as they wait for each other; where there are fewer images than
    processes, the batch is one `Filler`.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        drop_last: bool,
        sizes: Sequence[tuple[int, int]],
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.sizes, self.rank, self.ranks = sizes, rank, ranks

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self._whole():
            start, end = _part(len(batch), self.rank, self.ranks)
            yield batch[start:end] or [Filler(batch[0])]

    def _whole(self) -> Iterator[list[int]]:
        """The batches of all processes together."""
        waiting: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in self.sampler:
            batch = waiting[self.sizes[index]]
            batch.append(index)
            if len(batch) == self.batch_size * self.ranks:
                yield waiting.pop(self.sizes[index])
        yield from waiting.values()

    def __len__(self) -> int:
        return sum(1 for _ in self._whole())


def _part(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """Start and end of this process's share of `count` things, which differs by one at most."""
    return rank * count // ranks, (rank + 1) * count // ranks
