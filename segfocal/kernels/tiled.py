"""The sums on the CPU, block by block, with the closed-form gradient: compiled by Numba, in as many threads as PyTorch.

A block is some hundred neighbouring pixels with all their classes, which stay in the cache from the first operation to
the last. Loops run over its pixels, which LLVM turns into vector instructions; what has one value per pixel is a row of
the scratch memory `s`. A strip is a longer run of pixels of one image, and a part is the strips that share partial sums.

Reads downwards: reading a block; softmax with one class per pixel; softmax with shares; sigmoid; cutting tensors into
strips; the two operators; `pixel_sums`. With f, u, g and h the derivatives of the loss by positive_focal, overlap,
predicted and predicted_squared:

    q = 1 - p    surprise = -log p    slope = q^gamma (gamma p surprise + q), that of the focal term by log(q / p)
    a_c = g_c + y_c u_c + 2 p_c h_c    w_c = f_c y_c slope_c

    softmax: dL/dx_j = m (p_j sum over c != j of w_c / q_c - w_j + p_j (a_j - sum of p_c a_c))
    sigmoid: class by class a softmax over (x, 0)
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from segfocal.kernels import PixelSums
from segfocal.kernels.elementary import FLAGS, HALF, ONE, TINY, ZERO, exp, f32, log, log1p, narrow, power, widen

PIXELS = 256  # of a block
STRIP = 2**18  # logits of a strip at most, and of a part at least, where the image has as many

# Rows of the scratch memory: where each begins.
WEIGHT, MASK, LABEL, X, Y, TOP, OWN, OTHERS, INVERSE, P, Q, SURPRISE, GAMMA, POWER, COUNTER, PUSH, PULL, V, A = range(
    0, 19 * PIXELS, PIXELS
)
END = 19 * PIXELS
# Fields of the sums, in the order of `PixelSums`.
POSITIVE, NEGATIVE, OVERLAP, PREDICTED, ACTUAL, VALID, PREDICTED_SQUARED, ACTUAL_SQUARED = range(8)

TWO = f32(2)
LEAST, MOST = f32(1e-18), f32(1e18)  # between them products and quotients of exponentials lose nothing
LARGE = f32(3e38)  # in place of infinity: times 0 it is 0
REORDERED = FLAGS | {"fastmath": {"contract", "reassoc"}}  # for sums, which the order of n terms may not change much


class Input(NamedTuple):
    """What every kernel reads; the tensors as flat memory."""

    logits: np.ndarray  # half precisions as their bits, in uint16
    class_step: int  # from one class to the next, and from one pixel of a strip to the next
    pixel_step: int
    brain: bool  # half precision is bfloat16
    target: np.ndarray  # class indices, with the pixels in order, or shares
    dense: bool
    target_class_step: int  # of shares
    target_pixel_step: int
    weight: np.ndarray  # with the pixels in order; empty if all are 1
    classes: int
    ignore_index: int
    gamma: float  # of the dtype of the sums, as everything below
    gammas: np.ndarray  # (C,) in place of gamma, or empty
    smoothing: float
    squared: bool


# Pixels of one image, the part whose sums they enter, and where they begin in each tensor.
STRIP_FIELDS = np.dtype([(name, np.int64) for name in ("part", "image", "pixels", "logits", "target", "weight", "out")])


# Reading a block


@njit(**FLAGS)
def _copy(source, brain, row, n):
    for j in range(n):
        row[j] = widen(source[j], brain)


@njit(**FLAGS)
def _read(flat, start, step, brain, row, n):
    if step == 1:  # apart, so that it becomes vector instructions
        _copy(flat[start : start + n], brain, row, n)
    else:
        _copy(flat[start : start + n * step : step], brain, row, n)


@njit(**FLAGS)
def _read_pixels(data, strip, at, s, n):
    """WEIGHT of the pixels, 0 where ignored, and LABEL, their class. Returns whether a label is illegal."""
    illegal, last = 0, max(data.classes, 2) - 1
    for j in range(n):
        s[WEIGHT + j] = ONE
    if len(data.weight):
        _copy(data.weight[strip.weight + at : strip.weight + at + n], False, s[WEIGHT:], n)
    if not data.dense:
        labels = data.target[strip.target + at : strip.target + at + n]
        for j in range(n):
            label = np.int64(labels[j])
            ignored = label == data.ignore_index
            wrong = (label < 0) | (label > last)
            illegal |= wrong & (not ignored)
            weight = s[WEIGHT + j]
            s[WEIGHT + j] = ZERO if ignored else weight
            s[LABEL + j] = ZERO if wrong else f32(label)
    return illegal


@njit(**FLAGS)
def _read_shares(data, strip, at, c, s, n):
    """Y, the share of class c, and MASK, the weight, 0 where it is ignored. Returns whether a share is illegal."""
    illegal = 0
    if not data.dense:
        wanted = f32(c) if data.classes > 1 else ONE  # one channel is class 1, the object
        for j in range(n):
            s[Y + j] = ONE if s[LABEL + j] == wanted else ZERO
            s[MASK + j] = s[WEIGHT + j]
        return illegal
    start = strip.target + at * data.target_pixel_step + c * data.target_class_step
    _read(data.target, start, data.target_pixel_step, False, s[Y:], n)
    for j in range(n):
        y, weight = s[Y + j], s[WEIGHT + j]
        ignored = y == data.ignore_index
        illegal |= (not ((y >= ZERO) & (y <= ONE))) & (not ignored)
        s[MASK + j] = ZERO if ignored else weight
        s[Y + j] = ZERO if ignored else y
    return illegal


@njit(**FLAGS)
def _raise(source, gamma, result, s, n):
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


@njit(**FLAGS)
def _write(result, row, brain, n):
    for j in range(n):
        result[j] = narrow(row[j], result[j], brain)


# Softmax, one class per pixel. e (C, PIXELS) holds the exponentials, 0 at the pixel's own class.


@njit(**FLAGS)
def _exponentials(source, brain, c, e, s, n):
    label = f32(c)
    for j in range(n):
        x = widen(source[j], brain)
        x = x if s[WEIGHT + j] != ZERO else ZERO  # NaN and infinities of ignored pixels
        value = exp(x - s[TOP + j])
        mine = s[LABEL + j] == label
        s[OWN + j] += value if mine else ZERO
        value = ZERO if mine else value
        s[OTHERS + j] += value
        e[j] = value


@njit(**FLAGS)
def _split(data, start, e, s, n):
    """OWN and OTHERS, the exponentials of the pixel's class and the sum of all others, above TOP."""
    for j in range(n):
        s[OWN + j] = ZERO
        s[OTHERS + j] = ZERO
    for c in range(data.classes):
        first = start + c * data.class_step
        if data.pixel_step == 1:
            _exponentials(data.logits[first : first + n], data.brain, c, e[c], s, n)
        else:
            _read(data.logits, first, data.pixel_step, data.brain, e[-1], n)
            _exponentials(e[-1], data.brain, c, e[c], s, n)


@njit(**FLAGS)
def _find_top(data, start, s, n):
    """TOP, the largest logit of the pixel."""
    for c in range(data.classes):
        _read(data.logits, start + c * data.class_step, data.pixel_step, data.brain, s[X:], n)
        for j in range(n):
            x, top = s[X + j], s[TOP + j]
            top = x if (c == 0) | (x > top) else top
            s[TOP + j] = top if s[WEIGHT + j] != ZERO else ZERO


@njit(**FLAGS)
def _odds(data, strip, at, e, s, n):
    """e, INVERSE, P, Q and SURPRISE of a block whose pixels are read."""
    start = strip.logits + at * data.pixel_step
    for j in range(n):
        s[TOP + j] = ZERO
    _split(data, start, e, s, n)
    outside = 0
    for j in range(n):
        own, total = s[OWN + j], s[OWN + j] + s[OTHERS + j]
        outside |= not ((own >= LEAST) & (total <= MOST))
    if outside:  # or NaN
        _find_top(data, start, s, n)
        _split(data, start, e, s, n)
    for j in range(n):
        own, others = s[OWN + j], s[OTHERS + j]
        inverse = ONE / (own + others)
        s[INVERSE + j] = inverse
        s[P + j] = own * inverse
        s[Q + j] = others * inverse
        s[SURPRISE + j] = log1p(others / own)
    if outside:
        for j in range(n):
            if s[OWN + j] < LEAST and s[WEIGHT + j] != ZERO:  # the exponential is 0 or has lost digits
                place = start + int(s[LABEL + j]) * data.class_step + j * data.pixel_step
                x = widen(data.logits[place], data.brain)
                s[SURPRISE + j] = log(s[OTHERS + j]) - (x - s[TOP + j])
    if len(data.gammas):
        for j in range(n):
            s[GAMMA + j] = data.gammas[int(s[LABEL + j])]
        for j in range(n):
            s[POWER + j] = power(s[Q + j], s[GAMMA + j]) if s[GAMMA + j] != ZERO else ONE
    else:
        for j in range(n):
            s[GAMMA + j] = data.gamma
        _raise(Q, data.gamma, POWER, s, n)


@njit(**REORDERED)
def _class_totals(e, c, s, n):
    label, positive, overlap, predicted, actual = f32(c), ZERO, ZERO, ZERO, ZERO
    for j in range(n):
        mine = s[LABEL + j] == label
        positive += s[POWER + j] if mine else ZERO
        overlap += s[P + j] if mine else ZERO
        actual += s[WEIGHT + j] if mine else ZERO
        predicted += e[j] * s[INVERSE + j]
    return positive, overlap, predicted, actual


@njit(**REORDERED)
def _class_squares(e, c, s, n):
    label, total = f32(c), ZERO
    for j in range(n):
        p = s[P + j] if s[LABEL + j] == label else e[j] * s[INVERSE + j]
        total += s[WEIGHT + j] * p * p
    return total


@njit(**FLAGS)
def _index_sums(data, strips, s, e, out):
    for strip in strips:
        sums = out[strip.part]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            if _read_pixels(data, strip, at, s, n):
                sums[:] = np.nan
            _odds(data, strip, at, e, s, n)
            if data.squared:
                for c in range(data.classes):
                    sums[PREDICTED_SQUARED, c] += _class_squares(e[c], c, s, n)
            for j in range(n):
                weight = s[WEIGHT + j]
                s[POWER + j] *= s[SURPRISE + j] * weight
                s[P + j] *= weight
                s[INVERSE + j] *= weight
            for c in range(data.classes):
                positive, overlap, predicted, actual = _class_totals(e[c], c, s, n)
                sums[POSITIVE, c] += positive
                sums[OVERLAP, c] += overlap
                sums[PREDICTED, c] += predicted + overlap
                sums[ACTUAL, c] += actual


@njit(**FLAGS)
def _write_softmax(e, c, predicted, squares, s, result, brain, n):
    label = f32(c)
    for j in range(n):
        value = e[j]
        value = value * (predicted * s[X + j] + s[PUSH + j] + squares * value * s[INVERSE + j])
        own = s[OWN + j]
        value = own if s[LABEL + j] == label else value
        result[j] = narrow(value, result[j], brain)


@njit(**FLAGS)
def _index_gradient(data, strips, s, e, grads, out, class_step, pixel_step):
    for strip in strips:
        positive, overlap, predicted, squares = (
            grads[strip.image, 0],
            grads[strip.image, 1],
            grads[strip.image, 2],
            grads[strip.image, 3],
        )
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            _read_pixels(data, strip, at, s, n)
            _odds(data, strip, at, e, s, n)
            _index_slopes(data, positive, overlap, predicted, squares, e, s, n)
            for c in range(data.classes):
                first = strip.out + at * pixel_step + c * class_step
                if pixel_step == 1:
                    result = out[first : first + n]
                    _write_softmax(e[c], c, predicted[c], TWO * squares[c], s, result, data.brain, n)
                else:
                    _write_softmax(e[c], c, predicted[c], TWO * squares[c], s, e[-1], data.brain, n)
                    _store(out, first, pixel_step, e[-1], data.brain, n)


@njit(**FLAGS)
def _index_slopes(data, positive, overlap, predicted, squares, e, s, n):
    """OWN, the gradient of the pixel's class; with X and PUSH that of another is e_c (predicted_c X + PUSH + ...)."""
    for j in range(n):
        s[A + j] = ZERO
    for c in range(data.classes):
        slope, row = predicted[c], e[c]
        for j in range(n):
            s[A + j] += slope * row[j]
    for j in range(n):
        c = int(s[LABEL + j])
        s[PUSH + j] = positive[c]
        s[V + j] = overlap[c] + predicted[c]
    if data.squared:
        for c in range(data.classes):
            slope, row = TWO * squares[c], e[c]
            for j in range(n):
                s[A + j] += slope * row[j] * row[j] * s[INVERSE + j]
        for j in range(n):
            s[V + j] += TWO * squares[int(s[LABEL + j])] * s[P + j]
    for j in range(n):
        p, q, v, weight = s[P + j], s[Q + j], s[V + j], s[WEIGHT + j]
        push = s[PUSH + j] * s[POWER + j] * (s[GAMMA + j] * p * min(s[SURPRISE + j], LARGE) + q)
        a, scale = s[A + j] * s[INVERSE + j], weight * s[INVERSE + j]
        s[OWN + j] = weight * (p * (q * v - a) - push)
        s[PUSH + j] = scale * (push / max(q, TINY) - a - p * v)
        s[X + j] = scale
        s[INVERSE + j] *= scale


# Softmax, any share of any class


@njit(**FLAGS)
def _exclude(data, strip, at, s, n):
    """WEIGHT becomes 0 where the share of any class is ignored. Returns whether a share is illegal."""
    illegal = 0
    if data.dense:
        for c in range(data.classes):
            illegal |= _read_shares(data, strip, at, c, s, n)
            for j in range(n):
                s[WEIGHT + j] = s[MASK + j]
    return illegal


@njit(**FLAGS)
def _all_odds(data, strip, at, e, d, s, n):
    """The exponentials e and their logarithms d below the largest; OTHERS, the sum but for that one, and INVERSE."""
    start = strip.logits + at * data.pixel_step
    for c in range(data.classes):
        _read(data.logits, start + c * data.class_step, data.pixel_step, data.brain, s[X:], n)
        row = d[c]
        for j in range(n):
            x, top, which = s[X + j], s[TOP + j], s[OWN + j]
            x = x if s[WEIGHT + j] != ZERO else ZERO
            higher = (x > top) | (c == 0)
            s[TOP + j] = x if higher else top
            s[OWN + j] = f32(c) if higher else which
            row[j] = x
    for j in range(n):
        s[OTHERS + j] = ZERO
    for c in range(data.classes):
        row, values, label = d[c], e[c], f32(c)
        for j in range(n):
            below = row[j] - s[TOP + j]
            value = exp(below)
            row[j] = below
            values[j] = value
            s[OTHERS + j] += ZERO if s[OWN + j] == label else value
    for j in range(n):
        s[INVERSE + j] = ONE / (ONE + s[OTHERS + j])


@njit(**FLAGS)
def _class_terms(data, c, e, d, s, n):
    """P, Q, SURPRISE and POWER of class c."""
    label = f32(c)
    for j in range(n):
        p, others = e[j] * s[INVERSE + j], s[OTHERS + j]
        # 1 - p loses digits for the likeliest class alone
        q = others * s[INVERSE + j] if s[OWN + j] == label else ONE - p
        s[P + j] = p
        s[Q + j] = q
        s[SURPRISE + j] = log1p(others) - d[j]
    _raise(Q, _gamma_of(data, c), POWER, s, n)


@njit(**FLAGS)
def _gamma_of(data, c):
    return data.gammas[c] if len(data.gammas) else data.gamma


@njit(**FLAGS)
def _smooth(data, outcomes, s, n):
    """X, the share Y smoothed."""
    rest, keep = data.smoothing / outcomes, ONE - data.smoothing
    for j in range(n):
        s[X + j] = keep * s[Y + j] + rest


@njit(**REORDERED)
def _share_totals(s, n):
    positive, negative, overlap, predicted, actual, valid = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for j in range(n):
        weight, y, smooth, p = s[MASK + j], s[Y + j], s[X + j], s[P + j]
        focal, counter = s[POWER + j], s[COUNTER + j]
        # A term with the factor 0 may be infinite.
        positive += weight * smooth * focal if smooth != ZERO else ZERO
        negative += weight * (ONE - smooth) * counter if smooth != ONE else ZERO
        overlap += weight * p * y
        predicted += weight * p
        actual += weight * y
        valid += weight
    return positive, negative, overlap, predicted, actual, valid


@njit(**REORDERED)
def _share_squares(s, n):
    predicted, actual = ZERO, ZERO
    for j in range(n):
        weight, y, p = s[MASK + j], s[Y + j], s[P + j]
        predicted += weight * p * p
        actual += weight * y * y
    return predicted, actual


@njit(**FLAGS)
def _add_shares(data, c, sums, s, n):
    positive, negative, overlap, predicted, actual, valid = _share_totals(s, n)
    sums[POSITIVE, c] += positive
    sums[NEGATIVE, c] += negative
    sums[OVERLAP, c] += overlap
    sums[PREDICTED, c] += predicted
    sums[ACTUAL, c] += actual
    sums[VALID, c] += valid
    if data.squared:
        predicted, actual = _share_squares(s, n)
        sums[PREDICTED_SQUARED, c] += predicted
        sums[ACTUAL_SQUARED, c] += actual


@njit(**FLAGS)
def _share_sums(data, strips, s, e, d, out):
    for strip in strips:
        sums = out[strip.part]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            if _read_pixels(data, strip, at, s, n) | _exclude(data, strip, at, s, n):
                sums[:] = np.nan
            _all_odds(data, strip, at, e, d, s, n)
            for c in range(data.classes):
                _read_shares(data, strip, at, c, s, n)
                _smooth(data, f32(data.classes), s, n)
                _class_terms(data, c, e[c], d[c], s, n)
                for j in range(n):
                    s[POWER + j] *= s[SURPRISE + j]
                    s[COUNTER + j] = ZERO
                _add_shares(data, c, sums, s, n)


@njit(**FLAGS)
def _share_gradient(data, strips, s, e, d, grads, out, class_step, pixel_step):
    for strip in strips:
        grad = grads[strip.image]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            _read_pixels(data, strip, at, s, n)
            _exclude(data, strip, at, s, n)
            _all_odds(data, strip, at, e, d, s, n)
            for j in range(n):
                s[PULL + j] = ZERO  # sum of w / q
                s[V + j] = ZERO  # sum of p a
            for c in range(data.classes):
                _read_shares(data, strip, at, c, s, n)
                _smooth(data, f32(data.classes), s, n)
                _class_terms(data, c, e[c], d[c], s, n)
                _share_slope(_gamma_of(data, c), grad[0, c], d[c], s, n)
                _region_slope(grad[1, c], grad[2, c], grad[3, c], s, n)
                row = d[c]
                for j in range(n):
                    s[PULL + j] += row[j] / max(s[Q + j], TINY)
                    s[V + j] += s[P + j] * s[A + j]
            for c in range(data.classes):
                _read_shares(data, strip, at, c, s, n)
                row, values, label = d[c], e[c], f32(c)
                for j in range(n):
                    p = values[j] * s[INVERSE + j]
                    q = s[OTHERS + j] * s[INVERSE + j]
                    q = q if s[OWN + j] == label else ONE - p
                    s[P + j] = p
                    s[Q + j] = q
                _region_slope(grad[1, c], grad[2, c], grad[3, c], s, n)
                for j in range(n):
                    p, w = s[P + j], row[j]
                    others = s[PULL + j] - w / max(s[Q + j], TINY)
                    s[X + j] = s[MASK + j] * (p * others - w + p * (s[A + j] - s[V + j]))
                start = strip.out + at * pixel_step + c * class_step
                _store(out, start, pixel_step, s[X:], data.brain, n)


@njit(**FLAGS)
def _share_slope(gamma, positive, w, s, n):
    """The derivative w of the focal term of a class by its log-odds."""
    for j in range(n):
        slope = s[POWER + j] * (gamma * s[P + j] * min(s[SURPRISE + j], LARGE) + s[Q + j])
        w[j] = positive * s[X + j] * slope


@njit(**FLAGS)
def _region_slope(overlap, predicted, squares, s, n):
    """A, the derivative by p of what depends on overlap, predicted and predicted_squared."""
    for j in range(n):
        s[A + j] = predicted + overlap * s[Y + j] + TWO * squares * s[P + j]


@njit(**FLAGS)
def _store(flat, start, step, row, brain, n):
    if step == 1:
        _write(flat[start : start + n], row, brain, n)
    else:
        _write(flat[start : start + n * step : step], row, brain, n)


# Sigmoid: every class for itself


@njit(**FLAGS)
def _binary_terms(data, strip, at, c, s, n):
    """P and Q, POWER and SURPRISE of a positive, COUNTER and TOP of a negative."""
    start = strip.logits + at * data.pixel_step + c * data.class_step
    _read(data.logits, start, data.pixel_step, data.brain, s[X:], n)
    for j in range(n):
        x = s[X + j]
        x = x if s[MASK + j] != ZERO else ZERO  # NaN and infinities of ignored elements
        size = abs(x)
        small = exp(-size)
        inverse, rest = ONE / (ONE + small), log1p(small)
        large, small = inverse, small * inverse
        s[P + j] = large if x >= ZERO else small
        s[Q + j] = small if x >= ZERO else large
        s[SURPRISE + j] = rest if x >= ZERO else rest + size
        s[TOP + j] = rest + size if x >= ZERO else rest
    gamma = _gamma_of(data, c)
    _raise(Q, gamma, POWER, s, n)
    _raise(P, gamma, COUNTER, s, n)


@njit(**FLAGS)
def _sigmoid_sums(data, strips, s, out):
    for strip in strips:
        sums = out[strip.part]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            illegal = _read_pixels(data, strip, at, s, n)
            for c in range(data.classes):
                illegal |= _read_shares(data, strip, at, c, s, n)
                _binary_terms(data, strip, at, c, s, n)
                _smooth(data, TWO, s, n)
                for j in range(n):
                    s[POWER + j] *= s[SURPRISE + j]
                    s[COUNTER + j] *= s[TOP + j]
                _add_shares(data, c, sums, s, n)
            if illegal:
                sums[:] = np.nan


@njit(**FLAGS)
def _sigmoid_gradient(data, strips, s, grads, out, class_step, pixel_step):
    for strip in strips:
        grad = grads[strip.image]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            _read_pixels(data, strip, at, s, n)
            for c in range(data.classes):
                _read_shares(data, strip, at, c, s, n)
                _binary_terms(data, strip, at, c, s, n)
                _smooth(data, TWO, s, n)
                _region_slope(grad[1, c], grad[2, c], grad[3, c], s, n)
                gamma, positive, negative = _gamma_of(data, c), grad[0, c], grad[4, c]
                for j in range(n):
                    p, q, smooth = s[P + j], s[Q + j], s[X + j]
                    up = s[POWER + j] * (gamma * p * min(s[SURPRISE + j], LARGE) + q)
                    down = s[COUNTER + j] * (gamma * q * min(s[TOP + j], LARGE) + p)
                    focal = negative * (ONE - smooth) * down - positive * smooth * up
                    s[X + j] = s[MASK + j] * (focal + p * q * s[A + j])
                start = strip.out + at * pixel_step + c * class_step
                _store(out, start, pixel_step, s[X:], data.brain, n)


# Cutting tensors into strips


def _walk(tensors: list[Tensor], spatial: int) -> tuple[int, list[int], list[np.ndarray]]:
    """How to walk through the pixels of images: (pixels of a run, the step of each tensor, where each run begins).

    A run is what one step walks through in all tensors: whole images where that is possible, else single rows.
    The beginnings have the shape (B, runs).
    """
    shape = tensors[0].shape[tensors[0].ndim - spatial :]

    def in_line(t: Tensor) -> bool:
        sizes = [(n, step) for n, step in zip(shape, t.stride()[t.ndim - spatial :], strict=True) if n > 1]
        return all(step == n * inner for (_, step), (n, inner) in zip(sizes, sizes[1:], strict=False))

    kept = 0 if all(in_line(t) for t in tensors) else spatial - 1  # leading spatial dims whose steps are listed
    run = int(np.prod(shape[kept:], dtype=np.int64))
    steps, starts = [], []
    for t in tensors:
        strides = t.stride()[t.ndim - spatial :]
        inner = [step for n, step in zip(shape[kept:], strides[kept:], strict=True) if n > 1]
        steps.append(inner[-1] if inner else 1)
        start = np.arange(t.shape[0], dtype=np.int64) * t.stride(0)
        for n, step in zip(shape[:kept], strides[:kept], strict=True):
            start = start[..., None] + np.arange(n, dtype=np.int64) * step
        starts.append(start.reshape(t.shape[0], -1))
    return run, steps, starts


def _strips(num_classes: int, run: int, starts: list[np.ndarray], steps: list[int]) -> np.ndarray:
    """The table of strips; `starts` and `steps` of logits, target and gradient, a step of 0 for pixels in order."""
    images, runs = starts[0].shape
    pixels = max(PIXELS, STRIP // num_classes)
    cuts = -(-run // pixels)
    length = -(-run // cuts // PIXELS) * PIXELS  # of a strip but for the last
    at = np.arange(0, run, length)
    strips = np.empty((images, runs, len(at)), STRIP_FIELDS)
    strips["image"] = np.arange(images)[:, None, None]
    strips["pixels"] = np.minimum(length, run - at)
    strips["weight"] = np.arange(images * runs).reshape(images, runs, 1) * run + at
    for name, start, step in zip(("logits", "target", "out"), starts, steps, strict=True):
        strips[name] = start[:, :, None] + at * step
    parts = min(runs * len(at), max(1, runs * run // pixels))  # of an image
    within = np.arange(runs * len(at)) * parts // (runs * len(at))
    strips["part"] = strips["image"] * parts + within.reshape(runs, len(at))
    return strips.reshape(-1)


def _flat(tensor: Tensor) -> np.ndarray:
    """The memory from the first to the last element; half precisions as their bits."""
    extent = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    memory = tensor.detach().as_strided((extent,), (1,))
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return memory.view(torch.int16).numpy().view(np.uint16)
    return memory.view(torch.uint8).numpy() if tensor.dtype == torch.bool else memory.numpy()


def _solid(tensor: Tensor) -> Tensor:
    """Without dims that repeat one element, which have no step."""
    repeats = any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.contiguous() if repeats else tensor


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _Options(NamedTuple):
    gamma: float
    softmax: bool
    ignore_index: int
    label_smoothing: float
    squared: bool


class _Work:
    """The tensors of one call, as the kernels want them."""

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        gammas: Tensor | None,
        options: _Options,
        result: Tensor | None = None,
    ) -> None:
        dtype, spatial = _wide(logits), logits.ndim - 2
        scalar = np.float64 if dtype == torch.float64 else np.float32
        self.dense = target.ndim == logits.ndim
        self.softmax, self.shares = options.softmax, self.dense or options.label_smoothing > 0
        logits = _solid(logits)
        if self.dense:
            known = (torch.bool, torch.uint8, torch.float32, torch.float64)
            target = _solid(target if target.dtype in known else target.to(dtype))
        else:  # small beside the logits: copied where it has another layout
            target = (target if target.dtype in (torch.uint8, torch.int64) else target.long()).contiguous()
        weight = torch.empty(0, dtype=dtype) if weight is None else weight.to(dtype).contiguous()
        walked = [logits] + [target] * self.dense + ([] if result is None else [result])
        self.result = result
        if spatial == 0:
            walked, spatial = [t.unsqueeze(-1) for t in walked], 1
        run, steps, starts = _walk(walked, spatial)
        in_order = np.arange(starts[0].size).reshape(starts[0].shape) * run
        if not self.dense:
            steps.insert(1, 1)
            starts.insert(1, in_order)
        if result is None:
            steps.append(1)
            starts.append(in_order)
        self.steps = steps
        self.strips = _strips(logits.shape[1], run, starts, steps)
        self.data = Input(
            _flat(logits),
            logits.stride(1),
            steps[0],
            logits.dtype == torch.bfloat16,
            _flat(target),
            self.dense,
            target.stride(1) if self.dense else 0,
            steps[1],
            _flat(weight) if len(weight) else weight.numpy(),
            logits.shape[1],
            options.ignore_index,
            scalar(options.gamma),
            torch.empty(0, dtype=dtype).numpy() if gammas is None else gammas.to(dtype).numpy(),
            scalar(options.label_smoothing),
            options.squared,
        )

    def run(self, kernels: tuple[Any, Any, Any], *outputs: Any) -> None:  # noqa: ANN401
        """Walk through the strips, in as many threads as PyTorch has; parts are never shared between two."""
        workers, parts = torch.get_num_threads(), int(self.strips["part"][-1]) + 1
        bounds = np.linspace(0, parts, min(parts, 4 * workers) + 1).astype(np.int64)
        cuts = np.searchsorted(self.strips["part"], bounds)
        dtype = self.data.gamma.dtype

        def share(i: int) -> None:
            strips = self.strips[cuts[i] : cuts[i + 1]]
            s = np.empty(END, dtype)
            rows = [np.empty((self.data.classes + 1, PIXELS), dtype) for _ in range(2 * self.softmax)]
            if not self.softmax:
                kernels[2](self.data, strips, s, *outputs)
            elif self.shares:
                kernels[1](self.data, strips, s, *rows, *outputs)
            else:
                kernels[0](self.data, strips, s, rows[0], *outputs)

        if workers == 1 or len(cuts) == 2:
            for i in range(len(cuts) - 1):
                share(i)
        else:
            list(_pool(os.getpid(), workers).map(share, range(len(cuts) - 1)))


@functools.cache
def _pool(_process: int, workers: int) -> ThreadPoolExecutor:
    """Threads to compute in. A forked process has none of its parent's, so it is part of the key."""
    return ThreadPoolExecutor(workers, "segfocal")


# The operators: opaque to autograd, torch.compile and CUDA graphs


@torch.library.custom_op("segfocal::tiled_sums", mutates_args=())
def tiled_sums(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    gammas: Tensor | None,
    gamma: float,
    softmax: bool,
    ignore_index: int,
    label_smoothing: float,
    squared: bool,
) -> Tensor:
    """The fields of PixelSums, stacked: (6 or 8, B, C)."""
    batch, num_classes = logits.shape[:2]
    fields = 8 if squared else 6
    if logits.numel() == 0:
        return logits.new_zeros(fields, batch, num_classes, dtype=_wide(logits))
    work = _Work(logits, target, weight, gammas, _Options(gamma, softmax, ignore_index, label_smoothing, squared))
    parts = np.zeros((int(work.strips["part"][-1]) + 1, 8, num_classes))
    work.run((_index_sums, _share_sums, _sigmoid_sums), parts)
    sums = parts.reshape(batch, -1, 8, num_classes).sum(1)
    if softmax and not work.shares:
        sums[:, VALID] = sums[:, ACTUAL].sum(1, keepdims=True)
        sums[:, ACTUAL_SQUARED] = sums[:, ACTUAL]
    return torch.from_numpy(sums[:, :fields].swapaxes(0, 1)).to(_wide(logits)).contiguous()


@torch.library.custom_op("segfocal::tiled_gradient", mutates_args=())
def tiled_gradient(
    grads: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    gammas: Tensor | None,
    gamma: float,
    softmax: bool,
    ignore_index: int,
    label_smoothing: float,
    squared: bool,
) -> Tensor:
    """The gradient of the logits, given the derivatives of the loss by the stacked sums."""
    result = torch.empty_like(logits)
    if logits.numel() == 0:
        return result
    options = _Options(gamma, softmax, ignore_index, label_smoothing, squared)
    work = _Work(logits, target, weight, gammas, options, result)
    squares = grads[PREDICTED_SQUARED] if squared else torch.zeros_like(grads[0])
    slopes = [grads[POSITIVE], grads[OVERLAP], grads[PREDICTED], squares, grads[NEGATIVE]]
    work.run(
        (_index_gradient, _share_gradient, _sigmoid_gradient),
        torch.stack(slopes, 1).numpy(),
        _flat(result),
        result.stride(1),
        work.steps[2],
    )
    return result


@tiled_sums.register_fake
def _(logits: Tensor, *inputs: Any) -> Tensor:  # noqa: ANN401
    return logits.new_empty(8 if inputs[-1] else 6, *logits.shape[:2], dtype=_wide(logits))


@tiled_gradient.register_fake
def _(grads: Tensor, logits: Tensor, *inputs: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(logits)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    logits, target, weight, gammas, *ctx.options = inputs
    ctx.save_for_backward(logits, target, weight, gammas, output)


def _backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    *tensors, sums = ctx.saved_tensors
    # The sums of an image with an illegal label are NaN, and so is its gradient.
    return tiled_gradient(grads + 0 * sums[VALID], *tensors, *ctx.options), *[None] * 8


def _no_double_backward(ctx: Any, grads: Tensor) -> None:  # noqa: ANN401
    raise RuntimeError("Expected one backward pass through backend='tiled', got a second one. Use backend='reference'.")


tiled_sums.register_autograd(_backward, setup_context=_save)
tiled_gradient.register_autograd(_no_double_backward)


def pixel_sums(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Literal["softmax", "sigmoid"],
    gamma: float | Tensor,
    ignore_index: int,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    squared: bool = False,
) -> PixelSums:
    """The sums of `PixelSums`; see the contract in `segfocal.kernels`.

    Raises:
        ValueError: For logits that are not on the CPU.
        RuntimeError: In the backward pass of a backward pass.
    """
    if logits.device.type != "cpu":
        remedy = "Pass backend='auto' or 'reference'."
        raise ValueError(f"Expected `logits` on the CPU for backend='tiled', got {logits.device}. {remedy}")
    gammas, single = (gamma, 0.0) if isinstance(gamma, Tensor) else (None, gamma)
    softmax = activation == "softmax"
    sums = tiled_sums(logits, target, weight, gammas, single, softmax, ignore_index, label_smoothing, squared)
    return PixelSums(*sums.unbind(0))
