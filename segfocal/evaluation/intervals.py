"""How sure scores are: 95 % intervals over images.

Shapes: N images, C classes. Resampled are whole images, as the pixels of one are alike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from segfocal.evaluation.scores import Values, ratio

Counts = NDArray[np.int64]  # pixels per image and class, (N, C, 3): right, predicted, in the target
_BLOCK = 64  # draws at a time, to bound the memory


class Intervals(NamedTuple):
    """Lower and upper ends of the 95 % intervals.

    Attributes:
        miou: Of the mean IoU, (2,).
        iou: Of each class's IoU, (C, 2); NaN for a class in fewer than two images.
    """

    miou: Values
    iou: Values


def bootstrap(counts: Counts, draws: int = 1000, seed: int = 0) -> Intervals:
    """Intervals of the IoU of a data set: how it would vary with other images of the same kind.

    Images are drawn anew, with replacement; the ends are percentiles of the draws' scores, expanded as Student's t is
    wider than a normal distribution (Hesterberg, The American Statistician 2015), for the number of images with the
    class: without that the intervals of rare classes are too narrow.

    Args:
        counts: Pixels per image and class, (N, C, 3): right, predicted, in the target.
        draws: How often N images are drawn.
        seed: Of the random numbers.

    Example:
        >>> counts = np.array([[[8, 10, 9]], [[5, 9, 6]], [[9, 9, 9]], [[7, 9, 9]]])
        >>> bootstrap(counts).miou.round(2).tolist()
        [0.5, 1.0]
    """
    return _intervals(iou_of, counts, draws, seed)


def bootstrap_difference(before: Counts, after: Counts, draws: int = 1000, seed: int = 0) -> Intervals:
    """Intervals of how much higher the IoU is after than before, on the same images in the same order.

    Each image is drawn with both its counts, so that what makes it hard for both does not count.

    Args:
        before: Counts as for `bootstrap`.
        after: Counts of the same images by another net.
        draws: How often N images are drawn.
        seed: Of the random numbers.
    """
    both = np.concatenate([before, after], axis=-1)
    return _intervals(lambda sums: iou_of(sums[..., 3:]) - iou_of(sums[..., :3]), both, draws, seed)


def iou_of(counts: Values) -> Values:
    """IoU of counts (..., C, 3), followed by their mean: (..., C + 1). A class that is not in the target is NaN."""
    right, predicted, actual = np.moveaxis(counts, -1, 0)
    ious = np.where(actual > 0, ratio(right, predicted + actual - right), np.nan)
    known = ~np.isnan(ious)
    mean = ratio(np.where(known, ious, 0).sum(-1), known.sum(-1))
    return np.concatenate([ious, mean[..., None]], axis=-1)


def _intervals(score: Callable[[Values], Values], counts: Counts, draws: int, seed: int) -> Intervals:
    """Intervals of scores (..., C + 1) of sums over images."""
    images, *shape = counts.shape
    flat = counts.reshape(images, -1).astype(np.float64)
    random = np.random.default_rng(seed)
    drawn: list[Values] = []
    for start in range(0, draws, _BLOCK):
        times = random.multinomial(images, np.full(images, 1 / images), size=min(_BLOCK, draws - start))
        drawn.append(score((times @ flat).reshape(-1, *shape)))
    scores = np.concatenate(drawn)
    present = [*(counts[..., 2] > 0).sum(0).tolist(), images]
    ends = np.array([_ends(values, count) for values, count in zip(scores.T, present, strict=True)])
    return Intervals(ends[-1], ends[:-1])


def _ends(values: Values, images: int) -> tuple[float, float]:
    """Ends of one interval, from the values of the draws in which the class occurs."""
    known = values[~np.isnan(values)]
    if images < 2 or not known.size:  # nothing is known of how much images differ
        return np.nan, np.nan
    free = images - 1
    tail = ndtr(-math.sqrt(1 + 1 / free) * stdtrit(free, 0.975))
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
