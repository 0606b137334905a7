"""Counting pixels: one image's prediction against its target, with NumPy and OpenCV alone.

Shapes: H x W pixels, C classes. Labels are (H, W), or (C, H, W) with 0 and 1 per class where classes may overlap.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]
Counts = NDArray[np.int64]


class ImageCounts(NamedTuple):
    """What is counted in one image.

    Attributes:
        matrix: Pixels by the target's class and the predicted class, (C, C), or (C, 2, 2) where classes may overlap.
        boundary: Pixels near boundaries per class, (C, 3): right, predicted, and in the target.
    """

    matrix: Counts
    boundary: Counts


def count_image(
    prediction: Labels, target: Labels, classes: int, ignore_index: int, *, width: float = 0.02
) -> ImageCounts:
    """Count the pixels of an image, but those where the target is `ignore_index`.

    Near a boundary is, as Cheng et al. (Boundary IoU, CVPR 2021) define it, a pixel if another one at most d rows and d
    columns away has another label, or lies outside the image; d is `width` times the image's diagonal, at least 1.

    Args:
        prediction: Predicted labels, unsigned integers, (H, W) or (C, H, W).
        target: True labels, of the same shape.
        classes: C.
        ignore_index: Label of the target's pixels that count nowhere.
        width: d as a share of the diagonal.

    Raises:
        ValueError: Shapes that differ, or a label that is no class's.

    Example:
        >>> counts = count_image(np.uint8([[0, 1], [1, 1]]), np.uint8([[0, 0], [1, 255]]), 2, 255)
        >>> counts.matrix.tolist()
        [[1, 1], [0, 1]]
    """
    overlap = target.ndim == 3
    if prediction.shape != target.shape or (overlap and len(target) != classes):
        wanted = (classes, *target.shape[1:]) if overlap else target.shape
        raise ValueError(f"Expected a prediction of shape {wanted}, got {prediction.shape}. Give it the target's size.")
    if not overlap:
        counts = _count_labels(prediction, target, classes, ignore_index, width)
        return ImageCounts(*counts)
    planes = [_count_labels(p, t, 2, ignore_index, width) for p, t in zip(prediction, target, strict=True)]
    return ImageCounts(np.stack([matrix for matrix, _ in planes]), np.stack([near[1] for _, near in planes]))


def near_boundary(labels: Labels, width: float) -> NDArray[np.bool_]:
    """Which pixels are near a boundary, (H, W); see `count_image`.

    Example:
        >>> near_boundary(np.zeros((5, 5), np.uint8), 0.02).astype(int)[1:3].tolist()
        [[1, 0, 0, 0, 1], [1, 0, 0, 0, 1]]
    """
    distance = max(1, round(width * float(np.hypot(*labels.shape))))
    kernel = np.ones((3, 3), np.uint8)
    edges = cv2.erode(labels, kernel) != cv2.dilate(labels, kernel)  # of two touching labels both sides
    # A pixel is near if some edge is less than `distance` away: a sum over a square costs the same for any distance.
    side = 2 * distance - 1
    near = cv2.boxFilter(
        edges.view(np.uint8), cv2.CV_32S, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    near = np.asarray(near > 0)
    near[:distance] = near[-distance:] = near[:, :distance] = near[:, -distance:] = True
    return near


def _count_labels(
    prediction: Labels, target: Labels, classes: int, ignore_index: int, width: float
) -> tuple[Counts, Counts]:
    ignored = target == ignore_index
    true, guess = (np.where(ignored, 0, labels) for labels in (target, prediction))
    _check("target", true, classes, ignored)
    _check("prediction", guess, classes, ignored)
    # One number per pixel says all that is counted of it.
    kinds = 4 * classes**2
    code: NDArray[Any] = true.astype(np.uint16 if kinds < 2**16 else np.int64)
    for part, count in ((guess, classes), (near_boundary(target, width), 2), (near_boundary(prediction, width), 2)):
        code *= count
        code += part.astype(code.dtype, copy=False)
    code[ignored] = kinds
    counts = np.bincount(code.ravel(), minlength=kinds + 1)[:kinds].reshape(classes, classes, 2, 2)
    right = np.diagonal(counts[:, :, 1, 1])
    boundary = np.stack([right, counts[..., 1].sum((0, 2)), counts[:, :, 1].sum((1, 2))], axis=1)
    return counts.sum((2, 3)), boundary


def _check(what: str, labels: Labels, classes: int, ignored: NDArray[np.bool_]) -> None:
    largest = int(labels.max(initial=0))
    if largest >= classes:
        count = int(((labels == largest) & ~ignored).sum())
        raise ValueError(
            f"Expected labels 0..{classes - 1} in the {what} where it counts, got {largest} at {count} pixels. Predict "
            "a class there; void is for targets."
        )
