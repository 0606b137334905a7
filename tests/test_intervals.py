"""Intervals of IoU: they cover the truth as often as they say, and tell noise from progress."""

import numpy as np

from segfocal import Scores
from segfocal.evaluation.intervals import bootstrap, bootstrap_difference, iou_of

SIZES, PRESENT, QUALITY = [8, 7, 5, 4], [1, 0.9, 0.7, 0.5], [9, 7, 5, 4]


def counts_of(images, random, better=0.0):
    """Images with large and small, common and rare classes; the net does well on some and badly on others."""
    shape = (images, len(SIZES))
    actual = random.lognormal(SIZES, 0.7, shape).round() * (random.random(shape) < PRESENT)
    quality = np.minimum(random.beta(QUALITY, 2, shape) + better, 1)
    right = (actual * quality).round()
    false = (actual * (1 - quality) * random.random(shape)).round()
    return np.stack([right, right + false, actual], -1).astype(np.int64)


def test_the_iou_is_that_of_the_confusion_matrix():
    matrix = np.array([[5, 1, 2], [0, 4, 3], [0, 0, 0]])
    counts = np.stack([np.diag(matrix), matrix.sum(0), matrix.sum(1)], -1)
    scores = Scores(matrix, ["a", "b", "c"])
    np.testing.assert_allclose(iou_of(counts), [*scores.iou, scores.miou], rtol=1e-12)


def test_intervals_cover_the_truth_in_93_of_100_simulations():
    random = np.random.default_rng(0)
    truth = iou_of(counts_of(200_000, random).sum(0))
    covered = np.zeros(len(truth))
    for seed in range(200):
        found = bootstrap(counts_of(100, random), 400, seed)
        ends = np.vstack([found.iou, found.miou])
        covered += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    assert (covered >= 186).all(), covered
    assert (covered <= 199).all(), "an interval that always covers says nothing"


def test_a_difference_is_seen_where_the_intervals_of_both_overlap():
    before, after = (counts_of(60, np.random.default_rng(1), better) for better in (0.0, 0.02))
    alone, beside = bootstrap(before).miou, bootstrap(after).miou
    assert beside[0] < alone[1]
    assert bootstrap_difference(before, after).miou[0] > 0
    low, high = bootstrap_difference(before, before).miou
    assert low == high == 0


def test_a_class_in_no_image_has_no_interval():
    counts = counts_of(20, np.random.default_rng(2))
    counts[:, 1] = 0
    found = bootstrap(counts)
    assert np.isnan(found.iou[1]).all()
    assert not np.isnan(found.iou[[0, 2, 3]]).any()
    assert not np.isnan(found.miou).any()


def test_the_same_seed_gives_the_same_interval():
    counts = counts_of(20, np.random.default_rng(3))
    np.testing.assert_array_equal(bootstrap(counts, 100, 7).iou, bootstrap(counts, 100, 7).iou)


def test_a_class_in_one_image_has_no_interval():
    counts = counts_of(20, np.random.default_rng(4))
    counts[1:, 2] = 0
    counts[0, 2] = 5, 9, 8
    assert np.isnan(bootstrap(counts).iou[2]).all()
    assert np.isnan(bootstrap(counts[:1]).miou).all()
    assert np.isnan(bootstrap_difference(counts[:1], counts[:1]).miou).all()
