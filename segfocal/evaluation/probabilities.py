"""How good probabilities are: calibration, AUROC and average precision, from counts of pixels in bins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segfocal.evaluation.scores import Values, ratio


@dataclass(frozen=True)
class Probabilities:
    """Scores of probabilities that were binned as they came, so that any number of images takes the same memory.

    A pixel is known to its bin only, so AUROC and average precision are those of probabilities rounded to a bin.

    Args:
        histogram: Pixels per class, bin of the class's probability in rising order, and whether they are of the class,
            (C, N, 2).
        reliability: Per bin of confidence, of equal widths from 0 to 1: pixels, right ones, and the sum of their
            confidences, (M, 3).

    Example:
        >>> of_each = Probabilities([[[3, 0], [1, 2]]], [[4, 1, 0.8], [2, 2, 1.8]])
        >>> of_each.auroc.tolist(), round(of_each.ece, 3)
        ([0.875], 0.067)
    """

    histogram: NDArray[np.int64]
    reliability: Values

    def __post_init__(self) -> None:
        object.__setattr__(self, "histogram", np.asarray(self.histogram, np.int64))
        object.__setattr__(self, "reliability", np.asarray(self.reliability, np.float64))

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini et al. 2015, Guo et al. 2017): mean of |right - confidence| over pixels.

        NaN without a pixel.
        """
        pixels, right, confidence = self.reliability.T
        return float(ratio(np.abs(right - confidence).sum(), pixels.sum()))

    @property
    def bins(self) -> list[dict[str, float]]:
        """Of each bin its ends `low` and `high`, the `pixels`, their mean `confidence`, and `accuracy`.

        The last two are NaN without pixels.
        """
        count = len(self.reliability)
        pixels, right, confidence = self.reliability.T
        columns = {
            "low": np.arange(count) / count,
            "high": np.arange(1, count + 1) / count,
            "pixels": pixels,
            "confidence": ratio(confidence, pixels),
            "accuracy": ratio(right, pixels),
        }
        return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def auroc(self) -> Values:
        """Probability that a pixel of the class has a higher one than another pixel, ties counting half, (C,).

        NaN for a class that no pixel, or every pixel, is of.
        """
        other, own = self.histogram.astype(np.float64).transpose(2, 0, 1)
        above = own[:, ::-1].cumsum(1)[:, ::-1] - own / 2
        return ratio((other * above).sum(1), other.sum(1) * own.sum(1))

    @property
    def average_precision(self) -> Values:
        """Mean of the precision over the class's pixels, each at the threshold of its own bin, (C,); NaN if absent."""
        other, own = self.histogram.astype(np.float64).transpose(2, 0, 1)[..., ::-1]
        right = own.cumsum(1)
        precision = np.nan_to_num(ratio(right, right + other.cumsum(1)))
        return ratio((own * precision).sum(1), own.sum(1))
