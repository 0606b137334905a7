"""Counts of one image, against loops over pixels and Cheng et al.'s definition of a boundary."""

import cv2
import numpy as np
import pytest

from segfocal.evaluation.counts import count_image, near_boundary


def scene(seed, size=(60, 83), classes=4, void=True):
    """Blocks of labels, some void, as uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (size[0] // 12 + 1, size[1] // 12 + 1), dtype=np.uint8)
    labels = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    if void:
        labels[rng.random(size) < 0.05] = 255
    return labels


def eroded_boundary(mask, width):
    """A mask less what is left of it after d erosions by 3 x 3, in a frame of zeros."""
    height, across = mask.shape
    times = max(1, round(width * np.sqrt(height**2 + across**2)))
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask - cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [0.0, 0.02, 0.05, 0.5])
def test_near_a_boundary_is_what_each_class_loses_by_erosion(seed, width):
    labels = scene(seed, size=(40 + 13 * seed, 97))
    near = near_boundary(labels, width)
    for label in np.unique(labels):
        mask = (labels == label).astype(np.uint8)
        np.testing.assert_array_equal(near & (mask == 1), eroded_boundary(mask, width) == 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_counts_equal_those_of_a_loop(kind):
    prediction, target = scene(1, void=False).astype(kind), scene(2).astype(kind)
    counts = count_image(prediction, target, 4, 255)
    valid = target != 255
    for row in range(4):
        for column in range(4):
            assert counts.matrix[row, column] == (valid & (target == row) & (prediction == column)).sum()
        true, guess = (eroded_boundary((x == row).astype(np.uint8), 0.02) == 1 for x in (target, prediction))
        want = [(true & guess & valid).sum(), (guess & valid).sum(), (true & valid).sum()]
        assert counts.boundary[row].tolist() == want


def test_overlapping_classes_are_counted_one_by_one():
    prediction = np.stack([scene(seed, classes=2, void=False) for seed in (1, 2)])
    target = np.stack([scene(seed, classes=2) for seed in (3, 4)])
    counts = count_image(prediction, target, 2, 255)
    assert counts.matrix.shape == (2, 2, 2)
    for plane in range(2):
        alone = count_image(prediction[plane], target[plane], 2, 255)
        np.testing.assert_array_equal(counts.matrix[plane], alone.matrix)
        np.testing.assert_array_equal(counts.boundary[plane], alone.boundary[1])


def test_an_image_of_void_counts_nothing():
    counts = count_image(scene(1, void=False), np.full((60, 83), 255, np.uint8), 4, 255)
    assert not counts.matrix.any()
    assert not counts.boundary.any()


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8), r"shape \(4, 6\), got \(4, 5\)"),
        (np.zeros((3, 4, 6), np.uint8), np.zeros((2, 4, 6), np.uint8), r"shape \(3, 4, 6\), got"),
        (
            np.full((4, 5), 7, np.uint8),
            np.zeros((4, 5), np.uint8),
            r"0..2 in the prediction where it counts, got 7 at 20",
        ),
        (
            np.zeros((4, 5), np.uint8),
            np.full((4, 5), 3, np.uint8),
            r"0..2 in the target where it counts, got 3",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        count_image(prediction, target, 3, 255)
