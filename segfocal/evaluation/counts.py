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
    # The nearest other label is one step further than the nearest edge: exact, and as fast for any distance.
    near = np.asarray(cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_C, 3) < distance)
    near[:distance] = near[-distance:] = near[:, :distance] = near[:, -distance:] = True
    return near


def _count_labels(
    prediction: Labels, target: Labels, classes: int, ignore_index: int, width: float
) -> tuple[Counts, Counts]:
    valid = target != ignore_index
    true, guess = target[valid], prediction[valid]
    _check("target", true, classes)
    _check("prediction", guess, classes)
    matrix = np.bincount(true.astype(np.intp) * classes + guess, minlength=classes * classes)
    near_true, near_guess = near_boundary(target, width)[valid], near_boundary(prediction, width)[valid]
    right = near_true & near_guess & (true == guess)
    kinds = true[right], guess[near_guess], true[near_true]
    boundary = np.stack([np.bincount(kind, minlength=classes) for kind in kinds], axis=1)
    return matrix.reshape(classes, classes), boundary


def _check(what: str, labels: Labels, classes: int) -> None:
    largest = int(labels.max(initial=0))
    if largest >= classes:
        count = int((labels == largest).sum())
        raise ValueError(
            f"Expected labels 0..{classes - 1} in the {what} where it counts, got {largest} at {count} "
            "pixels. Predict a class there; void is for targets."
        )
