"""Which samples are shown: those with the rare classes, the same ones every time."""

import numpy as np
import pytest

from segfocal.data.choice import LOOKED_AT, evenly_spread, samples_of_all_classes
from segfocal.data.labels import Labels


class Drawn:
    """A sample of which only the mask is asked for, and counted."""

    read = 0

    def __init__(self, mask):
        self.labels = mask

    def mask(self, labels):
        Drawn.read += 1
        return self.labels


def split(length, **rare):
    """Masks of class 0 with a little of another class in some: `b=3` puts one pixel of class 1 into sample 3."""
    masks = [np.zeros((4, 8), np.uint8) for _ in range(length)]
    for name, place in rare.items():
        masks[place][0, 0] = "abcdef".index(name)
    return [Drawn(mask) for mask in masks]


def test_every_class_is_shown_where_there_are_rows_enough():
    samples = split(60, b=3, c=31, d=58)
    assert set(samples_of_all_classes(samples, Labels(4, 255), 4)) >= {3, 31, 58}
    assert samples_of_all_classes(samples, Labels(4, 255), 4) == samples_of_all_classes(samples, Labels(4, 255), 4)


def test_the_rarest_class_comes_first_where_there_are_not():
    samples = split(20, b=3, c=7)
    samples[9].labels[:2] = 1
    assert samples_of_all_classes(samples, Labels(3, 255), 1) == [7]
    assert samples_of_all_classes(samples, Labels(3, 255), 2) == [7, 9], "of one class, the image with most of it"


def test_a_class_shown_is_followed_by_the_others():
    samples = split(20, b=3)
    samples[4].labels[0, 0] = 1
    for place in (5, 6, 7):
        samples[place].labels[:2] = 2
    assert samples_of_all_classes(samples, Labels(3, 255), 2) == [3, 5], "not the second one of the rarest class"


def test_masks_of_all_kinds_are_counted():
    binary = split(10, b=4)
    assert samples_of_all_classes(binary, Labels(1, 255), 1) == [4]
    dense = [Drawn(np.zeros((3, 4, 8), np.uint8)) for _ in range(10)]
    dense[6].labels[2, 0] = 1
    dense[2].labels[:] = 255
    assert samples_of_all_classes(dense, Labels(3, 255), 1) == [6]
    void = [Drawn(np.full((4, 8), 65535, np.uint16)) for _ in range(5)]
    assert len(samples_of_all_classes(void, Labels(3, 65535), 3)) == 3


def test_few_masks_are_read():
    samples = split(5000, b=0)
    Drawn.read = 0
    chosen = samples_of_all_classes(samples, Labels(2, 255), 6)
    assert Drawn.read == LOOKED_AT
    assert len(set(chosen)) == 6
    assert chosen == sorted(chosen)


@pytest.mark.parametrize(("length", "count", "expected"), [(1, 6, [0]), (3, 3, [0, 1, 2]), (100, 2, [0, 99])])
def test_indices_are_evenly_spread(length, count, expected):
    assert evenly_spread(length, count) == expected
    assert len(samples_of_all_classes(split(length), Labels(2, 255), count)) == len(expected)
