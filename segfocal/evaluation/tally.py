"""Adding up what is counted in images, and what follows from it.

Shapes: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segfocal.evaluation.counts import Counts, ImageCounts
from segfocal.evaluation.intervals import Intervals, bootstrap, iou_of
from segfocal.evaluation.probabilities import Probabilities
from segfocal.evaluation.scores import Scores, Values, ratio

COUNTS = "counts.npz"  # the file that keeps `Tally.images`


@dataclass
class Tally:
    """The counts of images: their sum, and of each image as much as tells its IoU, 24 bytes per class.

    Args:
        class_names: The C names.
        probabilities: What the net's probabilities were worth, where there was a net.

    Example:
        >>> from segfocal.evaluation.counts import count_image
        >>> tally = Tally(["road", "car"])
        >>> tally.add("a", count_image(np.uint8([[0, 1]]), np.uint8([[0, 1]]), 2, 255))
        >>> tally.scores.miou, tally.per_image.tolist()
        (1.0, [1.0])
    """

    class_names: Sequence[str]
    probabilities: Probabilities | None = None
    names: list[str] = field(default_factory=list)
    _images: list[Counts] = field(default_factory=list)
    _matrix: Counts | None = None
    _boundary: Counts | None = None

    def add(self, name: str, counted: ImageCounts) -> None:
        """Add an image."""
        for cached in ("scores", "intervals"):
            self.__dict__.pop(cached, None)
        matrix, boundary = counted
        self.names.append(name)
        self._images.append(rights(matrix))
        self._matrix = matrix if self._matrix is None else self._matrix + matrix
        self._boundary = boundary if self._boundary is None else self._boundary + boundary

    @property
    def images(self) -> NDArray[np.int64]:
        """Pixels per image and class, (N, C, 3): right, predicted, in the target."""
        return np.array(self._images, np.int64).reshape(len(self.names), len(self.class_names), 3)

    @cached_property
    def scores(self) -> Scores:
        """The scores of all images together."""
        count = len(self.class_names)
        matrix = np.zeros((count, count), np.int64) if self._matrix is None else self._matrix
        return Scores(matrix, self.class_names)

    @cached_property
    def intervals(self) -> Intervals:
        """95 % intervals over the images."""
        return bootstrap(self.images)

    @property
    def boundary_iou(self) -> Values:
        """IoU of the pixels near boundaries per class, (C,); NaN for a class that is not in the targets."""
        if self._boundary is None:
            return np.full(len(self.class_names), np.nan)
        right, predicted, actual = self._boundary.T
        return np.where(self.scores.support > 0, ratio(right, predicted + actual - right), np.nan)

    @property
    def per_image(self) -> Values:
        """Mean IoU over the classes of each image, (N,); NaN for an image without a labelled pixel."""
        means: Values = iou_of(self.images.astype(np.float64))[:, -1]
        return means


def rights(matrix: Counts) -> Counts:
    """Per class, (C, 3): right, predicted, in the target."""
    if matrix.ndim == 3:
        return np.stack([matrix[:, 1, 1], matrix[:, :, 1].sum(1), matrix[:, 1].sum(1)], axis=1)
    return np.stack([np.diagonal(matrix), matrix.sum(0), matrix.sum(1)], axis=1)
