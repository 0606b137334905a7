"""Pictures of samples: what is tinted, striped, shortened."""

import numpy as np
import pytest

from segfocal.evaluation.pictures import as_picture
from segfocal.evaluation.samples import LabelPainter, shortened

ROAD, CAR = (200, 0, 0), (0, 0, 200)


def painter(names=("road", "car"), palette=(ROAD, CAR), ignore_index=255):
    return LabelPainter(list(names), list(palette), ignore_index)


def grey(value=100, size=(40, 60)):
    return np.full((*size, 3), value, np.uint8)


def halves(left, right, labels=np.uint8, size=(40, 60)):
    mask = np.full(size, left, labels)
    mask[:, size[1] // 2 :] = right
    return mask


def test_classes_are_tinted_and_a_background_is_not():
    picture = painter().paint(grey(), halves(0, 1))
    assert picture[20, 10].tolist() == [150, 50, 50]
    assert picture[20, 50].tolist() == [50, 50, 150]
    bare = painter(("Background", "car")).paint(grey(), halves(0, 1))
    assert bare[20, 10].tolist() == [100, 100, 100]
    single = painter(("car",), (CAR,)).paint(grey(), halves(0, 1))
    assert single[20, 10].tolist() == [100, 100, 100]
    assert single[20, 50].tolist() == [50, 50, 150]


@pytest.mark.parametrize("value", [0, 100, 255])
@pytest.mark.parametrize(("labels", "ignore_index"), [(np.uint8, 255), (np.uint16, 65535), (np.int32, 65535)])
def test_ignored_pixels_are_striped_on_any_image(value, labels, ignore_index):
    picture = painter(ignore_index=ignore_index).paint(grey(value), halves(1, ignore_index, labels))
    striped = picture[:, 32:].astype(int)
    assert np.ptp(striped, axis=(0, 1)).min() >= 120, "dark and light"
    assert striped.std(-1).max() == 0, "no class's colour"
    assert (picture[:, :28] == picture[0, 0]).all(), "the class has no stripes"


def test_dense_masks_show_every_class_and_stripe_what_any_ignores():
    mask = np.stack([halves(1, 0), halves(1, 0)])
    mask[1, :10, 30:] = 255
    picture = painter().paint(grey(), mask)
    assert picture[30, 10].tolist() == [75, 25, 125], "half of the second on half of the first"
    assert picture[30, 50].tolist() == [100, 100, 100]
    assert np.ptp(picture[:10, 32:].astype(int)) >= 120


def test_stripes_are_as_wide_on_the_sheet_whatever_the_size():
    for size in ((24, 32), (480, 640)):
        picture = painter().paint(grey(0, size), np.full(size, 255, np.uint8))
        changes = (np.diff(picture[0, :, 0].astype(int)) != 0).sum()
        assert 30 <= changes <= 56


def test_images_of_any_channels_and_types_become_pictures():
    for channels in (1, 2, 3, 4, 12):
        assert as_picture(np.zeros((4, 5, channels), np.uint8)).shape == (4, 5, 3)
    stretched = as_picture(np.array([[[-1.0], [0.0], [3.0]]]))
    assert stretched[0, :, 0].tolist() == [0, 64, 255]
    assert as_picture(np.full((2, 2, 3), 0.5)).dtype == np.uint8


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\x1b[31mb", "a\udcffb"])
def test_odd_letters_are_replaced(text):
    assert shortened(text, 30).replace("[31m", "") == "a?b"


def test_long_texts_keep_both_ends():
    long = "images/train/" + 90 * "x" + "/frame_000123.png"
    short = shortened(long, 40)
    assert len(short) <= 40
    assert short.startswith("images/train/")
    assert short.endswith("frame_000123.png")
    assert shortened(long[:40], 40) == long[:40]


def test_the_legend_names_what_is_striped():
    names = [name for name, _ in painter(("Background", "n" * 90)).legend]
    assert names[0] == "Background"
    assert len(names[1]) <= 40
    assert names[2] == "ignored (striped)"
