"""Which samples to show, so that rare classes are seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfocal.data.labels import Labels
from segfocal.data.parallel import in_parallel
from segfocal.data.samples import Sample

Array = NDArray[Any]

LOOKED_AT = 64  # masks that are decoded, of however many there are


def samples_of_all_classes(samples: Sequence[Sample], labels: Labels, count: int) -> list[int]:
    """Choose samples that together show every class, the rare ones too.

    The masks of up to 64 samples, evenly spread over `samples`, are read. Then one after the other is taken: the one
    with the most pixels of the class that the ones before it show least, where a class counts as shown once when the
    sample that has most of it is taken.

    Args:
        samples: At least one.
        labels: The legal labels.
        count: How many to choose; fewer come back if there are fewer.

    Returns:
        Their indices, rising; the same ones in every call.

    Raises:
        DataError: If a mask cannot be read.
    """
    spread = evenly_spread(len(samples), max(count, LOOKED_AT))

    def counted(index: int) -> Array:
        return labels.counts(samples[index].mask(labels))

    pixels = np.stack(in_parallel(counted, spread, "Looking for classes"))  # (samples, classes)
    pixels = pixels[:, np.argsort(pixels.sum(0), kind="stable")]  # rare classes first, which decides between equals
    gains = pixels / np.maximum(pixels.max(0), 1)
    shown = np.zeros(gains.shape[1])
    chosen: list[int] = []
    while len(chosen) < min(count, len(spread)):
        wanted = np.where(gains.max(0) > 0, shown, np.inf).argmin()
        best = int(gains[:, wanted].argmax())
        chosen.append(best)
        shown += gains[best]
        gains[best] = -1  # taken
    return sorted(spread[best] for best in chosen)


def evenly_spread(length: int, count: int) -> list[int]:
    """Up to `count` of the indices below `length`, from the first to the last.

    >>> evenly_spread(10, 4)
    [0, 3, 6, 9]
    """
    return [round(place) for place in np.linspace(0, length - 1, min(length, count))]
