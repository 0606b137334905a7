"""Contact sheets: what is where."""

import numpy as np
import pytest

from segfocal.evaluation.sheets import contact_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain(colour, height=30, width=40):
    return np.full((height, width, 3), colour, np.uint8)


def test_pictures_stand_in_their_columns():
    sheet = contact_sheet([[plain(RED), plain(BLUE)], [plain(BLUE), plain(RED)]], ["image", "mask"], width=40)
    red = (sheet == RED).all(-1)
    blue = (sheet == BLUE).all(-1)
    half = sheet.shape[1] // 2
    assert red.sum() == blue.sum() == 2 * 1200
    assert height(red[:, :half]) < height(blue[:, :half])
    assert height(red[:, half:]) > height(blue[:, half:])


def height(there):
    return np.nonzero(there)[0].mean()


def test_pictures_of_other_sizes_keep_their_shape():
    sheet = contact_sheet([[plain(RED, 60, 20)]], ["image"], width=40)
    rows, columns = np.nonzero((sheet == RED).all(-1))
    assert np.ptp(rows) + 1 == 120
    assert np.ptp(columns) + 1 == 40


def test_a_long_legend_is_broken_into_lines():
    legend = [(f"a class with a long name {i}", (i, 200, i)) for i in range(9)]
    sheet = contact_sheet([[plain(RED)]], ["image"], legend, width=300)
    for _, colour in legend:
        assert (sheet == colour).all(-1).sum() == 144, "its colour field is whole"


def test_rows_with_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="Expected `rows` of 2 pictures each, got \\[1\\]"):
        contact_sheet([[plain(RED)]], ["image", "mask"])
