"""Colours of classes for pictures."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The colours of Okabe and Ito (2008) without black: told apart with and without colour blindness.
_FIRST_COLOURS = [
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
]  # fmt: skip
# RGB (linear) as seen with deuteranopia (Machado, Oliveira and Fernandes, 2009).
_DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])


def default_palette(count: int) -> list[tuple[int, int, int]]:
    """Return `count` distinct RGB colours; black and white stay free for void and outlines.

    >>> default_palette(2)
    [(0, 114, 178), (230, 159, 0)]
    """
    palette = list(_FIRST_COLOURS)
    steps = np.linspace(30, 255, 9).astype(np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    seen = _perceived(candidates)
    taken = _perceived(np.array([*palette, (0, 0, 0), (255, 255, 255)], np.uint8))
    nearest = np.min([_distance(seen, taken[:, i : i + 1]) for i in range(taken.shape[1])], axis=0)
    while len(palette) < count:
        best = int(nearest.argmax())
        palette.append(tuple(int(v) for v in candidates[best]))  # type: ignore[arg-type]
        nearest = np.minimum(nearest, _distance(seen, seen[:, best : best + 1]))
    return palette[:count]


def _perceived(colours: Array) -> Array:
    """Map RGB (N, 3) uint8 to Lab (2, N, 3), as seen with normal vision and with deuteranopia."""
    linear = (colours / 255.0) ** 2.2
    views = np.stack([linear, np.clip(linear @ _DEUTERANOPIA.T, 0, 1)]) ** (1 / 2.2)
    return np.asarray(cv2.cvtColor(views.astype(np.float32), cv2.COLOR_RGB2LAB))


def _distance(seen: Array, one: Array) -> Array:
    """Lab distance of each colour of (2, N, 3) to the one of (2, 1, 3), in the view where they are closer."""
    distance: Array = np.linalg.norm(seen - one, axis=-1).min(axis=0)
    return distance
