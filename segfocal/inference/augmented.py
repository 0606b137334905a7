"""Test-time augmentation: the mean of what a net says of an image flipped and scaled.

Shapes: B images, D channels, H x W pixels, C classes.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.inference.options import Flip

_DIMS = {"left_right": -1, "up_down": -2}


def average_logits(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    flips: Sequence[Flip] = (),
    scales: Sequence[float] = (),
    *,
    activation: Literal["softmax", "sigmoid"] = "softmax",
) -> Tensor:
    """Logits whose probabilities are the mean of those of the images, and of the images flipped and scaled.

    Probabilities are averaged, not logits: one view that is far too sure of itself then counts no more than the others.
    Their logarithm is returned, so that the result can be used as logits, by a loss too: softmax or sigmoid gives the
    mean back.

    Args:
        predict: Maps images (B, D, h, w) to logits (B, C, h, w).
        images: Normalised images (B, D, H, W).
        flips: left_right, up_down, or both, which also means both at once.
        scales: Factors by which the images are enlarged or shrunk, besides 1.
        activation: What makes probabilities of the logits.

    Returns:
        Logits (B, C, H, W); of no flips and no scales those of `predict`, else at least float32.

    Example:
        >>> logits = average_logits(lambda x: x, torch.randn(1, 3, 8, 8), ["left_right"])
        >>> bool((logits.exp().sum(1) - 1).abs().max() < 1e-5)
        True
    """
    chosen = [((), (_DIMS[flip],)) for flip in flips]
    views = [tuple(dim for part in parts for dim in part) for parts in product(*chosen)]
    factors = list(dict.fromkeys([1.0, *scales]))
    if len(views) * len(factors) == 1:
        return predict(images)
    size = images.shape[-2:]
    yes: Tensor | None = None
    no: Tensor | None = None
    for factor in factors:
        scaled = images if factor == 1 else _resized(images, (_side(size[0], factor), _side(size[1], factor)))
        for dims in views:
            logits = predict(scaled.flip(dims)).flip(dims)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits = logits if logits.shape[-2:] == size else _resized(logits, size)
            if activation == "softmax":
                yes = _added(yes, logits.log_softmax(1))
            else:
                yes, no = _added(yes, F.logsigmoid(logits)), _added(no, F.logsigmoid(-logits))
    assert yes is not None, "there is always the image itself"
    return yes - math.log(len(views) * len(factors)) if no is None else yes - no


def _added(total: Tensor | None, logarithm: Tensor) -> Tensor:
    return logarithm if total is None else torch.logaddexp(total, logarithm)


def _side(length: int, factor: float) -> int:
    return max(1, round(length * factor))


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    shrinks = size[0] < images.shape[-2] or size[1] < images.shape[-1]
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False, antialias=shrinks)
