"""Targets with any share of any class: `share_sums` and `share_gradient` for softmax, and the same for sigmoid.

    q = 1 - p    surprise = -log p    slope = q^gamma (gamma p surprise + q), that of the focal term by log(q / p)
    a_c = g_c + y_c u_c + 2 p_c h_c    w_c = f_c y_c slope_c

with f, u, g and h the derivatives of the loss by positive_focal, overlap, predicted and predicted_squared:

    softmax: dL/dx_j = m (p_j sum over c != j of w_c / q_c - w_j + p_j (a_j - sum of p_c a_c))
    sigmoid: class by class a softmax over (x, 0)
"""

import numpy as np

from segfocal.kernels.compiled.block import (
    ACTUAL,
    ACTUAL_SQUARED,
    COUNTER,
    INVERSE,
    LARGE,
    MASK,
    NEGATIVE,
    OTHERS,
    OVERLAP,
    OWN,
    PIXELS,
    POSITIVE,
    POWER,
    PREDICTED,
    PREDICTED_SQUARED,
    PULL,
    SURPRISE,
    TOP,
    TWO,
    VALID,
    WEIGHT,
    A,
    P,
    Q,
    V,
    X,
    Y,
    gamma_of,
    raise_row,
    read,
    read_pixels,
    read_shares,
    write,
)
from segfocal.kernels.compiled.elementary import ONE, TINY, ZERO, compiled, exp, f32, log1p, reordered

# What softmax and sigmoid have in common, for the class whose terms are in the scratch memory


@compiled
def _smooth(data, outcomes, s, n):
    """X, the share Y smoothed."""
    rest, keep = data.smoothing / outcomes, ONE - data.smoothing
    for j in range(n):
        s[X + j] = keep * s[Y + j] + rest


@reordered
def _totals(s, n):
    positive, negative, overlap, predicted, actual, valid = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for j in range(n):
        weight, y, smooth, p = s[MASK + j], s[Y + j], s[X + j], s[P + j]
        focal, counter = weight * smooth * s[POWER + j], weight * (ONE - smooth) * s[COUNTER + j]
        # A term with the factor 0 may be infinite.
        positive += focal if smooth != ZERO else ZERO
        negative += counter if smooth != ONE else ZERO
        overlap += weight * p * y
        predicted += weight * p
        actual += weight * y
        valid += weight
    return positive, negative, overlap, predicted, actual, valid


@reordered
def _squares(s, n):
    predicted, actual = ZERO, ZERO
    for j in range(n):
        weight, y, p = s[MASK + j], s[Y + j], s[P + j]
        predicted += weight * p * p
        actual += weight * y * y
    return predicted, actual


@compiled
def _add(data, c, sums, s, n):
    """Add the terms of class c: POWER, the focal term of a positive, COUNTER, that of a negative, X, Y, P and MASK."""
    positive, negative, overlap, predicted, actual, valid = _totals(s, n)
    sums[POSITIVE, c] += positive
    sums[NEGATIVE, c] += negative
    sums[OVERLAP, c] += overlap
    sums[PREDICTED, c] += predicted
    sums[ACTUAL, c] += actual
    sums[VALID, c] += valid
    if data.squared:
        predicted, actual = _squares(s, n)
        sums[PREDICTED_SQUARED, c] += predicted
        sums[ACTUAL_SQUARED, c] += actual


@compiled
def _region_slope(grads, c, s, n):
    """A, the derivative by p of what depends on overlap, predicted and predicted_squared."""
    overlap, predicted, squares = grads[1, c], grads[2, c], grads[3, c]
    for j in range(n):
        s[A + j] = predicted + overlap * s[Y + j] + TWO * squares * s[P + j]


# Softmax. e (C + 1, PIXELS) holds the exponentials below the largest logit, d their logarithms.


@compiled
def _exclude(data, strip, at, s, n):
    """WEIGHT becomes 0 where the share of any class is ignored. Returns whether a share is illegal."""
    illegal = 0
    if data.dense:
        for c in range(data.classes):
            illegal |= read_shares(data, strip, at, c, s, n)
            for j in range(n):
                s[WEIGHT + j] = s[MASK + j]
    return illegal


@compiled
def _odds(data, start, e, d, s, n):
    """Fill e and d; OWN, the class of the largest logit; OTHERS, the sum but for that class; INVERSE, 1 / the sum."""
    for c in range(data.classes):
        read(data.logits, start, c, data.brain, d[c], n)
        row, label = d[c], f32(c)
        for j in range(n):
            x, top, which = row[j], s[TOP + j], s[OWN + j]
            x = x if s[WEIGHT + j] != ZERO else ZERO  # NaN and infinities of ignored pixels
            higher = (x > top) | (c == 0)
            s[TOP + j] = x if higher else top
            s[OWN + j] = label if higher else which
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


@compiled
def _solve(data, strip, at, e, d, s, n):
    """All of the above. Returns whether a label or share is illegal."""
    illegal = read_pixels(data, strip, at, s, n) | _exclude(data, strip, at, s, n)
    _odds(data, strip.logits + at * data.logits.pixel_step, e, d, s, n)
    return illegal


@compiled
def _chances(c, row, s, n):
    """P and Q of class c."""
    label = f32(c)
    for j in range(n):
        p, q = row[j] * s[INVERSE + j], s[OTHERS + j] * s[INVERSE + j]
        s[P + j] = p
        s[Q + j] = q if s[OWN + j] == label else ONE - p  # which loses digits for the likeliest class alone


@compiled
def _terms(data, strip, at, c, e, d, s, n):
    """Y, X, P, Q, SURPRISE and POWER of class c."""
    read_shares(data, strip, at, c, s, n)
    _smooth(data, f32(data.classes), s, n)
    _chances(c, e, s, n)
    for j in range(n):
        s[SURPRISE + j] = log1p(s[OTHERS + j]) - d[j]
    raise_row(Q, gamma_of(data, c), POWER, s, n)


@compiled
def share_sums(data, strips, s, e, d, out):
    """Adds to `out`, (parts, fields, C)."""
    for strip in strips:
        sums = out[strip.part]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            if _solve(data, strip, at, e, d, s, n):
                sums[:] = np.nan
            for c in range(data.classes):
                _terms(data, strip, at, c, e[c], d[c], s, n)
                for j in range(n):
                    s[POWER + j] *= s[SURPRISE + j]
                    s[COUNTER + j] = ZERO
                _add(data, c, sums, s, n)


@compiled
def _gather(data, strip, at, grads, e, d, s, n):
    """PULL, the sum of all w / q, and V, that of all p a; the rows of d become w."""
    for j in range(n):
        s[PULL + j] = ZERO
        s[V + j] = ZERO
    for c in range(data.classes):
        _terms(data, strip, at, c, e[c], d[c], s, n)
        _region_slope(grads, c, s, n)
        row, gamma, positive = d[c], gamma_of(data, c), grads[0, c]
        for j in range(n):
            p, q = s[P + j], s[Q + j]
            w = positive * s[X + j] * s[POWER + j] * (gamma * p * min(s[SURPRISE + j], LARGE) + q)
            row[j] = w
            s[PULL + j] += w / max(q, TINY)
            s[V + j] += p * s[A + j]


@compiled
def share_gradient(data, strips, s, e, d, grads, out):
    """Writes to the Plane `out`; `grads` (B, 5, C) are f, u, g, h and the derivative by negative_focal."""
    for strip in strips:
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            _solve(data, strip, at, e, d, s, n)
            _gather(data, strip, at, grads[strip.image], e, d, s, n)
            for c in range(data.classes):
                read_shares(data, strip, at, c, s, n)
                _chances(c, e[c], s, n)
                _region_slope(grads[strip.image], c, s, n)
                row = d[c]
                for j in range(n):
                    p, w = s[P + j], row[j]
                    others = s[PULL + j] - w / max(s[Q + j], TINY)
                    s[X + j] = s[MASK + j] * (p * others - w + p * (s[A + j] - s[V + j]))
                write(s[X:], out, strip.gradient + at * out.pixel_step, c, data.brain, n)


# Sigmoid: every class for itself


@compiled
def _binary_terms(data, strip, at, c, s, n):
    """MASK, Y, X, P and Q; POWER and SURPRISE of a positive, COUNTER and TOP of a negative. Returns as read_shares."""
    illegal = read_shares(data, strip, at, c, s, n)
    read(data.logits, strip.logits + at * data.logits.pixel_step, c, data.brain, s[X:], n)
    for j in range(n):
        x = s[X + j]
        x = x if s[MASK + j] != ZERO else ZERO  # NaN and infinities of ignored elements
        size = abs(x)
        small = exp(-size)
        large, rest = ONE / (ONE + small), log1p(small)
        small, most, right = small * large, rest + size, x >= ZERO
        s[P + j] = large if right else small
        s[Q + j] = small if right else large
        s[SURPRISE + j] = rest if right else most
        s[TOP + j] = most if right else rest
    raise_row(Q, gamma_of(data, c), POWER, s, n)
    raise_row(P, gamma_of(data, c), COUNTER, s, n)
    _smooth(data, TWO, s, n)
    return illegal


@compiled
def sigmoid_sums(data, strips, s, out):
    """Adds to `out`, (parts, fields, C)."""
    for strip in strips:
        sums = out[strip.part]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            illegal = read_pixels(data, strip, at, s, n)
            for c in range(data.classes):
                illegal |= _binary_terms(data, strip, at, c, s, n)
                for j in range(n):
                    s[POWER + j] *= s[SURPRISE + j]
                    s[COUNTER + j] *= s[TOP + j]
                _add(data, c, sums, s, n)
            if illegal:
                sums[:] = np.nan


@compiled
def sigmoid_gradient(data, strips, s, grads, out):
    """Writes to the Plane `out`; `grads` as for `share_gradient`."""
    for strip in strips:
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            read_pixels(data, strip, at, s, n)
            for c in range(data.classes):
                _binary_terms(data, strip, at, c, s, n)
                _region_slope(grads[strip.image], c, s, n)
                gamma, positive, negative = gamma_of(data, c), grads[strip.image, 0, c], grads[strip.image, 4, c]
                for j in range(n):
                    p, q, smooth = s[P + j], s[Q + j], s[X + j]
                    up = s[POWER + j] * (gamma * p * min(s[SURPRISE + j], LARGE) + q)
                    down = s[COUNTER + j] * (gamma * q * min(s[TOP + j], LARGE) + p)
                    focal = negative * (ONE - smooth) * down - positive * smooth * up
                    s[X + j] = s[MASK + j] * (focal + p * q * s[A + j])
                write(s[X:], out, strip.gradient + at * out.pixel_step, c, data.brain, n)
