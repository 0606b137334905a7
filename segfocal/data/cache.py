"""Decoded samples in memory that all workers share, so that each file is decoded once and not once per epoch.

Shapes: C classes, D bands, H0 x W0 pixels of the stored image and mask.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segfocal.data.labels import Labels
from segfocal.data.samples import FileSample, Sample

Array = NDArray[Any]

_IMAGE, _MASK = 0, 1


class Cache:
    """Samples that keep what they decode, filled as they are asked for, by whichever worker comes first.

    The memory belongs to no file: it is gone with the last process that uses it, however that ends. What does not have
    the size that its sample announces is decoded each time.

    Args:
        samples: What to keep.
        labels: The legal labels, which decide whether a pixel of a mask needs one byte or two.
    """

    def __init__(self, samples: Sequence[Sample], labels: Labels) -> None:
        self.samples = samples
        self._ends = np.cumsum([part for sample in samples for part in _bytes(sample, labels)])
        self._memory = _shared(int(self._ends[-1]))
        self._filled = _shared(2 * len(samples))  # 0, or the bytes per value of what is there

    def __getitem__(self, index: int) -> "Kept":
        """The sample of that index."""
        return Kept(self, index)

    def get(self, index: int, part: int, shape: tuple[int, ...], decode: Callable[[], Array]) -> Array:
        """A copy of what is kept, else what `decode` returns, which is kept from now on if it has that shape."""
        place = 2 * index + part
        start = self._ends[place - 1] if place else 0
        kept, filled = self._memory.numpy()[start : self._ends[place]], self._filled.numpy()
        if width := int(filled[place]):
            dtype = np.uint8 if width == 1 else np.uint16
            return np.array(kept[: width * int(np.prod(shape))].view(dtype).reshape(shape))
        array = decode()
        if array.shape == shape and array.dtype in (np.uint8, np.uint16) and array.nbytes <= kept.nbytes:
            kept[: array.nbytes] = array.reshape(-1).view(np.uint8)
            filled[place] = array.itemsize  # last, so that nobody reads what is not there yet
        return array


class Kept:
    """A sample of a cache."""

    def __init__(self, cache: Cache, index: int) -> None:
        self._cache, self._index = cache, index
        self._sample = cache.samples[index]
        self.name, self.path, self.size = self._sample.name, self._sample.path, self._sample.size

    def image(self) -> Array:
        """Return the pixels (H0, W0, D) uint8."""
        return self._cache.get(self._index, _IMAGE, (*self.size, _bands(self._sample)), self._sample.image)

    def mask(self, labels: Labels) -> Array:
        """Return labels (H0, W0) or dense (C, H0, W0), uint8 or uint16, checked when they were decoded."""
        shape = (labels.num_classes, *self.size) if labels.dense else self.size
        return self._cache.get(self._index, _MASK, shape, lambda: self._sample.mask(labels))


def check_room(samples: Sequence[Sample], labels: Labels) -> None:
    """Find out whether these samples fit into memory once they are decoded.

    Raises:
        ValueError: They do not.
    """
    need, room = sum(sum(_bytes(sample, labels)) for sample in samples), free_memory()
    if need > 0.9 * room:  # the rest is for everybody else
        raise ValueError(
            f"Expected `cache` to fit into memory: {len(samples)} images and masks take {need / 2**30:.2f} GiB when "
            f"decoded, {room / 2**30:.2f} GiB are free. Leave `cache` out, or store smaller images."
        )


def free_memory() -> int:
    """Bytes that this process and its workers may still share: the machine's, the container's, those of /dev/shm."""
    rooms = [2**63]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        rooms += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        memory = os.statvfs("/dev/shm")
        rooms.append(memory.f_bavail * memory.f_frsize)
        limit, used = (Path(f"/sys/fs/cgroup/memory.{what}").read_text(encoding="ascii") for what in ("max", "current"))
        rooms += [int(limit) - int(used)] if limit.strip() != "max" else []
    except OSError:  # not Linux, or a container without limits
        pass
    return min(rooms)


def _bytes(sample: Sample, labels: Labels) -> tuple[int, int]:
    """Of the image and of the mask; even, so that 16-bit labels lie where they must."""
    pixels = sample.size[0] * sample.size[1]
    image = _bands(sample) * pixels
    mask = np.dtype(labels.dtype).itemsize * pixels * (labels.num_classes if labels.dense else 1)
    return image + image % 2, mask + mask % 2


def _bands(sample: Sample) -> int:
    return sample.bands.count if isinstance(sample, FileSample) else 3


def _shared(count: int) -> torch.Tensor:
    """Bytes that are 0, shared with forked and spawned processes, and taken from the machine when they are written."""
    storage = torch.UntypedStorage._new_shared(max(count, 1), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
