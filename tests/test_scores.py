"""Scores against a count by hand, and their rule for absent classes."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix

from segfocal import Scores

NAMES = ["road", "car", "pole"]


def by_hand(prediction, target, label, ignore):
    """Intersection and the two sizes of one class, pixel by pixel."""
    hits = predicted = actual = 0
    for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        if t == ignore:
            continue
        hits += p == label and t == label
        predicted += p == label
        actual += t == label
    return hits, predicted, actual


def test_scores_equal_a_count_by_hand():
    rng = np.random.default_rng(0)
    prediction, target = rng.integers(0, 3, (2, 7, 9)), rng.choice([0, 1, 2, 255], (2, 7, 9))
    metric = MulticlassConfusionMatrix(3, ignore_index=255)
    metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    scores = Scores(metric.compute().numpy(), NAMES)
    valid = (target != 255).sum()
    for label in range(3):
        hits, predicted, actual = by_hand(prediction, target, label, 255)
        assert scores.iou[label] == pytest.approx(hits / (predicted + actual - hits), abs=1e-12)
        assert scores.dice[label] == pytest.approx(2 * hits / (predicted + actual), abs=1e-12)
        assert scores.precision[label] == pytest.approx(hits / predicted, abs=1e-12)
        assert scores.recall[label] == pytest.approx(hits / actual, abs=1e-12)
        assert scores.share[label] == pytest.approx(actual / valid, abs=1e-12)
    assert scores.miou == pytest.approx(scores.iou.mean(), abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx((prediction == target).sum() / valid, abs=1e-12)


def test_an_absent_class_is_nan_and_left_out_of_the_mean():
    scores = Scores([[6, 2, 2], [0, 10, 0], [0, 0, 0]], NAMES)
    assert np.isnan(scores.iou[2])
    assert np.isnan(scores.dice[2])
    assert np.isnan(scores.recall[2])
    assert scores.precision[2] == 0  # its two false positives still show
    assert scores.miou == pytest.approx((6 / 10 + 10 / 12) / 2)


def test_the_frequency_weighted_iou_weighs_classes_by_their_pixels():
    scores = Scores([[6, 2, 2], [0, 30, 0], [0, 0, 0]], NAMES)
    assert scores.frequency_weighted_iou == pytest.approx((10 * 6 / 10 + 30 * 30 / 32) / 40)


def test_a_class_that_is_missed_entirely_counts_as_zero():
    scores = Scores([[10, 0], [5, 0]], ["road", "pole"])
    assert scores.iou.tolist() == [10 / 15, 0]
    assert np.isnan(scores.precision[1])


def test_no_labelled_pixel_at_all():
    scores = Scores(np.zeros((2, 2), int), ["road", "pole"])
    assert np.isnan(scores.miou)
    assert np.isnan(scores.pixel_accuracy)
    assert np.isnan(scores.frequency_weighted_iou)
    assert np.isnan(scores.share).all()


def test_overlapping_classes_have_a_matrix_each():
    rng = np.random.default_rng(1)
    prediction, target = rng.integers(0, 2, (2, 3, 5, 5)), rng.choice([0, 1, 255], (2, 3, 5, 5))
    metric = MultilabelConfusionMatrix(3, ignore_index=255)
    metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    scores = Scores(metric.compute().numpy(), NAMES)
    for label in range(3):
        hits, predicted, actual = by_hand(prediction[:, label], target[:, label], 1, 255)
        assert scores.iou[label] == pytest.approx(hits / (predicted + actual - hits), abs=1e-12)
        assert scores.share[label] == pytest.approx(actual / (target[:, label] != 255).sum(), abs=1e-12)


def test_counts_beyond_float32_stay_exact():
    many = 2**40 + 1
    assert Scores([[many, 0], [1, many]], ["a", "b"]).support.tolist() == [many, many + 1]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 2)), r"shape \(3, 3\).*got \(2, 2\)"),
        (np.zeros((3, 3)) - 1, "counts >= 0, got -1"),
    ],
)
def test_a_wrong_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        Scores(matrix, NAMES)
