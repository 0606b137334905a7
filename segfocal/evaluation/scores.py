"""Scores: pure functions of one confusion matrix.

Shapes: C classes. A class is absent when the target holds no pixel of it; its IoU, Dice and recall are then NaN and
left out of every mean, and its false positives still show in its precision and in the other classes' scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]  # (C,)


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-class scores of a confusion matrix.

    Args:
        matrix: Counts of pixels. (C, C), rows the target's class and columns the predicted class, or (C, 2, 2),
            one matrix per class, for classes that are not exclusive (what torchmetrics' multi-label matrix gives).
        class_names: The C names.

    Raises:
        ValueError: A matrix of another shape, with negative counts, or another number of names.

    Example:
        >>> scores = Scores([[8, 2, 0], [0, 10, 0], [0, 0, 0]], ["road", "car", "pole"])
        >>> scores.iou.round(3).tolist(), round(scores.miou, 3)
        ([0.8, 0.833, nan], 0.817)
    """

    matrix: NDArray[np.int64]
    class_names: list[str]

    def __init__(self, matrix: ArrayLike, class_names: Sequence[str]) -> None:
        counts = np.asarray(matrix)
        names = list(class_names)
        classes = len(names)
        if counts.shape not in {(classes, classes), (classes, 2, 2)}:
            raise ValueError(
                f"Expected `matrix` of shape {(classes, classes)} or {(classes, 2, 2)} for {classes} class names, "
                f"got {counts.shape}. Give one name per class, in the order of the class indices."
            )
        if counts.size and counts.min() < 0:
            raise ValueError(f"Expected `matrix` to hold counts >= 0, got {counts.min()}. Pass it unnormalised.")
        object.__setattr__(self, "matrix", counts.astype(np.int64))
        object.__setattr__(self, "class_names", names)

    @cached_property
    def _counts(self) -> tuple[Values, Values, Values]:
        """True positives, false positives and false negatives per class."""
        matrix = self.matrix.astype(np.float64)
        if matrix.ndim == 3:
            return matrix[:, 1, 1], matrix[:, 0, 1], matrix[:, 1, 0]
        hits = np.diagonal(matrix)
        return hits, matrix.sum(0) - hits, matrix.sum(1) - hits

    @property
    def support(self) -> Values:
        """Pixels of each class in the target, (C,)."""
        hits, _, missed = self._counts
        return hits + missed

    @property
    def share(self) -> Values:
        """Each class's share of the valid pixels, (C,), in 0..1."""
        valid = self.matrix.sum((1, 2)) if self.matrix.ndim == 3 else np.full(len(self.class_names), self.matrix.sum())
        return ratio(self.support, valid.astype(np.float64))

    @property
    def iou(self) -> Values:
        """Intersection over union TP / (TP + FP + FN), (C,), NaN for absent classes."""
        hits, false, missed = self._counts
        return self._of_present(ratio(hits, hits + false + missed))

    @property
    def dice(self) -> Values:
        """Dice 2 TP / (2 TP + FP + FN), which is F1, (C,), NaN for absent classes."""
        hits, false, missed = self._counts
        return self._of_present(ratio(2 * hits, 2 * hits + false + missed))

    @property
    def precision(self) -> Values:
        """TP / (TP + FP), (C,), NaN for a class that was never predicted."""
        hits, false, _ = self._counts
        return ratio(hits, hits + false)

    @property
    def recall(self) -> Values:
        """TP / (TP + FN), (C,), NaN for absent classes."""
        hits, _, missed = self._counts
        return ratio(hits, hits + missed)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that are present; NaN when none is."""
        return mean_of_present(self.iou)

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of the classes' IoU, each weighted with its pixels in the target; NaN when there are none."""
        return float(ratio((np.nan_to_num(self.iou) * self.support).sum(), self.support.sum()))

    @property
    def pixel_accuracy(self) -> float:
        """Share of the decisions that are right: pixels, or pixel-class pairs for (C, 2, 2)."""
        right = np.trace(self.matrix, axis1=-2, axis2=-1).sum()
        return float(ratio(np.float64(right), np.float64(self.matrix.sum())))

    def _of_present(self, values: Values) -> Values:
        return np.where(self.support > 0, values, np.nan)


def mean_of_present(values: Values) -> float:
    """Mean of the values that are not NaN; NaN when all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def ratio(part: ArrayLike, whole: ArrayLike) -> Values:
    """Part / whole, element by element; NaN where the whole is 0."""
    whole = np.asarray(whole, dtype=np.float64)
    quotient: Values = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
