"""Charts are drawn whatever the classes are called, and look different in each theme."""

import numpy as np
import pytest
from scored_run import NASTY, names_of

from segfocal.evaluation import charts
from segfocal.evaluation.charts import DARK, LIGHT, as_png, as_svg, themed
from segfocal.evaluation.scores import Scores


def drawn(theme, draw):
    with themed(theme):
        return as_svg(draw(theme)).decode()


def contrast(one, other):
    bright = []
    for colour in (one, other):
        linear = [((int(colour[place : place + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for place in (1, 3, 5)]
        bright.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(bright) / min(bright)


@pytest.mark.parametrize(("theme", "page"), [(LIGHT, "#ffffff"), (DARK, "#12161c")])
def test_lines_and_texts_stand_out_from_the_page(theme, page):
    assert contrast(theme.ink, page) >= 4.5
    assert min(contrast(line, page) for line in theme.lines) >= 3


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_names_are_texts_in_the_picture(theme):
    curves = {name: {1: 0.2, 2: 0.1 * place} for place, name in enumerate(NASTY)}
    text = drawn(theme, lambda theme: charts.per_class(curves, NASTY[:6], "IoU", theme))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;"[:12] in text
    assert "<script" not in text
    assert r"$x_1 \frac{$" in text
    assert "6 others" in text
    assert theme.ink in text


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    text = drawn(LIGHT, lambda theme: charts.per_class({"_pole": {1: 0.5}}, ["_pole"], "IoU", theme))
    assert "_pole" in text


@pytest.mark.parametrize("count", [2, 12, 60])
@pytest.mark.parametrize("overlap", [False, True])
def test_every_matrix_has_a_picture(count, overlap):
    matrix = np.random.default_rng(0).integers(0, 9, (count, 2, 2) if overlap else (count, count))
    with themed(LIGHT):
        assert as_png(charts.confusion(Scores(matrix, names_of(count)), LIGHT)).startswith(b"\x89PNG")


def test_a_single_epoch_is_a_chart():
    curves = {"train/loss_epoch": {1: 0.5}, "val/loss": {1: 0.4}}
    assert "epoch" in drawn(LIGHT, lambda theme: charts.losses(curves, theme))
    assert "0.300" in drawn(DARK, lambda theme: charts.mean_iou({1: 0.3}, theme))
