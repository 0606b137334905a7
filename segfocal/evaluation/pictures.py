"""Pictures of labels: indexed palette PNGs, and overlays on the image.

Shapes: image (H, W, 3) uint8 RGB; labels (H, W) class indices; palette C colours as (red, green, blue) in 0..255.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]
Labels = NDArray[np.integer[Any]]


def write_palette_png(path: Path, labels: Labels, palette: Sequence[Colour]) -> None:
    """Write labels as an 8-bit PNG whose pixel values are the class indices, shown in the palette's colours.

    A palette of more than 256 colours, which PNG cannot hold, makes it a 16-bit PNG without colours.

    Raises:
        ValueError: A label outside the palette.
    """
    if labels.size and (labels.min() < 0 or labels.max() >= len(palette)):
        raise ValueError(f"Expected `labels` in 0..{len(palette) - 1}, got {labels.min()} to {labels.max()}.")
    if len(palette) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path, format="PNG")
        return
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(bytes(channel for colour in palette for channel in colour))
    picture.save(path, format="PNG")


def overlay(
    image: Picture, labels: Labels, palette: Sequence[Colour], opacity: float = 0.5, *, clear: Iterable[int] = ()
) -> Picture:
    """The image with each pixel tinted in its class's colour, and a line along the classes' borders.

    Args:
        image: The image, resized to the labels when its size is another one.
        labels: Class indices; those without a colour, and those in `clear`, stay untinted.
        palette: One colour per class.
        opacity: Share of the colour, in 0..1.
        clear: Class indices to leave untinted, such as the background.

    Returns:
        The picture, in the size of the labels.

    Example:
        >>> grey = np.full((2, 2, 3), 100, np.uint8)
        >>> overlay(grey, np.array([[0, 0], [0, 1]]), [(0, 0, 0), (255, 0, 0)], clear=[0])[0, 0].tolist()
        [100, 100, 100]
    """
    height, width = labels.shape
    if image.shape[:2] != (height, width):
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    colours = np.zeros((max(len(palette), int(labels.max(initial=0)) + 1), 3), np.float32)
    colours[: len(palette)] = palette
    tinted = np.isin(labels, [index for index in range(len(palette)) if index not in set(clear)])
    border = cv2.morphologyEx(labels.astype(np.uint16), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    share = np.where(tinted, np.where(border, 1.0, opacity), 0.0)[..., None].astype(np.float32)
    mixed = image * (1 - share) + colours[labels] * share
    return np.clip(mixed.round(), 0, 255).astype(np.uint8)


def tinted(
    image: Picture, labels: Labels, class_names: Sequence[str], palette: Sequence[Colour], opacity: float = 0.5
) -> Picture:
    """The image under the colours of its labels, whatever their kind; the background stays untinted.

    Args:
        image: The image, of any size.
        labels: Class indices (H, W); for a single class 0 and 1 (H, W); for classes that overlap 0 and 1 (C, H, W).
            Other values, such as those of ignored pixels, stay untinted.
        class_names: The C names.
        palette: One colour per class.
        opacity: Share of the colour, in 0..1.

    Example:
        >>> grey = np.full((2, 2, 3), 100, np.uint8)
        >>> tinted(grey, np.array([[0, 0], [0, 1]]), ["crack"], [(255, 0, 0)])[1, 1].tolist()
        [255, 0, 0]
    """
    background = [index for index, name in enumerate(class_names) if name.lower() == "background"]
    if labels.ndim == 3:
        for index, plane in enumerate(labels):
            if index not in background:
                image = overlay(image, plane, [(0, 0, 0), palette[index]], opacity, clear=[0])
        return image
    if len(class_names) == 1:
        return overlay(image, labels, [(0, 0, 0), palette[0]], opacity, clear=[0])
    return overlay(image, labels, palette, opacity, clear=background)


def as_picture(image: NDArray[Any]) -> Picture:
    """An image (H, W, D) as something to look at, (H, W, 3) uint8.

    Three channels and more: the first three. Fewer: the first, as grey. What is not uint8 is stretched from its least
    to its largest value.
    """
    shown = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        shown = (255 * (shown.astype(np.float64) - low) / ((high - low) or 1)).round()
    return np.ascontiguousarray(shown, dtype=np.uint8)
