"""Scenes of the embedded data set: shapes on a textured ground, with their masks.

Shapes: pictures (H, W, 3), extents (H, W).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Drawn = tuple[int, Array]  # an object: its label, and its full extent (H, W) bool

CLASSES = ("background", "block", "disc", "triangle", "wire", "dot")
_BLOCK, _DISC, _TRIANGLE, _WIRE, _DOT = range(1, 6)
# RGB in the picture; wires and dots are close to the scratches and specks of `_clutter`.
_PAINT = {
    _BLOCK: (92, 106, 136), _DISC: (100, 130, 96), _TRIANGLE: (154, 122, 80), _WIRE: (44, 34, 36), _DOT: (206, 74, 62),
}  # fmt: skip


def draw(random: np.random.Generator, size: tuple[int, int], noise: float, opacity: float) -> tuple[Array, list[Drawn]]:
    """Draw one scene.

    Args:
        random: Where every choice comes from.
        size: (H, W).
        noise: Standard deviation of the pixel noise, in grey levels of 0..255.
        opacity: Of blocks, discs and triangles; below 1 what lies under them shines through.

    Returns:
        The image (H, W, 3) uint8, and the objects from the bottom up.
    """
    texture = sum(_waves(random, size, cells) / depth for depth, cells in enumerate((3, 9, 27), 1))
    tint = np.array((126, 118, 108)) + random.normal(0, 8, 3)
    picture = tint + 22 * np.asarray(texture)[..., None] * (1.0, 0.95, 0.85)
    _clutter(random, picture)
    objects = list(_objects(random, size))
    for label, extent in objects:
        cover = cv2.GaussianBlur(extent.astype(np.float32), (0, 0), 0.55)[..., None]
        if label < _WIRE:
            shadow = np.roll(cv2.GaussianBlur(cover, (0, 0), 2), (2, 2), axis=(0, 1))[..., None]
            picture *= 1 - 0.2 * shadow
        paint = np.array(_PAINT[label]) + random.normal(0, 9, 3) + random.normal(0, 7)
        surface = paint + 10 * _waves(random, size, 5)[..., None]
        picture += cover * (opacity if label < _WIRE else 0.9) * (surface - picture)
    light = 1 + 0.22 * _waves(random, size, 2)[..., None]
    return np.clip(picture * light + random.normal(0, noise, picture.shape), 0, 255).astype(np.uint8), objects


def _waves(random: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Return a smooth random field (H, W) of about -1..1 with `cells` bumps along each side."""
    coarse = random.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))


def _clutter(random: np.random.Generator, picture: Array) -> None:
    """Add scratches and specks, which are background."""
    extent = picture.shape[1::-1]
    for _ in range(random.integers(4, 9)):
        start = random.uniform(0, 1, 2) * extent
        end = start + random.normal(0, 0.09, 2) * extent[0]
        cv2.line(picture, _pixel(start), _pixel(end), random.normal((96, 88, 84), 9).tolist(), _thickness(extent))
    for _ in range(random.integers(8, 20)):
        centre, radius = random.uniform(0, 1, 2) * extent, min(extent) * random.uniform(0.008, 0.022)
        cv2.circle(picture, _pixel(centre), max(1, round(radius)), random.normal((150, 128, 112), 9).tolist(), -1)


def _objects(random: np.random.Generator, size: tuple[int, int]) -> Iterator[Drawn]:
    large = [
        label for label, most in ((_BLOCK, 3), (_DISC, 4), (_TRIANGLE, 4)) for _ in range(random.integers(0, most))
    ]
    for label in random.permutation(large).tolist():
        yield label, _stamp(size, partial(_large, random, label=label))
    for _ in range(random.random() < 0.6):
        yield _WIRE, _stamp(size, partial(_wire, random))
    for _ in range(random.integers(1, 5) if random.random() < 0.6 else 0):
        yield _DOT, _stamp(size, partial(_dot, random))


def _stamp(size: tuple[int, int], paint: Callable[[Array], None]) -> Array:
    canvas = np.zeros(size, np.uint8)
    paint(canvas)
    return canvas.astype(bool)


def _large(random: np.random.Generator, canvas: Array, label: int) -> None:
    centre = random.uniform(0.05, 0.95, 2) * canvas.shape[::-1]
    radius = min(canvas.shape) * random.uniform(0.10, 0.24)
    if label == _DISC:
        cv2.circle(canvas, _pixel(centre), round(radius), 1, -1)
        return
    corners, stretch = (4, (random.uniform(1.0, 1.6), 1.0)) if label == _BLOCK else (3, (1.15, 1.15))
    angles = np.pi / 4 + np.arange(corners) * 2 * np.pi / corners
    turn = random.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius * stretch @ rotation + centre
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)


def _wire(random: np.random.Generator, canvas: Array) -> None:
    """Draw a thin curve from one side to the opposite one."""
    along = np.linspace(-0.02, 1.02, 24)
    middle = along - 0.5
    across = random.uniform(0.15, 0.85) + random.uniform(-0.35, 0.35) * middle + random.uniform(-0.3, 0.3) * middle**2
    points = np.stack([along, across] if random.random() < 0.6 else [across, along], 1) * canvas.shape[::-1]
    cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, 1, _thickness(canvas.shape))


def _dot(random: np.random.Generator, canvas: Array) -> None:
    centre = random.uniform(0.04, 0.96, 2) * canvas.shape[::-1]
    cv2.circle(canvas, _pixel(centre), max(1, round(min(canvas.shape) * random.uniform(0.018, 0.030))), 1, -1)


def _pixel(xy: Array) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


def _thickness(size: tuple[int, ...]) -> int:
    return max(1, round(min(size) / 96))


def flat_mask(objects: list[Drawn], size: tuple[int, int], ignore_index: int) -> Array:
    """Paint the objects over one another: labels (H, W), with an ignored outline around large objects."""
    mask = np.zeros(size, np.uint8 if ignore_index <= 255 else np.uint16)
    for label, extent in objects:
        if label < _WIRE:
            mask[_outline(extent)] = ignore_index
        mask[extent] = label
    return mask


def dense_mask(objects: list[Drawn], size: tuple[int, int], ignore_index: int) -> Array:
    """Give each class but the background a plane of 0 and 1, hidden parts included: (5, H, W)."""
    planes = np.zeros((len(CLASSES) - 1, *size), np.uint8 if ignore_index <= 255 else np.uint16)
    for label, extent in objects:
        planes[label - 1][extent] = 1
    for plane in planes[: _WIRE - 1]:
        plane[_outline(plane == 1)] = ignore_index
    return planes


def _outline(extent: Array) -> Array:
    grown: Array = cv2.dilate(extent.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return grown & ~extent
