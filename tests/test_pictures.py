"""Palette PNGs and overlays."""

import numpy as np
import pytest
from PIL import Image

from segfocal.evaluation.pictures import overlay, write_palette_png

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0)]


def test_a_palette_png_holds_indices_and_shows_colours(tmp_path):
    labels = np.array([[0, 1], [2, 1]])
    write_palette_png(tmp_path / "mask.png", labels, PALETTE)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).tolist() == labels.tolist()
        assert picture.convert("RGB").getpixel((0, 1)) == PALETTE[2]


def test_labels_beyond_the_palette_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"0..2, got 0 to 300"):
        write_palette_png(tmp_path / "mask.png", np.array([[0, 300]]), PALETTE)
    assert not (tmp_path / "mask.png").exists()


def test_more_classes_than_a_palette_holds_make_a_16_bit_mask(tmp_path):
    labels, palette = np.array([[0, 299]]), PALETTE * 100
    write_palette_png(tmp_path / "mask.png", labels, palette)
    with Image.open(tmp_path / "mask.png") as picture:
        assert np.asarray(picture).tolist() == labels.tolist()
    assert overlay(np.zeros((1, 2, 3), np.uint8), labels, palette).shape == (1, 2, 3)


def test_an_overlay_tints_classes_and_leaves_clear_ones():
    image = np.full((8, 8, 3), 100, np.uint8)
    labels = np.zeros((8, 8), int)
    labels[4:] = 1
    picture = overlay(image, labels, PALETTE, 0.5, clear=[0])
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[7, 7].tolist() == [150, 50, 50]


def test_an_overlay_has_the_labels_size():
    assert overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((9, 7), int), PALETTE).shape == (9, 7, 3)
