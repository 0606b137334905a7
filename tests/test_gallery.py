"""The worst and the best images, whoever adds them and in whatever order."""

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from segfocal.evaluation.counts import count_image
from segfocal.evaluation.gallery import Gallery, error_map, merged, write_gallery
from segfocal.evaluation.samples import LabelPainter

TARGET = np.uint8([[0, 0, 0, 0, 1, 1, 1, 1] * 8] * 8)


def offer(gallery, name, wrong, image=None):
    """An image of which the first `wrong` rows are wrong."""
    guess = TARGET.copy()
    guess[:wrong] = 1 - guess[:wrong]
    gallery.offer(name, count_image(guess, TARGET, 2, 255), guess, TARGET, image)


def names(gallery):
    return [kept.name for kept in gallery.kept]


def test_the_extremes_of_many_are_kept_in_order():
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(60)
        gallery = Gallery()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda place, to=gallery: offer(to, f"{place:02}", 8 if place < 30 else 4), shuffled))
        assert names(gallery) == ["00", "01", "02", "03", "04", "05", "57", "58", "59"]


def test_an_image_without_a_labelled_pixel_is_not_kept():
    gallery, void = Gallery(), np.full_like(TARGET, 255)
    gallery.offer("void", count_image(TARGET, void, 2, 255), TARGET, void)
    assert not gallery.kept


def test_what_is_kept_holds_on_to_no_batch():
    gallery, batch = Gallery(), np.zeros((50, 8, 64, 3), np.uint8)
    offer(gallery, "a", 1, batch[3])
    assert gallery.kept[0].image.base is None
    assert not np.shares_memory(gallery.kept[0].target, TARGET)


def test_large_images_are_kept_small():
    gallery, labels = Gallery(), np.zeros((3000, 20), np.uint8)
    gallery.offer("tall", count_image(labels, labels, 2, 255), labels, labels, np.zeros((3000, 20, 5), np.uint8))
    (kept,) = gallery.kept
    assert kept.target.shape == kept.prediction.shape == kept.image.shape[:2] == (1600, 11)
    assert kept.image.shape[2] == 3


def test_processes_agree_on_the_images_of_all():
    parts, whole = [Gallery(), Gallery(), Gallery()], Gallery()
    for place in range(40):
        wrong = place * 7 % 9
        offer(parts[place % 2], f"{place:02}", wrong)  # the third has none
        offer(whole, f"{place:02}", wrong)
    wanted = merged([kept.key for kept in part.kept] for part in parts)
    joined = Gallery(kept for part in parts for kept in part.kept if kept.key in wanted)
    assert len(wanted) == 9
    assert names(joined) == names(whole)


@pytest.mark.parametrize(("count", "worst", "best"), [(0, 0, 0), (1, 1, 0), (4, 3, 1), (9, 6, 3), (30, 6, 3)])
def test_pictures_are_written_with_what_they_are(tmp_path, count, worst, best):
    gallery = Gallery()
    for place in range(count):
        offer(gallery, f"\udcff{place:02}", 8 - place % 9)
    write_gallery(gallery, tmp_path, LabelPainter(["a", "b"], [(9, 9, 9), (0, 99, 0)], 255), lambda kept: None)
    index = json.loads((tmp_path / "gallery/gallery.json").read_text())
    kinds = [(row["kind"], row["rank"]) for row in index["images"]]
    wanted = [("worst", rank + 1) for rank in range(worst)] + [("best", best - rank) for rank in range(best)]
    assert kinds == wanted
    for row, kept in zip(index["images"], gallery.kept, strict=True):
        assert (row["name"], row["miou"]) == (kept.name, kept.miou)
        assert "image" not in row, "without images there are labels alone"
        assert cv2.imread(str(tmp_path / "gallery" / row["errors"])).shape == (8, 64, 3)


def test_errors_differ_in_lightness_and_ignored_pixels_are_striped():
    target = np.where(np.arange(64) < 32, TARGET, 255).astype(np.uint8)
    picture = error_map(1 - TARGET, target, 255, np.full((4, 4, 3), 200, np.uint8)).astype(int)
    assert len(np.unique(picture[:, :32].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(picture[:, 32:].reshape(-1, 3), axis=0)) == 2
    right = error_map(TARGET, TARGET, 255, np.full((4, 4, 3), 200, np.uint8)).astype(int)
    assert picture[0, 0].sum() > 1.5 * right[0, 0].sum()


def test_of_overlapping_classes_missed_and_false_are_told_apart():
    target, guess = np.uint8([[[1, 0, 1, 0]], [[0, 0, 0, 0]]]), np.uint8([[[0, 1, 0, 0]], [[0, 0, 1, 0]]])
    missed, false, both, right = error_map(guess, target, 255).tolist()[0]
    assert len({tuple(colour) for colour in (missed, false, both, right)}) == 4
