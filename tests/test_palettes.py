"""Colours of classes."""

import pytest

from segfocal.data.palettes import default_palette


@pytest.mark.parametrize("count", [1, 7, 12, 150])
def test_palette_colours_differ_for_every_eye(count):
    palette = default_palette(count)
    assert len(set(palette)) == len(palette) == count
    assert not {(0, 0, 0), (255, 255, 255)} & set(palette)
    assert all(type(v) is int and 0 <= v <= 255 for colour in palette for v in colour)
    assert default_palette(count + 3)[:count] == palette
