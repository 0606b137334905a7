"""Contact sheets: rows of pictures under column titles, with the colours of the classes below.

Shapes: pictures (H, W, 3) uint8 RGB, of any sizes.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segfocal.evaluation.pictures import Colour, Picture

_GAP, _LINE, _TEXT = 8, 26, 15  # pixels between pictures, of a line of text, of a letter
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def contact_sheet(
    rows: Sequence[Sequence[NDArray[Any]]],
    titles: Sequence[str],
    legend: Sequence[tuple[str, Colour]] = (),
    *,
    names: Sequence[str] = (),
    width: int = 320,
) -> Picture:
    """Lay pictures out in rows.

    Args:
        rows: The pictures (H, W, 3) of each row, as many as `titles`; each is shrunk or enlarged to `width`.
        titles: One above each column.
        legend: Names and colours, below.
        names: One above each row; none if empty.
        width: Of each picture, in pixels.

    Returns:
        The sheet (H, W, 3).

    Raises:
        ValueError: No rows, or a row without a picture for each title.

    Example:
        >>> grey = np.full((48, 64, 3), 100, np.uint8)
        >>> contact_sheet([[grey, grey]], ["image", "mask"], [("road", (128, 64, 128))], width=64).shape
        (108, 152, 3)
    """
    if not rows or any(len(row) != len(titles) for row in rows):
        raise ValueError(f"Expected `rows` of {len(titles)} pictures each, got {[len(row) for row in rows]}.")
    font = ImageFont.load_default(_TEXT)
    pictures = [[_fitted(picture, width) for picture in row] for row in rows]
    across = _GAP + len(titles) * (width + _GAP)
    label = _LINE if names else 0
    heights = [label + max(picture.height for picture in row) + _GAP for row in pictures]
    entries = _flowed(legend, font, across)
    sheet = Image.new(
        "RGB", (across, _LINE + sum(heights) + _LINE * (1 + max((y for *_, y in entries), default=-1))), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (width + _GAP), 5), title, _INK, font)
    top = _LINE
    for number, (row, height) in enumerate(zip(pictures, heights, strict=True)):
        if names:
            draw.text((_GAP, top + 4), names[number], _INK, font)
        for column, picture in enumerate(row):
            sheet.paste(picture, (_GAP + column * (width + _GAP), top + label))
        top += height
    for name, colour, x, line in entries:
        y = top + line * _LINE
        draw.rectangle((x, y + 6, x + 13, y + 19), colour, _INK)
        draw.text((x + 19, y + 4), name, _INK, font)
    return np.asarray(sheet, dtype=np.uint8)


def _fitted(picture: NDArray[Any], width: int) -> Image.Image:
    height = max(1, min(3 * width, round(picture.shape[0] * width / picture.shape[1])))  # a thin one is squeezed
    shrinks = width < picture.shape[1]
    # Enlarged by the nearest pixel: small images show their pixels.
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return Image.fromarray(np.asarray(cv2.resize(picture, (width, height), interpolation=how), dtype=np.uint8))


def _flowed(
    legend: Sequence[tuple[str, Colour]],
    font: Any,  # noqa: ANN401
    across: int,
) -> list[tuple[str, Colour, int, int]]:
    """The entries with their x and their line, broken where the sheet ends."""
    x, line, placed = _GAP, 0, []
    for name, colour in legend:
        need = 19 + round(font.getlength(name)) + 2 * _GAP
        if x > _GAP and x + need > across:
            x, line = _GAP, line + 1
        placed.append((name, colour, x, line))
        x += need
    return placed
