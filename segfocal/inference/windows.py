"""Sliding window: the logits of an image from those of overlapping windows, from its top to its bottom.

What is blended are logits. That is linear, so a net that looks at single pixels gives the same as on the whole image;
of probabilities it is the weighted geometric mean, for softmax and sigmoid alike, so nothing need be known of the
activation; and a loss can be computed of the result.

Shapes: B images, D channels, H x W pixels, C classes, h x w pixels of a window.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from segfocal.inference.augmented import average_logits
from segfocal.inference.logits import resize_logits
from segfocal.inference.options import Blend, Inference

Predict = Callable[[Tensor], Tensor]
Activation = Literal["softmax", "sigmoid"]


def infer(
    predict: Predict,
    images: Tensor,
    how: Inference,
    size: tuple[int, int] | None = None,
    *,
    activation: Activation = "softmax",
) -> Tensor:
    """Logits of images by whole or by windows, averaged over flips and scales if wanted.

    Each window is flipped and scaled by itself, so that the memory that this takes is that of windows.

    Args:
        predict: Maps images (B, D, h, w) of any size to logits (B, C, h, w).
        images: (B, D, H, W).
        how: The options.
        size: Height and width of the result; None: those of the images.
        activation: What makes probabilities of the logits.

    Returns:
        Logits (B, C, *size).

    Example:
        >>> infer(lambda x: x, torch.zeros(1, 2, 5, 7), Inference(window=(3, 3)), (10, 14)).shape
        torch.Size([1, 2, 10, 14])
    """
    if how.window is None:
        return resize_logits(average_logits(predict, images, how.flips, how.scales, activation=activation), size)
    height, width = images.shape[-2:]
    logits: Tensor | None = None

    def read(top: int, end: int) -> Tensor:
        return images[..., top:end, :]

    for top, rows in slide(predict, read, (height, width), how, activation=activation):
        if logits is None:
            logits = rows.new_empty(*rows.shape[:2], height, width)
        logits[..., top : top + rows.shape[-2], :] = rows
    assert logits is not None, "an image has a row"
    return resize_logits(logits, size)


def slide(
    predict: Predict,
    read: Callable[[int, int], Tensor],
    size: tuple[int, int],
    how: Inference,
    *,
    activation: Activation = "softmax",
) -> Iterator[tuple[int, Tensor]]:
    """Logits of an image by windows, as soon as their rows are finished.

    Held are the logits of one row of windows, C x h x W, however high the image is.

    Args:
        predict: Maps windows (N, D, h, w) to logits (N, C, h, w).
        read: Gives the rows from `top` up to `end`, (B, D, end - top, W), of any type that `predict` takes. Neither
            falls from one call to the next.
        size: (H, W) of the image.
        how: The options; there must be a window.
        activation: What makes probabilities of the logits.

    Yields:
        The first row and the logits (B, C, rows, W) from there on, at least float32; from the top to the bottom,
        without gaps. They are overwritten when the next ones are asked for.

    Example:
        >>> image = torch.rand(1, 3, 10, 20)
        >>> parts = slide(lambda x: x, lambda top, end: image[:, :, top:end], (10, 20), Inference(window=(4, 4)))
        >>> torch.allclose(torch.cat([rows.clone() for _, rows in parts], dim=2), image)
        True
    """
    assert how.window is not None, "the caller looks"
    (height, width), (h, w) = size, how.window
    tops, lefts = starts(height, h, how.overlap), starts(width, w, how.overlap)
    down, across = weights(tops, h, how.blend), weights(lefts, w, how.blend)
    band: Tensor | None = None
    held = min(h, height)
    for row, top in enumerate(tops):
        pixels = read(top, top + held)
        for first in range(0, len(lefts), how.windows_at_once):
            columns = range(first, min(first + how.windows_at_once, len(lefts)))
            tiles = torch.cat([_enlarged(pixels[..., lefts[column] : lefts[column] + w], h, w) for column in columns])
            logits = average_logits(predict, tiles, how.flips, how.scales, activation=activation)
            logits = logits.view(len(columns), len(pixels), *logits.shape[1:])
            if band is None:
                wide = torch.promote_types(logits.dtype, torch.float32)
                band = logits.new_zeros(*logits.shape[1:3], held, max(w, width), dtype=wide)
                down, across = down.to(band), across.to(band)
            for tile, column in zip(logits, columns, strict=True):
                weight = down[row, :held, None] * across[column]
                band[..., lefts[column] : lefts[column] + w] += tile[..., :held, :] * weight
        assert band is not None, "each row has a window"
        done = (tops[row + 1] if row + 1 < len(tops) else height) - top
        yield top, band[..., :done, :width]
        kept = band[..., done:, :].clone()
        band[..., : held - done, :] = kept
        band[..., held - done :, :] = 0


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: on a grid, but the last one ends where the image does.

    >>> starts(10, 4, 0.25)
    [0, 3, 6]
    >>> starts(9, 4, 0.0)
    [0, 4, 5]
    """
    if length <= window:
        return [0]
    stride = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, stride), length - window]


def weights(begins: list[int], window: int, blend: Blend) -> Tensor:
    """How much each window says about each of its pixels along an axis; over all windows it adds up to 1.

    On a grid the products of the weights along both axes add up to 1 too, so no pixel needs to be divided by a sum.

    Args:
        begins: Where they begin.
        window: Their length.
        blend: gaussian: a normal curve around the middle, with an eighth of the window as its standard deviation;
            linear: falling in a straight line from the middle to the border.

    Returns:
        (windows, window), float64.

    >>> weights([0, 2], 4, "linear")[0].tolist()
    [1.0, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    place = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    normal, linear = torch.exp(-0.5 * (place / (window / 8)) ** 2), (window + 1) / 2 - place.abs()
    curve = normal if blend == "gaussian" else linear
    total = torch.zeros(begins[-1] + window, dtype=torch.float64)
    for begin in begins:
        total[begin : begin + window] += curve
    return torch.stack([curve / total[begin : begin + window] for begin in begins])


def _enlarged(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pixels (B, D, H, W) of any type, at least as large as a window, by repeating the last row and column."""
    for dim, least in ((-2, height), (-1, width)):
        if (there := pixels.shape[dim]) < least:
            index = torch.arange(least, device=pixels.device).clamp(max=there - 1)
            pixels = pixels.index_select(dim, index)
    return pixels
