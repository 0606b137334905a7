"""The sum of images' counts, and the files that are written of it."""

import csv
import json

import numpy as np
import pytest

from segfocal.evaluation.counts import count_image
from segfocal.evaluation.report import as_dict, table, write
from segfocal.evaluation.tally import Tally

NAMES = ["road", "car", "pole"]


def tally_of(count=5, seed=0):
    rng = np.random.default_rng(seed)
    tally = Tally(NAMES)
    pairs = []
    for image in range(count):
        target = rng.choice([0, 0, 1, 255], (30, 40)).astype(np.uint8)
        prediction = np.where(rng.random((30, 40)) < 0.2 * image, 1, np.where(target == 255, 2, target)).astype(
            np.uint8
        )
        pairs.append((prediction, target))
        tally.add(f"{image}.png", count_image(prediction, target, 3, 255))
    return tally, pairs


def naive_iou(predictions, targets, label):
    """Over all images, pixel sets and nothing else."""
    valid = targets != 255
    true, guess = (targets == label) & valid, (predictions == label) & valid
    return (true & guess).sum() / (true | guess).sum() if true.any() else np.nan


def test_scores_are_those_of_all_pixels_and_of_each_image():
    tally, pairs = tally_of()
    predictions, targets = (np.stack(part) for part in zip(*pairs, strict=True))
    want = [naive_iou(predictions, targets, label) for label in range(3)]
    np.testing.assert_allclose(tally.scores.iou, want, rtol=1e-12)
    each = [np.nanmean([naive_iou(*pair, label) for label in (0, 1)]) for pair in pairs]
    np.testing.assert_allclose(tally.per_image, each, rtol=1e-12)


def test_overlapping_classes_are_tallied_alike():
    tally = Tally(["a", "b"])
    prediction, target = (np.array([[[1, 0]], [[1, 1]]], np.uint8), np.array([[[1, 1]], [[0, 255]]], np.uint8))
    tally.add("x", count_image(prediction, target, 2, 255))
    assert tally.images.tolist() == [[[1, 1, 2], [0, 1, 0]]]
    np.testing.assert_array_equal(tally.scores.iou, [0.5, np.nan])
    np.testing.assert_array_equal(tally.boundary_iou, [0.5, np.nan])


def test_nothing_added_is_all_nan():
    tally = Tally(NAMES)
    assert np.isnan(tally.scores.miou)
    assert np.isnan(tally.boundary_iou).all()
    assert tally.per_image.shape == (0,)


def test_what_is_cached_follows_what_is_added():
    tally, _ = tally_of(2)
    before = tally.scores.miou, tally.intervals.miou[0]
    tally.add("worse.png", count_image(np.ones((9, 9), np.uint8), np.zeros((9, 9), np.uint8), 3, 255))
    assert tally.scores.miou < before[0]
    assert tally.intervals.miou[0] < before[1]


def test_the_files_hold_what_the_tally_knows(tmp_path):
    tally, _ = tally_of()
    write(tally.scores, tmp_path, {"command": "score"}, tally)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 5
    assert metrics["miou_interval"] == pytest.approx(tally.intervals.miou.tolist())
    assert metrics["per_class"]["car"]["boundary_iou"] == pytest.approx(tally.boundary_iou[1])
    assert metrics["per_class"]["pole"]["iou_low"] is None
    rows = list(csv.DictReader((tmp_path / "per_image.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [f"{i}.png" for i in (4, 3, 2, 1, 0)]
    with np.load(tmp_path / "counts.npz") as held:
        np.testing.assert_array_equal(held["counts"], tally.images)


def test_the_table_shows_intervals_and_boundaries_only_of_images():
    tally, _ = tally_of()
    headings = [column.header for column in table(tally.scores, "x", tally=tally).columns]
    assert headings[:4] == ["class", "IoU", "95 %", "boundary"]
    assert "95 %" not in [column.header for column in table(tally.scores, "x").columns]
    assert "miou_interval" not in as_dict(tally.scores)
