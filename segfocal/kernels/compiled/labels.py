"""From logits to labels, and what is counted of labels and probabilities.

A row of the table `runs` is a run of neighbouring pixels: where it begins in the logits' memory, where among the B x N
pixels in order, and how many pixels it has.
"""

import numpy as np

from segfocal.kernels.compiled.block import PIXELS, read
from segfocal.kernels.compiled.elementary import HALF, ONE, ZERO, bits_of, compiled, exp, f32

# Probabilities are binned by their highest bits, as fine for 10^-6 as for 0.1, and mirrored, so that it is so towards
# 1 too: 64 bins from 2^-k to 2^-(k+1), down to 2^-24. The widest are 1/256.
LEAST = f32(2.0**-24)
DROPPED = 17
FIRST = np.int32(np.array(LEAST).view(np.int32) >> DROPPED)
SIDE = int((np.array(HALF).view(np.int32) >> DROPPED) - FIRST) + 1
BINS = 2 * SIDE
UNIT = 2.0**24  # confidences are added as integers, whose sum knows no order
CONFIDENCES = 15  # bins of the reliability diagram


@compiled
def largest(plane, brain, classes, runs, x, top, label, labels):
    """The class of the largest logit of each pixel, the first of equal ones, into `labels`; NaN counts as largest."""
    for k in range(len(runs)):
        begin, place, pixels = runs[k]
        for at in range(0, pixels, PIXELS):
            n, start = min(PIXELS, pixels - at), begin + at * plane.pixel_step
            read(plane, start, 0, brain, top, n)
            for j in range(n):
                label[j] = 0
            for c in range(1, classes):
                read(plane, start, c, brain, x, n)
                for j in range(n):
                    larger = (x[j] > top[j]) | ((x[j] != x[j]) & (top[j] == top[j]))
                    top[j] = x[j] if larger else top[j]
                    label[j] = c if larger else label[j]
            for j in range(n):
                labels[place + at + j] = label[j]


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
