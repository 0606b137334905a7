"""Pictures of samples: the image, with the classes of its mask tinted and ignored pixels striped.

Shapes: image (H, W, N) with N channels; mask (H, W) labels, or dense (C, H, W) of 0 and 1 with C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfocal.evaluation.pictures import Colour, Picture, as_picture, tinted

Array = NDArray[Any]

_STRIPES = 26  # pairs of a dark and a light one across a picture, whatever its size


@dataclass(frozen=True)
class LabelPainter:
    """Paints masks onto images.

    Attributes:
        class_names: The C names; a single one means that masks hold 0 (the background) and 1. A class called background
            is not tinted.
        palette: One colour per class.
        ignore_index: Label of the pixels to be striped.

    Example:
        >>> painter = LabelPainter(["road", "car"], [(128, 64, 128), (0, 0, 255)], ignore_index=255)
        >>> [name for name, _ in painter.legend]
        ['road', 'car', 'ignored (striped)']
        >>> painter.paint(np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint8))[2, 2].tolist()
        [0, 0, 128]
    """

    class_names: Sequence[str]
    palette: Sequence[Colour]
    ignore_index: int

    @property
    def legend(self) -> list[tuple[str, Colour]]:
        """What each colour means."""
        entries = [
            (shortened(name, 40), (255, 255, 255) if index in self._clear else colour)
            for index, (name, colour) in enumerate(zip(self.class_names, self.palette, strict=True))
        ]
        return [*entries, ("ignored (striped)", (0, 0, 0))]

    def paint(self, image: Array, mask: Array, opacity: float = 0.5) -> Picture:
        """Return the picture (H, W, 3) in the size of the mask, the colours having this share in it."""
        ignored = mask == self.ignore_index
        labels = np.where(ignored, len(self.palette) + 1, mask).astype(np.int64)  # a label without a colour
        picture = tinted(as_picture(image), labels, self.class_names, self.palette, opacity)
        return striped(picture, ignored if mask.ndim == 2 else ignored.any(0))

    @property
    def _clear(self) -> list[int]:
        return [index for index, name in enumerate(self.class_names) if name.lower() == "background"]


def shortened(text: str, letters: int) -> str:
    """A text for one line of a picture: no line breaks or other control characters, and the middle left out.

    >>> shortened("images/train/a long name.png", 18)
    'images/..name.png'
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(text) <= letters:
        return text
    side = (letters - 2) // 2
    return f"{text[: side - 1]}..{text[-side:]}"


def striped(picture: Picture, there: Array) -> Picture:
    """Dark and light stripes, which are seen on black and on white, and let the picture through."""
    rows, columns = np.nonzero(there)
    width = max(1, round(there.shape[1] / (2 * _STRIPES)))
    light = (rows + columns) // width % 2 == 1
    below, picture = picture[rows, columns], picture.copy()
    picture[rows, columns] = np.where(light[:, None], 0.5 * below + 127.5, 0.3 * below).round()
    return picture
