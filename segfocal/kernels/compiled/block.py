"""A block: some hundred neighbouring pixels with all their classes, in the cache from the first operation to the last.

Loops run over its pixels, since LLVM turns those into vector instructions; what has one value per pixel is a row of the
scratch memory `s`. A strip is a longer run of pixels of one image, and a part is the strips that share partial sums.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segfocal.kernels.compiled.elementary import ONE, ZERO, compiled, f32, narrow, power, widen

PIXELS = 256  # of a block

# Rows of the scratch memory: where each begins.
WEIGHT, MASK, LABEL, X, Y, TOP, OWN, OTHERS, INVERSE, P, Q, SURPRISE, GAMMA, POWER, COUNTER, PUSH, PULL, V, A = range(
    0, 19 * PIXELS, PIXELS
)
SCRATCH = 19 * PIXELS
# Fields of the sums, in the order of `PixelSums`.
POSITIVE, NEGATIVE, OVERLAP, PREDICTED, ACTUAL, VALID, PREDICTED_SQUARED, ACTUAL_SQUARED = range(8)

TWO = f32(2)
LARGE = f32(3e38)  # in place of infinity: times 0 it is 0

# A row of the table of strips: where one begins in each tensor.
STRIP = np.dtype([(name, np.int64) for name in ("part", "image", "pixels", "logits", "target", "weight", "gradient")])


class Plane(NamedTuple):
    """A tensor (B, C, *S) as flat memory, with the steps from a class to the next and from a pixel to the next."""

    flat: np.ndarray  # half precisions as their bits, in uint16
    class_step: int
    pixel_step: int


class Input(NamedTuple):
    """What every kernel reads."""

    logits: Plane
    brain: bool  # half precision is bfloat16
    target: Plane  # class indices, with the pixels in order, or shares
    dense: bool
    weight: np.ndarray  # with the pixels in order; empty if all are 1
    classes: int
    ignore_index: int  # among class indices
    ignore_share: np.floating  # the same among shares
    gamma: np.floating  # of the dtype of the sums, as everything below
    gammas: np.ndarray  # (C,) in place of gamma, or empty
    smoothing: np.floating
    squared: bool


def memory(tensor: Tensor) -> np.ndarray:
    """The flat memory from the first to the last element; half precisions as their bits."""
    extent = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.detach().as_strided((extent if tensor.numel() else 0,), (1,))
    match tensor.dtype:
        case torch.float16 | torch.bfloat16:
            return flat.view(torch.int16).numpy().view(np.uint16)
        case torch.bool:
            return flat.view(torch.uint8).numpy()
    return flat.numpy()


# Reading and writing n pixels


@compiled
def _widen(source, brain, row, n):
    for j in range(n):
        row[j] = widen(source[j], brain)


@compiled
def _narrow(row, result, brain, n):
    for j in range(n):
        result[j] = narrow(row[j], result[j], brain)


@compiled
def read(plane, start, c, brain, row, n):
    """Class c of the pixels from `start` on, into a row."""
    start, step = start + c * plane.class_step, plane.pixel_step
    if step == 1:  # apart, so that it becomes vector instructions
        _widen(plane.flat[start : start + n], brain, row, n)
    else:
        _widen(plane.flat[start : start + n * step : step], brain, row, n)


@compiled
def write(row, plane, start, c, brain, n):
    """The reverse of `read`."""
    start, step = start + c * plane.class_step, plane.pixel_step
    if step == 1:
        _narrow(row, plane.flat[start : start + n], brain, n)
    else:
        _narrow(row, plane.flat[start : start + n * step : step], brain, n)


@compiled
def read_pixels(data, strip, at, s, n):
    """WEIGHT of the pixels, 0 where ignored, and LABEL, their class. Returns whether a label is illegal."""
    illegal, last = 0, max(data.classes, 2) - 1
    for j in range(n):
        s[WEIGHT + j] = ONE
    if len(data.weight):
        _widen(data.weight[strip.weight + at : strip.weight + at + n], False, s[WEIGHT:], n)
    if not data.dense:
        labels = data.target.flat[strip.target + at : strip.target + at + n]
        for j in range(n):
            label, weight = np.int64(labels[j]), s[WEIGHT + j]
            ignored = label == data.ignore_index
            wrong = (label < 0) | (label > last)
            illegal |= wrong & (not ignored)
            s[WEIGHT + j] = ZERO if ignored else weight
            s[LABEL + j] = ZERO if wrong else f32(label)
    return illegal


@compiled
def read_shares(data, strip, at, c, s, n):
    """Y, the share of class c, and MASK, the weight, 0 where it is ignored. Returns whether a share is illegal."""
    illegal = 0
    if not data.dense:
        wanted = f32(c) if data.classes > 1 else ONE  # one channel is class 1, the object
        for j in range(n):
            s[Y + j] = ONE if s[LABEL + j] == wanted else ZERO
            s[MASK + j] = s[WEIGHT + j]
        return illegal
    read(data.target, strip.target + at * data.target.pixel_step, c, False, s[Y:], n)
    for j in range(n):
        y, weight = s[Y + j], s[WEIGHT + j]
        ignored = y == data.ignore_share
        illegal |= (not ((y >= ZERO) & (y <= ONE))) & (not ignored)
        s[MASK + j] = ZERO if ignored else weight
        s[Y + j] = ZERO if ignored else y
    return illegal


@compiled
def gamma_of(data, c):
    """The gamma of class c."""
    return data.gammas[c] if len(data.gammas) else data.gamma


@compiled
def raise_row(source, gamma, result, s, n):
    """The row `result` becomes the row `source` to the power of gamma."""
    if gamma == 0:
        for j in range(n):
            s[result + j] = ONE
    elif gamma == 2:
        for j in range(n):
            s[result + j] = s[source + j] * s[source + j]
    else:
        for j in range(n):
            s[result + j] = power(s[source + j], gamma)
