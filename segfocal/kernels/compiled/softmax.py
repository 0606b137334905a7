"""Softmax with one class per pixel: `index_sums` and `index_gradient`.

e (C + 1, PIXELS) holds the exponentials, 0 at the pixel's own class t, and a spare row. With o, their sum:

    s = e_t + o    p = e_t / s    q = o / s    surprise = log1p(o / e_t)    focal = q^gamma surprise
    slope = q^gamma (gamma p surprise + q), the derivative of the focal term by log(q / p)

With f, u, g and h the derivatives of the loss by positive_focal, overlap, predicted and predicted_squared,
v = g_t + u_t + 2 p h_t, and a = the sum over the other classes of (g_j + 2 p_j h_j) p_j:

    dL/dx_t = m (p (q v - a) - f_t slope)    dL/dx_j = m p_j (g_j + 2 p_j h_j - a - p v + f_t slope / q)
"""

import numpy as np

from segfocal.kernels.compiled.block import (
    ACTUAL,
    GAMMA,
    INVERSE,
    LABEL,
    LARGE,
    OTHERS,
    OVERLAP,
    OWN,
    PIXELS,
    POSITIVE,
    POWER,
    PREDICTED,
    PREDICTED_SQUARED,
    PUSH,
    SURPRISE,
    TOP,
    TWO,
    WEIGHT,
    A,
    P,
    Q,
    V,
    X,
    raise_row,
    read,
    read_pixels,
    write,
)
from segfocal.kernels.compiled.elementary import (
    ONE,
    TINY,
    ZERO,
    compiled,
    exp,
    f32,
    log,
    log1p,
    narrow,
    power,
    reordered,
    widen,
)

LEAST, MOST = f32(1e-18), f32(1e18)  # between them products and quotients of exponentials lose nothing

# The exponentials and what follows from them


@compiled
def _exponentials(source, brain, c, row, s, n):
    label = f32(c)
    for j in range(n):
        x = widen(source[j], brain)
        x = x if s[WEIGHT + j] != ZERO else ZERO  # NaN and infinities of ignored pixels
        value = exp(x - s[TOP + j])
        mine = s[LABEL + j] == label
        s[OWN + j] += value if mine else ZERO
        value = ZERO if mine else value
        s[OTHERS + j] += value
        row[j] = value


@compiled
def _split(data, start, e, s, n):
    """OWN and OTHERS, the exponentials of the pixel's class and the sum of all others, below TOP."""
    for j in range(n):
        s[OWN + j] = ZERO
        s[OTHERS + j] = ZERO
    for c in range(data.classes):
        if data.logits.pixel_step == 1:
            first = start + c * data.logits.class_step
            _exponentials(data.logits.flat[first : first + n], data.brain, c, e[c], s, n)
        else:
            read(data.logits, start, c, data.brain, e[-1], n)
            _exponentials(e[-1], data.brain, c, e[c], s, n)


@compiled
def _find_top(data, start, s, n):
    """TOP, the largest logit of the pixel."""
    for c in range(data.classes):
        read(data.logits, start, c, data.brain, s[X:], n)
        for j in range(n):
            x, top = s[X + j], s[TOP + j]
            top = x if (c == 0) | (x > top) else top
            s[TOP + j] = top if s[WEIGHT + j] != ZERO else ZERO


@compiled
def _odds(data, start, e, s, n):
    """e, INVERSE, P, Q and SURPRISE of a block whose pixels are read."""
    for j in range(n):
        s[TOP + j] = ZERO
    _split(data, start, e, s, n)
    outside = 0
    for j in range(n):
        own, total = s[OWN + j], s[OWN + j] + s[OTHERS + j]
        outside |= not ((own >= LEAST) & (total <= MOST))  # or NaN
    if outside:
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
        _mend(data, start, s, n)


@compiled
def _mend(data, start, s, n):
    """SURPRISE from the logit where its exponential is 0 or has lost digits."""
    plane = data.logits
    for j in range(n):
        if s[OWN + j] < LEAST and s[WEIGHT + j] != ZERO:
            place = start + int(s[LABEL + j]) * plane.class_step + j * plane.pixel_step
            s[SURPRISE + j] = log(s[OTHERS + j]) - (widen(plane.flat[place], data.brain) - s[TOP + j])


@compiled
def _powers(data, s, n):
    """GAMMA of the pixel's class, and POWER = Q^GAMMA."""
    if len(data.gammas):
        for j in range(n):
            s[GAMMA + j] = data.gammas[int(s[LABEL + j])]
        for j in range(n):
            s[POWER + j] = power(s[Q + j], s[GAMMA + j])
    else:
        for j in range(n):
            s[GAMMA + j] = data.gamma
        raise_row(Q, data.gamma, POWER, s, n)


@compiled
def _solve(data, strip, at, e, s, n):
    """All of the above. Returns whether a label is illegal."""
    illegal = read_pixels(data, strip, at, s, n)
    _odds(data, strip.logits + at * data.logits.pixel_step, e, s, n)
    _powers(data, s, n)
    return illegal


# The sums


@reordered
def _totals(row, c, s, n):
    label, positive, overlap, predicted, actual = f32(c), ZERO, ZERO, ZERO, ZERO
    for j in range(n):
        mine = s[LABEL + j] == label
        positive += s[POWER + j] if mine else ZERO
        overlap += s[P + j] if mine else ZERO
        actual += s[WEIGHT + j] if mine else ZERO
        predicted += row[j] * s[INVERSE + j]
    return positive, overlap, predicted, actual


@reordered
def _squares(row, c, s, n):
    label, total = f32(c), ZERO
    for j in range(n):
        p = s[P + j] if s[LABEL + j] == label else row[j] * s[INVERSE + j]
        total += s[WEIGHT + j] * p * p
    return total


@compiled
def index_sums(data, strips, s, e, out):
    """Adds to `out`, (parts, fields, C)."""
    for strip in strips:
        sums = out[strip.part]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            if _solve(data, strip, at, e, s, n):
                sums[:] = np.nan
            if data.squared:
                for c in range(data.classes):
                    sums[PREDICTED_SQUARED, c] += _squares(e[c], c, s, n)
            for j in range(n):
                weight = s[WEIGHT + j]
                s[POWER + j] *= s[SURPRISE + j] * weight
                s[P + j] *= weight
                s[INVERSE + j] *= weight
            for c in range(data.classes):
                positive, overlap, predicted, actual = _totals(e[c], c, s, n)
                sums[POSITIVE, c] += positive
                sums[OVERLAP, c] += overlap
                sums[PREDICTED, c] += predicted + overlap
                sums[ACTUAL, c] += actual


# The gradient


@compiled
def _slopes(data, grads, e, s, n):
    """OWN, the gradient of the pixel's class; that of another is e_c (g_c X + PUSH + 2 h_c p_c X)."""
    positive, overlap, predicted, squares = grads[0], grads[1], grads[2], grads[3]
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
                s[A + j] += slope * row[j] * (row[j] * s[INVERSE + j])
        for j in range(n):
            s[V + j] += TWO * squares[int(s[LABEL + j])] * s[P + j]
    for j in range(n):
        p, q, v, weight = s[P + j], s[Q + j], s[V + j], s[WEIGHT + j]
        push = s[PUSH + j] * s[POWER + j] * (s[GAMMA + j] * p * min(s[SURPRISE + j], LARGE) + q)
        a, scale = s[A + j] * s[INVERSE + j], weight * s[INVERSE + j]
        s[OWN + j] = weight * (p * (q * v - a) - push)
        s[PUSH + j] = scale * (push / max(q, TINY) - a - p * v)
        s[X + j] = scale


@compiled
def _finish(row, c, predicted, squares, s, result, brain, n):
    label = f32(c)
    for j in range(n):
        value, own, scale = row[j], s[OWN + j], s[X + j]
        p = value * s[INVERSE + j]  # first: the square of an exponential may be too large
        value = value * (predicted * scale + s[PUSH + j] + TWO * squares * p * scale)
        value = own if s[LABEL + j] == label else value
        result[j] = narrow(value, result[j], brain)


@compiled
def index_gradient(data, strips, s, e, grads, out):
    """Writes to the Plane `out`; `grads` (B, 5, C) are f, u, g, h and the derivative by negative_focal."""
    for strip in strips:
        predicted, squares = grads[strip.image, 2], grads[strip.image, 3]
        for at in range(0, strip.pixels, PIXELS):
            n = min(PIXELS, strip.pixels - at)
            _solve(data, strip, at, e, s, n)
            _slopes(data, grads[strip.image], e, s, n)
            start = strip.gradient + at * out.pixel_step
            for c in range(data.classes):
                if out.pixel_step == 1:
                    first = start + c * out.class_step
                    _finish(e[c], c, predicted[c], squares[c], s, out.flat[first : first + n], data.brain, n)
                else:
                    _finish(e[c], c, predicted[c], squares[c], s, e[-1], data.brain, n)
                    write(e[-1], out, start, c, data.brain, n)
