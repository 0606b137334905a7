"""From logits to labels, and what is counted of labels and probabilities.

A row of the table `runs` is a run of neighbouring pixels: where it begins in the logits' memory, where among the B x N
pixels in order, and how many pixels it has.
"""

import numpy as np

from segfocal.kernels.compiled.block import PIXELS, read
from segfocal.kernels.compiled.elementary import HALF, ONE, ZERO, bits_of, compiled, exp, f32, widen

# Probabilities are binned by their highest bits, as fine for 10^-6 as for 0.1, and mirrored, so that it is so towards
# 1 too: 64 bins from 2^-k to 2^-(k+1), down to 2^-24. The widest are 1/256.
LEAST = f32(2.0**-24)
DROPPED = 17
FIRST = np.int32(np.array(LEAST).view(np.int32) >> DROPPED)
SIDE = int((np.array(HALF).view(np.int32) >> DROPPED) - FIRST) + 1
BINS = 2 * SIDE
UNIT = 2.0**24  # confidences are added as integers, whose sum knows no order
CONFIDENCES = 15  # bins of the reliability diagram


BLOCK = 1024  # pixels at a time: rows of 4 kB, since memory is read faster in long runs
INFINITY = f32(np.inf)


@compiled
def _better(value, brain, c, top, first):
    """The larger of `top` and the value of class c, and its class; NaN is infinite."""
    x = widen(value, brain)
    x = x if x == x else INFINITY
    return x if x > top else top, c if x > top else first


@compiled
def _row(row, brain, c, top, label, n):
    for j in range(n):
        top[j], label[j] = _better(row[j], brain, c, top[j], label[j])


@compiled
def _four_rows(flat, brain, at, step, c, top, label, n):
    """Four classes at once, so that `top` and `label` are read and written once for them."""
    one, two = flat[at : at + n], flat[at + step : at + step + n]
    three, four = flat[at + 2 * step : at + 2 * step + n], flat[at + 3 * step : at + 3 * step + n]
    for j in range(n):
        best, first = _better(one[j], brain, c, top[j], label[j])
        best, first = _better(two[j], brain, c + 1, best, first)
        best, first = _better(three[j], brain, c + 2, best, first)
        top[j], label[j] = _better(four[j], brain, c + 3, best, first)


@compiled
def largest_of_rows(plane, brain, classes, runs, top, label, labels):
    """The class of the largest logit of each pixel, where those of a class lie side by side; NaN is infinite.

    Of equal logits the first class's counts.
    """
    for k in range(len(runs)):
        begin, place, pixels = runs[k]
        for at in range(0, pixels, BLOCK):
            n, start, step = min(BLOCK, pixels - at), begin + at, plane.class_step
            for j in range(n):
                top[j], label[j] = -INFINITY, np.int32(0)
            fours = classes - classes % 4
            for c in range(0, fours, 4):
                _four_rows(plane.flat, brain, start + c * step, step, np.int32(c), top, label, n)
            for c in range(fours, classes):
                _row(plane.flat[start + c * step : start + c * step + n], brain, np.int32(c), top, label, n)
            for j in range(n):
                labels[place + at + j] = label[j]


@compiled
def largest_of_few(plane, brain, classes, runs, labels):
    """As `largest_of_rows` where those of a pixel lie side by side: four pixels at once, which do not wait in turn."""
    flat, step = plane.flat, plane.pixel_step
    for k in range(len(runs)):
        begin, place, pixels = runs[k]
        for at in range(0, pixels, 4):
            at = max(0, min(at, pixels - 4))  # the last four overlap those before
            starts = begin + at * step, begin + min(at + 1, pixels - 1) * step
            later = begin + min(at + 2, pixels - 1) * step, begin + min(at + 3, pixels - 1) * step
            one, two = flat[starts[0] : starts[0] + classes], flat[starts[1] : starts[1] + classes]
            three, four = flat[later[0] : later[0] + classes], flat[later[1] : later[1] + classes]
            a = b = c = d = -INFINITY
            i = j = m = n = np.int32(0)
            for index in range(classes):
                a, i = _better(one[index], brain, np.int32(index), a, i)
                b, j = _better(two[index], brain, np.int32(index), b, j)
                c, m = _better(three[index], brain, np.int32(index), c, m)
                d, n = _better(four[index], brain, np.int32(index), d, n)
            labels[place + at] = i
            labels[place + min(at + 1, pixels - 1)] = j
            labels[place + min(at + 2, pixels - 1)] = m
            labels[place + min(at + 3, pixels - 1)] = n


@compiled
def largest_of_many(plane, brain, classes, runs, rank, labels):
    """As `largest_of_few`, faster for many classes: maxima of integers, which LLVM turns into vector instructions."""
    for k in range(len(runs)):
        begin, place, pixels = runs[k]
        for at in range(pixels):
            start = begin + at * plane.pixel_step
            values = plane.flat[start : start + classes]
            top, first = np.int32(-0x7FFFFFFF), np.int32(classes)
            for c in range(classes):
                x = widen(values[c], brain) + ZERO  # -0 becomes 0
                x = x if x == x else INFINITY
                code = bits_of(x)
                rank[c] = code ^ ((code >> 31) & np.int32(0x7FFFFFFF))  # larger where x is
                top = max(top, rank[c])
            for c in range(classes):
                first = min(first, np.int32(c) if rank[c] == top else np.int32(classes))
            labels[place + at] = first


@compiled
def count(labels, mask, ignore_index, matrix):
    """Add pixels to matrix[true, predicted]. Returns whether a label is none of a class's."""
    illegal, classes = False, len(matrix)
    for j in range(len(mask)):
        true, guess = np.int64(mask[j]), np.int64(labels[j])
        if true != ignore_index:
            if (true < 0) | (true >= classes) | (guess < 0) | (guess >= classes):
                illegal = True
            else:
                matrix[true, guess] += 1
    return illegal


@compiled
def bin_of(p):
    """The bin of a probability."""
    low = p <= HALF
    q = p if low else ONE - p
    q = max(q, LEAST)
    place = (bits_of(q) >> DROPPED) - FIRST
    return place if low else BINS - 1 - place


@compiled
def _bin(p, positive, histogram):
    if p == p:  # NaN has no bin
        histogram[bin_of(p), positive] += 1


@compiled
def _note(confidence, right, reliability):
    if confidence == confidence:
        place = min(np.int64(confidence * f32(CONFIDENCES)), CONFIDENCES - 1)
        reliability[place, 0] += 1
        reliability[place, 1] += right
        reliability[place, 2] += np.int64(confidence * f32(UNIT))


@compiled
def softmax_counts(plane, brain, classes, runs, labels, mask, ignore_index, x, top, total, e, histogram, reliability):
    """Bins of each class's probability where it is true or not, and of that of the label where it is right.

    histogram (C, BINS, 2): pixels by whether they are of the class. reliability (CONFIDENCES, 3): pixels, right ones
    and the sum of their confidences in units of 2^-24. Nothing is counted where a logit is NaN.
    """
    for k in range(len(runs)):
        begin, place, pixels = runs[k]
        for at in range(0, pixels, PIXELS):
            n, start = min(PIXELS, pixels - at), begin + at * plane.pixel_step
            own = mask[place + at : place + at + n]
            read(plane, start, 0, brain, top, n)
            for c in range(1, classes):
                read(plane, start, c, brain, x, n)
                for j in range(n):
                    top[j] = max(top[j], x[j])
            for j in range(n):
                total[j] = ZERO
            for c in range(classes):
                row = e[c]
                read(plane, start, c, brain, x, n)
                for j in range(n):
                    row[j] = exp(x[j] - top[j])
                    total[j] += row[j]
            for j in range(n):
                total[j] = ONE / total[j]
            for c in range(classes):
                row = e[c]
                for j in range(n):
                    if own[j] != ignore_index:
                        _bin(f32(row[j] * total[j]), np.int64(own[j] == c), histogram[c])
            for j in range(n):
                if own[j] != ignore_index:
                    _note(f32(total[j]), np.int64(own[j] == labels[place + at + j]), reliability)


@compiled
def sigmoid_counts(plane, brain, runs, mask, ignore_index, x, histogram, reliability):
    """As `softmax_counts` for one class and its mask of 0 and 1; the confidence is the probability of 1."""
    for k in range(len(runs)):
        begin, place, pixels = runs[k]
        for at in range(0, pixels, PIXELS):
            n, start = min(PIXELS, pixels - at), begin + at * plane.pixel_step
            own = mask[place + at : place + at + n]
            read(plane, start, 0, brain, x, n)
            for j in range(n):
                x[j] = ONE / (ONE + exp(-x[j]))
            for j in range(n):
                if own[j] != ignore_index:
                    positive = np.int64(own[j] == 1)
                    _bin(f32(x[j]), positive, histogram)
                    _note(f32(x[j]), positive, reliability)
