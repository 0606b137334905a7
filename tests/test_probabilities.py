"""Calibration, AUROC and average precision against torchmetrics and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from segfocal.evaluation.probabilities import Probabilities
from segfocal.pixels import UNIT, labels_of, probability_counts


def scored(probabilities, target, activation="softmax", ignore_index=255):
    """The scores of probabilities (N, C) of pixels."""
    p = torch.as_tensor(probabilities, dtype=torch.float64)
    logits = p.log() if activation == "softmax" else p.logit()
    logits = logits.T[None, :, None]
    target = torch.as_tensor(target, dtype=torch.uint8).view(1, 1, -1)
    target = target if activation == "softmax" else target[:, None]
    counts = probability_counts(logits, labels_of(logits, activation), target, ignore_index, activation)
    return Probabilities(counts.histogram.numpy(), counts.reliability.numpy() / [1, 1, UNIT])


@pytest.mark.parametrize(
    ("p", "target", "auroc", "precision"),
    [
        ([0.13, 0.26, 0.08, 0.19, 0.34], [0, 0, 1, 1, 1], 0.5, 0.7556),
        ([0.0, 0.5, 0.7, 0.8], [0, 1, 1, 0], 0.5, 0.5833),
    ],
)
def test_binary_examples_of_torchmetrics(p, target, auroc, precision):
    scores = scored(np.array(p)[:, None], target, "sigmoid")
    assert scores.auroc.tolist() == pytest.approx([auroc])
    assert scores.average_precision.tolist() == pytest.approx([precision], abs=1e-4)


def test_the_multiclass_example_of_torchmetrics():
    p = [[0.75, 0.05, 0.05, 0.05, 0.05], [0.05, 0.75, 0.05, 0.05, 0.05], [0.05, 0.05, 0.75, 0.05, 0.05]]
    scores = scored([*p, [0.05, 0.05, 0.05, 0.75, 0.05]], [0, 1, 3, 2])
    assert scores.auroc.tolist() == pytest.approx([1, 1, 1 / 3, 1 / 3, np.nan], nan_ok=True)
    assert scores.average_precision.tolist() == pytest.approx([1, 1, 0.25, 0.25, np.nan], nan_ok=True)


def problem(rare=False):
    """Probabilities (N, 4) and targets that are often right; the last class is rare and never likely."""
    random = np.random.default_rng(0)
    target = random.choice(4, 40_000, p=[0.5, 0.3, 0.199, 0.001] if rare else [0.25] * 4)
    logits = random.normal(size=(len(target), 4)) * 2
    logits[np.arange(len(target)), target] += 2
    logits[:, 3] -= 9 if rare else 0
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), target


@pytest.mark.parametrize("rare", [False, True])
def test_auroc_and_average_precision_are_those_of_scikit_learn(rare):
    p, target = problem(rare)
    scores = scored(p, target)
    for c in range(4):
        assert scores.auroc[c] == pytest.approx(roc_auc_score(target == c, p[:, c]), abs=1 / 256)
        assert scores.average_precision[c] == pytest.approx(average_precision_score(target == c, p[:, c]), abs=1 / 256)


def test_they_are_exactly_those_of_the_binned_probabilities():
    p = np.round(problem()[0][:, 0] * 64) / 64  # each in a bin of its own
    target = problem()[1] == 0
    scores = scored(p[:, None], target, "sigmoid")
    assert scores.auroc[0] == pytest.approx(roc_auc_score(target, p), abs=1e-12)
    assert scores.average_precision[0] == pytest.approx(average_precision_score(target, p), abs=1e-12)


def test_the_calibration_error_is_that_of_torchmetrics():
    p, target = problem()
    of_torchmetrics = multiclass_calibration_error(torch.tensor(p), torch.tensor(target), 4, n_bins=15)
    scores = scored(p, target)
    assert scores.ece == pytest.approx(of_torchmetrics.item(), abs=1e-6)
    assert sum(bin_["pixels"] for bin_ in scores.bins) == len(target)
    assert np.isnan(scores.bins[0]["accuracy"])  # the largest of four is never below 1/15


def test_ignored_pixels_count_nowhere():
    p, target = problem()
    void = np.where(np.arange(len(target)) % 3 == 0, 255, target)
    some, kept = scored(p, void), void != 255
    wanted = scored(p[kept], target[kept])
    np.testing.assert_array_equal(some.histogram, wanted.histogram)
    assert some.ece == wanted.ece


def test_without_a_pixel_nothing_is_known():
    nothing = Probabilities(np.zeros((2, 4, 2)), np.zeros((15, 3)))
    assert np.isnan([nothing.ece, *nothing.auroc, *nothing.average_precision]).all()
