"""The sums on CUDA: one Triton kernel forward, one backward; the contract is in `segfocal.kernels`.

Triton computes in float32. Without a GPU the same kernels run in its interpreter: set TRITON_INTERPRET=1 before the
first import of triton.

B images, C classes, N pixels of an image. A kernel works on tiles of (BLOCK_C classes, BLOCK_N pixels); what has one
value per pixel has the shape (1, BLOCK_N), one per class (BLOCK_C, 1). `place` says where the pixels of a tile are.

    e_c = exp(x_c - top)    others_c = sum of e_j over j != c    p = e / (e + others)    q = others / (e + others)
    s = -log p, from others / e where p is near 1    focal = q^gamma s
    d focal / d log(q / p) = q^gamma (gamma p s + q) = slope q

    softmax, with w_c = y_c slope_c dL/d(positive_focal_c) and
    a_c = dL/d(predicted_c) + y_c dL/d(overlap_c) + 2 p_c dL/d(predicted_squared_c):
        dL/dx_j = m (p_j sum over c != j of w_c - q_j w_j + p_j (a_j - sum_c p_c a_c))
    sigmoid: class by class a softmax over (x, 0)
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from segfocal.kernels import PixelSums

# Field numbers of the stacked sums, in the order of `PixelSums`.
POSITIVE, NEGATIVE, OVERLAP, PREDICTED, ACTUAL, VALID, PREDICTED_SQUARED, ACTUAL_SQUARED = map(tl.constexpr, range(8))


@dataclass(frozen=True)
class _Shape:
    """What a kernel is compiled for; everything else is a run-time value."""

    classes: int  # C: known, the rows of a tile beyond it cost nothing
    softmax: bool
    dense: bool  # the target has channels
    soft: bool  # y may lie between 0 and 1: dense or smoothed
    per_class: bool  # gamma is a tensor (C,), not a number
    fields: int  # 6, or 8 with the squares
    flat: bool  # one stride walks through all pixels, else there are rows and columns
    chunks: int  # tiles to hold all classes
    block_c: int
    block_n: int
    fold: int  # pixels of a class that one thread holds: 16 bytes of logits
    near: bool  # those are neighbours, else far apart (channels_last)

    def __post_init__(self) -> None:
        """Mark the fields as constants, which triton before 3.8 does not do when a kernel reads them from an object."""
        if not _INTERPRETED:
            for name, value in vars(self).items():
                object.__setattr__(self, name, tl.constexpr(value))


# Loading: every helper loads what it needs, and the compiler makes one load of equal ones.


@triton.jit
def _work(programs, shape: tl.constexpr):
    """This program's classes, its number within the image, and the image; chunks of equal pixels run side by side."""
    number = tl.program_id(0)
    image = number // shape.chunks // programs
    return _chunk(number % shape.chunks, shape), number // shape.chunks % programs, image.to(tl.int64)


@triton.jit
def _chunk(number, shape: tl.constexpr):
    return number * shape.block_c + tl.arange(0, shape.block_c)[:, None]


@triton.jit
def _place(block, image, pixels, width, shape: tl.constexpr):
    """The block's pixels: image, row, column, whether they exist. 64 bits: a pixel times its stride can pass 2^31."""
    start = block.to(tl.int64) * shape.block_n
    step = tl.arange(0, shape.block_n)[None, :]
    exists = start + step < pixels
    if shape.flat:
        row, column = tl.zeros([1, 1], tl.int64), start + step
    else:
        column = (start % width).to(tl.int32) + step
        row, column = start // width + column // width, (column % width).to(tl.int64)
    return image, row, column, exists


@triton.jit
def _at(tensor, place, classes):
    pointer, image_stride, class_stride, row_stride, column_stride = tensor
    image, row, column, _ = place
    corner = pointer + image * image_stride + classes.to(tl.int64) * class_stride
    return corner + row * row_stride + column * column_stride


@triton.jit
def _logits(inputs, place, classes, counted, shape: tl.constexpr):
    """Logits in float32, 0 where they do not count: selected, never multiplied, so NaN and Inf there are harmless."""
    x = inputs[0]
    missing: tl.constexpr = float("-inf") if shape.softmax else 0.0  # of classes beyond the last
    values = tl.load(_at(x, place, classes), mask=(classes < shape.classes) & place[3], other=missing)
    return tl.where(counted, values.to(tl.float32), 0.0)


@triton.jit
def _gamma(inputs, classes, shape: tl.constexpr):
    """Gamma of each of these classes, or the one number."""
    gamma = inputs[3]
    return tl.load(gamma + classes, mask=classes < shape.classes, other=0.0) if shape.per_class else gamma


@triton.jit
def _labels(inputs, place, classes, shape: tl.constexpr):
    """The target as it is; and 0, 1 or 2 where it counts, is ignored or is illegal."""
    _, target, _, _, ignore_index, _, _ = inputs
    if shape.dense:
        here = (classes < shape.classes) & place[3]
        values = tl.load(_at(target, place, classes), mask=here, other=0).to(tl.float32)
        legal = (values >= 0) & (values <= 1)
    else:  # widened first: 255 does not fit int8, -100 does not fit uint8
        here = place[3]
        values = tl.load(_at(target, place, tl.zeros([1, 1], tl.int32)), mask=here, other=0).to(tl.int64)
        legal = (values >= 0) & (values < tl.maximum(shape.classes, 2))
    return values, tl.where(here & (values == ignore_index), 1, tl.where(here & ~legal, 2, 0))


@triton.jit
def _truth(inputs, place, classes, shape: tl.constexpr):
    """Of these classes y, of each pixel a label within bounds and m, which is 0 where ignored and NaN where illegal."""
    weight = inputs[2]
    values, state = _labels(inputs, place, classes, shape)
    if shape.dense:
        y, label = tl.where(state == 0, values, 0.0), tl.zeros([1, shape.block_n], tl.int64)
        if shape.softmax:  # one ignored channel, else one illegal one, speaks for the pixel
            ignored, illegal = tl.zeros([1, shape.block_n], tl.int32), tl.zeros([1, shape.block_n], tl.int32)
            for number in range(shape.chunks):
                _, channel = _labels(inputs, place, _chunk(number, shape), shape)
                ignored = tl.maximum(ignored, tl.max(channel & 1, 0, keep_dims=True))
                illegal = tl.maximum(illegal, tl.max(channel, 0, keep_dims=True))
            state = tl.where(ignored > 0, 1, illegal)
    else:
        label = tl.where(state == 0, values, 0)
        # The one channel of a binary net is class 1, the object.
        y = ((state == 0) & (values == classes + tl.maximum(2 - shape.classes, 0))).to(tl.float32)
    m = tl.where(place[3] & (state != 1), 1.0, 0.0)
    if weight is not None:
        loaded = tl.load(_at(weight, place, tl.zeros([1, 1], tl.int32)), mask=place[3], other=0.0)
        m = tl.where(m > 0, loaded.to(tl.float32), 0.0)
    return y, label, tl.where(place[3] & (state == 2), float("nan"), m)


# The maths


@triton.jit
def _log1p(z):
    """log(1 + z) for z in [0, 1] to the last digits, as 2 atanh(z / (2 + z)); log(1 + z) itself drops z < 6e-8."""
    t = z / (2.0 + z)
    u = t * t
    series = 1.0 / 7 + u * (1.0 / 9 + u * (1.0 / 11 + u * (1.0 / 13)))
    return 2.0 * t * (1.0 + u * (1.0 / 3 + u * (1.0 / 5 + u * series)))


@triton.jit
def _power(q, gamma):
    """q^gamma, for q = 0 too. Exponent and mantissa apart: exp2(gamma log2 q) is 5e-6 off at q = 1e-12."""
    bits = q.to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) - 127).to(tl.float32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)  # in [1, 2)
    high = gamma * exponent
    whole = tl.floor(high)
    return tl.exp2(whole) * tl.exp2(high - whole + gamma * 1.4426950408889634 * _log1p(mantissa - 1.0))


@triton.jit
def _softmax_focal(e, others, gap, gamma):
    """The focal term, its slope, p and q, where gap = x - top and e = exp(gap)."""
    total = e + others
    inverse = 1.0 / total
    p, q = e * inverse, others * inverse
    # others < e: x is the top, so e is 1. The minimum is for the values that are not selected.
    surprise = tl.where(others < e, _log1p(tl.minimum(others, 1.0)), tl.log(total) - gap)
    power = _power(q, gamma)
    # surprise / q goes to 1 as q goes to 0; there it only has to be finite.
    return power * surprise, power * (1.0 + gamma * p * (surprise / tl.maximum(q, 1e-37))), p, q


@triton.jit
def _binary_focal(r, gamma):
    """The focal term, its derivative in r, p and q, where r is the logit against the truth."""
    e = tl.exp(-tl.abs(r))
    large = 1.0 / (1.0 + e)
    small = e * large
    p, q = tl.where(r > 0, small, large), tl.where(r > 0, large, small)
    surprise = tl.maximum(r, 0.0) + _log1p(e)
    power = _power(q, gamma)
    return power * surprise, power * (gamma * p * surprise + q), p, q


@triton.jit
def _shares(inputs, y, classes, shape: tl.constexpr):
    """The y of the focal terms: smoothed."""
    _, _, _, _, _, keep, spread = inputs
    return tl.where(classes < shape.classes, keep * y + spread, 0.0)


@triton.jit
def _sigmoid_terms(inputs, place, classes, counted, y, shape: tl.constexpr):
    """The positive and negative focal terms, their derivatives in x, p and dp/dx."""
    x, gamma = _logits(inputs, place, classes, counted, shape), _gamma(inputs, classes, shape)
    if shape.soft:
        share = _shares(inputs, y, classes, shape)
        # A term with the factor 0 may be infinite (a logit of -inf), so its r is replaced before the maths.
        positive, rise, p_if, q_if = _binary_focal(tl.where(share > 0, -x, 0.0), gamma)
        negative, fall, p_else, q_else = _binary_focal(tl.where(share < 1, x, 0.0), gamma)
        p, slope = tl.where(share > 0, p_if, q_else), tl.where(share > 0, p_if * q_if, p_else * q_else)
        return share * positive, (1.0 - share) * negative, -share * rise, (1.0 - share) * fall, p, slope
    else:
        own = y > 0
        focal, rise, p_truth, q_truth = _binary_focal(tl.where(own, -x, x), gamma)
        positive, negative = tl.where(own, focal, 0.0), tl.where(own, 0.0, focal)
        p, slope = tl.where(own, p_truth, q_truth), p_truth * q_truth
        return positive, negative, tl.where(own, -rise, 0.0), tl.where(own, 0.0, rise), p, slope


@triton.jit
def _normalise(inputs, place, counted, label, shape: tl.constexpr):
    """Softmax's statistics of each pixel.

    The top logit; the sum of exp(x - top) without the classes at the top, or without the label; how many those are.
    """
    top = tl.full([1, shape.block_n], float("-inf"), tl.float32)
    others, number_apart = tl.zeros([1, shape.block_n], tl.float32), tl.zeros([1, shape.block_n], tl.float32)
    for number in range(shape.chunks):
        x = _logits(inputs, place, _chunk(number, shape), counted, shape)
        top = tl.maximum(top, tl.max(x, 0, keep_dims=True))
    for number in range(shape.chunks):
        x = _logits(inputs, place, _chunk(number, shape), counted, shape)
        apart = x == top if shape.soft else label == _chunk(number, shape)
        others += tl.sum(tl.where(apart, 0.0, tl.exp(x - top)), 0, keep_dims=True)
        number_apart += tl.sum(apart.to(tl.float32), 0, keep_dims=True)
    return top, others, number_apart


@triton.jit
def _soft_terms(inputs, place, classes, counted, y, statistics, shape: tl.constexpr):
    """Softmax where several classes share a pixel: share * focal and share * slope of each class, p and q."""
    top, rest, ties = statistics
    x, share = _logits(inputs, place, classes, counted, shape), _shares(inputs, y, classes, shape)
    e = tl.exp(x - top)
    # Only the likeliest class would lose digits by the subtraction.
    others = tl.where(x == top, rest + (ties - 1.0), rest + ties - e)
    gap = tl.where(share > 0, x - top, 0.0)  # a logit of -inf without a share is harmless
    focal, slope, p, q = _softmax_focal(e, others, gap, _gamma(inputs, classes, shape))
    return share * focal, share * slope, p, q


@triton.jit
def _own_logit(inputs, place, label, counted):
    """The logit of each pixel's class. Its tile was just read, so it is still in the cache."""
    own = tl.load(_at(inputs[0], place, label), mask=place[3], other=0.0)
    return tl.where(counted, own.to(tl.float32), 0.0)


@triton.jit
def _own_terms(inputs, own, label, statistics, shape: tl.constexpr):
    """Softmax with one class per pixel: focal, slope, p and q of that class, and 1 / (sum of exp(x - top))."""
    top, others, _ = statistics
    e = tl.exp(own - top)
    gamma = tl.load(inputs[3] + label) if shape.per_class else inputs[3]
    focal, slope, p, q = _softmax_focal(e, others, own - top, gamma)
    return focal, slope, p, q, 1.0 / (e + others)


@triton.jit
def _probabilities(inputs, place, classes, counted, statistics, inverse, shape: tl.constexpr):
    return tl.exp(_logits(inputs, place, classes, counted, shape) - statistics[0]) * inverse


# Forward


@triton.jit
def _terms(inputs, place, classes, shape: tl.constexpr):
    """What the sums add up: the positive and negative focal terms, p, y and m."""
    y, label, m = _truth(inputs, place, classes, shape)
    counted = m != 0
    if shape.softmax:
        statistics = _normalise(inputs, place, counted, label, shape)
        own = _own_logit(inputs, place, label, counted)
        negative = tl.zeros([shape.block_c, shape.block_n], tl.float32)
        if shape.soft:
            positive, _, p, _ = _soft_terms(inputs, place, classes, counted, y, statistics, shape)
        else:
            focal, _, _, _, inverse = _own_terms(inputs, own, label, statistics, shape)
            positive = tl.where(y > 0, focal, 0.0)
            p = _probabilities(inputs, place, classes, counted, statistics, inverse, shape)
    else:
        positive, negative, _, _, p, _ = _sigmoid_terms(inputs, place, classes, counted, y, shape)
    return positive, negative, p, y, m


@triton.jit
def _fold(tile, shape: tl.constexpr):
    """(R, BLOCK_N) -> (R, BLOCK_N / fold): add up the pixels that one thread holds, which costs no exchange."""
    rows: tl.constexpr = tile.shape[0]
    slots: tl.constexpr = shape.block_n // shape.fold
    if shape.near:
        return tl.sum(tl.reshape(tile, [rows, slots, shape.fold]), 2)
    else:
        return tl.sum(tl.reshape(tile, [rows, shape.fold, slots]), 1)


@triton.jit
def _add(sums, tile, classes, shape: tl.constexpr):
    # For rows beyond the last class this is no change, so the compiler drops them and their registers.
    return tl.where(classes < shape.classes, sums + _fold(tile, shape), sums)


@triton.jit
def _store(row, field: tl.constexpr, sums, classes, shape: tl.constexpr):
    total = tl.broadcast_to(tl.sum(sums, 1, keep_dims=True), classes.shape)
    tl.store(row + field * shape.classes + classes, total, mask=classes < shape.classes)


@triton.jit(do_not_specialize=["blocks", "programs", "rounds", "ignore_index"])
def _sums_kernel(
    x, target, weight, gamma, partials, pixels, width, blocks, programs, rounds, ignore_index, keep, spread,
    shape: tl.constexpr,
):  # fmt: skip
    """Each program adds up `rounds` blocks elementwise, and across threads once: partials (B, programs, fields, C)."""
    inputs = (x, target, weight, gamma, ignore_index, keep, spread)
    classes, program, image = _work(programs, shape)
    positive = tl.zeros([shape.block_c, shape.block_n // shape.fold], tl.float32)
    negative, overlap, predicted, actual, predicted_squared, actual_squared = (positive,) * 6
    valid_rows: tl.constexpr = shape.block_c if shape.dense and not shape.softmax else 1
    valid = tl.zeros([valid_rows, shape.block_n // shape.fold], tl.float32)
    turn, turns = 0, tl.minimum(rounds, blocks - program * rounds)
    while turn < turns:  # the interpreter of triton 3.6 has no range of run-time values
        place = _place(program * rounds + turn, image, pixels, width, shape)
        more, less, p, y, m = _terms(inputs, place, classes, shape)
        positive = _add(positive, m * more, classes, shape)
        overlap = _add(overlap, m * p * y, classes, shape)
        predicted = _add(predicted, m * p, classes, shape)
        actual = _add(actual, m * y, classes, shape)
        valid += _fold(m, shape)
        if not shape.softmax:
            negative = _add(negative, m * less, classes, shape)
        if shape.fields == 8:
            predicted_squared = _add(predicted_squared, m * p * p, classes, shape)
            actual_squared = _add(actual_squared, m * y * y, classes, shape)
        turn += 1
    row = partials + (image * programs + program) * shape.fields * shape.classes
    _store(row, POSITIVE, positive, classes, shape)
    _store(row, NEGATIVE, negative, classes, shape)
    _store(row, OVERLAP, overlap, classes, shape)
    _store(row, PREDICTED, predicted, classes, shape)
    _store(row, ACTUAL, actual, classes, shape)
    _store(row, VALID, valid, classes, shape)
    if shape.fields == 8:
        _store(row, PREDICTED_SQUARED, predicted_squared, classes, shape)
        _store(row, ACTUAL_SQUARED, actual_squared, classes, shape)


# Backward


@triton.jit
def _incoming(grads, field: tl.constexpr, image, classes, shape: tl.constexpr):
    """The gradient in this field for the image and these classes; grads is (pointer to (fields, B, C), B)."""
    pointer, batch = grads
    return tl.load(pointer + (field * batch + image) * shape.classes + classes, mask=classes < shape.classes, other=0.0)


@triton.jit
def _pull(grads, image, classes, p, y, shape: tl.constexpr):
    """The a of the formulas."""
    pull = _incoming(grads, PREDICTED, image, classes, shape) + y * _incoming(grads, OVERLAP, image, classes, shape)
    if shape.fields == 8:
        pull += 2.0 * p * _incoming(grads, PREDICTED_SQUARED, image, classes, shape)
    return pull


@triton.jit
def _soft_forces(grads, inputs, place, classes, counted, y, statistics, shape: tl.constexpr):
    """The w and a of the formulas, p and q."""
    _, slope, p, q = _soft_terms(inputs, place, classes, counted, y, statistics, shape)
    push = slope * _incoming(grads, POSITIVE, place[0], classes, shape)
    return push, _pull(grads, place[0], classes, p, y, shape), p, q


@triton.jit
def _soft_gradient(grads, inputs, place, classes, counted, y, statistics, shape: tl.constexpr):
    pushes, pulls = tl.zeros([1, shape.block_n], tl.float32), tl.zeros([1, shape.block_n], tl.float32)
    for number in range(shape.chunks):
        chunk = _chunk(number, shape)
        y_chunk, _, _ = _truth(inputs, place, chunk, shape)
        push, pull, p, q = _soft_forces(grads, inputs, place, chunk, counted, y_chunk, statistics, shape)
        pushes += tl.sum(push, 0, keep_dims=True)
        pulls += tl.sum(p * pull, 0, keep_dims=True)
    push, pull, p, q = _soft_forces(grads, inputs, place, classes, counted, y, statistics, shape)
    return p * (pushes - push) - q * push + p * (pull - pulls)


@triton.jit
def _own_gradient(grads, inputs, place, classes, counted, y, label, own, statistics, shape: tl.constexpr):
    _, slope, p_own, q_own, inverse = _own_terms(inputs, own, label, statistics, shape)
    push = slope * _incoming(grads, POSITIVE, place[0], label, shape)
    overlap = _incoming(grads, OVERLAP, place[0], label, shape)
    pulls = p_own * overlap
    for number in range(shape.chunks):
        chunk = _chunk(number, shape)
        p = _probabilities(inputs, place, chunk, counted, statistics, inverse, shape)
        pulls += tl.sum(p * _pull(grads, place[0], chunk, p, 0.0, shape), 0, keep_dims=True)
    p = _probabilities(inputs, place, classes, counted, statistics, inverse, shape)
    pull = _pull(grads, place[0], classes, p, 0.0, shape) - pulls
    return tl.where(y > 0, p_own * (pull + overlap) - q_own * push, p * (pull + push))


@triton.jit
def _sigmoid_gradient(grads, inputs, place, classes, counted, y, shape: tl.constexpr):
    _, _, rise, fall, p, slope = _sigmoid_terms(inputs, place, classes, counted, y, shape)
    image = place[0]
    focal = rise * _incoming(grads, POSITIVE, image, classes, shape)
    focal += fall * _incoming(grads, NEGATIVE, image, classes, shape)
    return focal + slope * _pull(grads, image, classes, p, y, shape)


@triton.jit(do_not_specialize=["programs", "ignore_index"])
def _gradient_kernel(
    x, target, weight, gamma, grads, gradient, pixels, width, programs, ignore_index, keep, spread,
    shape: tl.constexpr,
):  # fmt: skip
    """Each program writes the gradient of one tile."""
    inputs = (x, target, weight, gamma, ignore_index, keep, spread)
    classes, block, image = _work(programs, shape)
    place = _place(block, image, pixels, width, shape)
    y, label, m = _truth(inputs, place, classes, shape)
    counted = m != 0
    if not shape.softmax:
        slope = _sigmoid_gradient(grads, inputs, place, classes, counted, y, shape)
    else:
        statistics = _normalise(inputs, place, counted, label, shape)
        own = _own_logit(inputs, place, label, counted)
        if shape.soft:
            slope = _soft_gradient(grads, inputs, place, classes, counted, y, statistics, shape)
        else:
            slope = _own_gradient(grads, inputs, place, classes, counted, y, label, own, statistics, shape)
    slope = tl.where(counted, m * slope, 0.0).to(gradient[0].dtype.element_ty)
    tl.store(_at(gradient, place, classes), slope, mask=(classes < shape.classes) & place[3])


# Launchers


def _tile(
    num_classes: int, pixels: int, itemsize: int, softmax: bool, soft: bool, aligned: bool
) -> tuple[int, int, int, int]:
    """BLOCK_C, BLOCK_N, fold and warps: what keeps logits and accumulators in registers, by the assembler's account.

    Softmax up to 32 classes: a thread has whole pixels, so sums over classes need no exchange. Beyond, and where each
    class has a focal term at each pixel: threads divide the classes. A softmax tile holds all of up to 256 classes, a
    sigmoid tile few, to pad less.
    """
    most = 4 if not (softmax or _INTERPRETED) else 256 if num_classes <= 256 else 128
    block_c, wide = min(triton.next_power_of_2(num_classes), most), 16 // itemsize
    if _INTERPRETED:  # small, so that small tensors take several blocks, but few: each takes milliseconds
        return block_c, min(max(16, triton.next_power_of_2(pixels) // 8), 2**18), wide, 4
    if soft or not softmax or block_c > 32:
        warps = 4 if not softmax else 16 if block_c == 256 else 8
        return block_c, (256 if soft or not softmax else 512) * warps // block_c, wide, warps
    # Where loads cannot be wide, several pixels a thread gain nothing, and triton 3.8 and 3.9 crash on some of them.
    each = wide if aligned and block_c * wide <= 32 else 1
    return block_c, 128 * each, each, 4


def _rounds(blocks: int, device: torch.device) -> int:
    """Blocks per program: 16 at most, so float32 accumulators stay short; fewer where the GPU would be half idle."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return min(max(blocks // (8 * processors), 1), 16)


_INTERPRETED = not isinstance(_sums_kernel, triton.JITFunction)


def _merge(tensors: list[Tensor], spatial: int) -> list[tuple[int, list[int]]]:
    """The fewest dims that describe the last `spatial` dims of all tensors, as (size, stride in each tensor)."""
    dims: list[tuple[int, list[int]]] = []
    for dim in range(-spatial, 0):
        size, strides = tensors[0].shape[dim], [t.stride(dim) for t in tensors]
        if dims and all(outer == size * inner for outer, inner in zip(dims[-1][1], strides, strict=True)):
            dims[-1] = (dims[-1][0] * size, strides)
        elif size > 1:
            dims.append((size, strides))
    return dims


def _views(tensors: list[Tensor | None], spatial: int) -> tuple[list[Any], int, int]:
    """The tensors as kernels take them, with strides from image to image, class, row and column; rows and columns."""
    present = [t for t in tensors if t is not None]
    dims = _merge(present, spatial)
    if len(dims) > 2:  # such as crops of volumes along two axes: kernels know rows and columns, so a copy must do
        present = [t if len(_merge([t], spatial)) < 2 else t.contiguous() for t in present]
        dims = _merge(present, spatial)
    rows, columns = [(1, [0] * len(present)), (1, [0] * len(present)), *dims][-2:]
    found = []
    for t, *steps in zip(present, rows[1], columns[1], strict=True):
        readable = t.view(torch.uint8) if t.dtype == torch.bool else t
        found.append((readable, t.stride(0), t.stride(1) if t.ndim == spatial + 2 else 0, *steps))
    views = iter(found)
    return [None if t is None else next(views) for t in tensors], rows[0], columns[0]


@dataclass(frozen=True)
class _Launch:
    """One pass over the pixels, ready to launch."""

    inputs: list[Any]  # views of logits, target and weight or None, and gamma
    gradient: Any  # its view, or None
    sizes: tuple[int, int]  # N and the width of a row
    blocks: int  # of an image's pixels
    chunks: int  # of the classes
    options: tuple[int, float, float]  # ignore_index, and smoothed y = keep * y + spread
    shape: _Shape
    warps: int


def _prepare(
    gradient: Tensor | None, fields: int, logits: Tensor, target: Tensor, weight: Tensor | None, gamma: float,
    class_gamma: Tensor | None, softmax: bool, ignore_index: int, smoothing: float,
) -> _Launch:  # fmt: skip
    (*views, written), rows, columns = _views([logits, target, weight, gradient], logits.ndim - 2)
    num_classes, pixels, dense = logits.shape[1], rows * columns, target.ndim == logits.ndim
    soft = dense or smoothing > 0
    block_c, block_n, fold, warps = _tile(
        num_classes, pixels, logits.element_size(), softmax, soft, logits.stride(1) % 16 == 0
    )
    chunks = triton.cdiv(num_classes, block_c)
    shape = _Shape(
        classes=num_classes,
        softmax=softmax,
        dense=dense,
        soft=soft,
        per_class=class_gamma is not None,
        fields=fields,
        flat=rows == 1,
        chunks=chunks,
        block_c=block_c,
        block_n=block_n,
        fold=fold,
        near=logits.stride(1) != 1 or num_classes == 1,
    )
    inputs = [*views, gamma if class_gamma is None else class_gamma]
    options = (ignore_index, 1.0 - smoothing, smoothing / (num_classes if softmax else 2))
    blocks = triton.cdiv(pixels, block_n)
    return _Launch(inputs, written, (pixels, columns), blocks, chunks, options, shape, warps)


# Operators


@torch.library.custom_op("segfocal::triton_sums", mutates_args=())
def _sums(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    gamma: float,
    class_gamma: Tensor | None,
    softmax: bool,
    ignore_index: int,
    label_smoothing: float,
    squared: bool,
) -> Tensor:
    """The fields of `PixelSums`, stacked: (6 or 8, B, C)."""
    (batch, num_classes), fields = logits.shape[:2], 8 if squared else 6
    if logits.numel() == 0:
        return logits.new_zeros(fields, batch, num_classes, dtype=torch.float32)
    inputs = (logits, target, weight, gamma, class_gamma, softmax, ignore_index, label_smoothing)
    launch = _prepare(None, fields, *inputs)
    rounds = _rounds(batch * launch.blocks * launch.chunks, logits.device)
    programs = triton.cdiv(launch.blocks, rounds)
    partials = logits.new_empty(batch, programs, fields, num_classes, dtype=torch.float32)
    with torch.cuda.device_of(logits):
        _sums_kernel[(batch * programs * launch.chunks,)](
            *launch.inputs, partials, *launch.sizes, launch.blocks, programs, rounds, *launch.options,
            shape=launch.shape, num_warps=launch.warps,
        )  # fmt: skip
    sums = partials.sum(1, dtype=torch.float64).transpose(0, 1)
    # An illegal label made its pixel's m NaN, and so `valid`; all fields of the image follow.
    return (sums + 0 * sums[VALID.value].sum(1, keepdim=True)).float().contiguous()


@torch.library.custom_op("segfocal::triton_gradient", mutates_args=())
def _gradient(
    grads: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    gamma: float,
    class_gamma: Tensor | None,
    softmax: bool,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """The gradient in the logits, in their dtype and memory format, from that in the stacked sums (6 or 8, B, C)."""
    gradient = torch.empty_like(logits)
    if logits.numel() == 0:
        return gradient
    inputs = (logits, target, weight, gamma, class_gamma, softmax, ignore_index, label_smoothing)
    launch = _prepare(gradient, len(grads), *inputs)
    with torch.cuda.device_of(logits):
        _gradient_kernel[(len(logits) * launch.blocks * launch.chunks,)](
            *launch.inputs, (grads.contiguous(), len(logits)), launch.gradient, *launch.sizes, launch.blocks,
            *launch.options, shape=launch.shape, num_warps=launch.warps,
        )  # fmt: skip
    # Another tensor only where `_prepare` had to copy.
    written = launch.gradient[0]
    return gradient if written.data_ptr() == gradient.data_ptr() else gradient.copy_(written)


@_sums.register_fake
def _(logits: Tensor, *options: Any) -> Tensor:
    return logits.new_empty(8 if options[-1] else 6, *logits.shape[:2], dtype=torch.float32)


@_gradient.register_fake
def _(grads: Tensor, logits: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(logits)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, target, weight, gamma, class_gamma, *options, _ = inputs
    ctx.save_for_backward(logits, target, weight, class_gamma, output)
    ctx.gamma, ctx.options = gamma, options


def _backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
    logits, target, weight, class_gamma, sums = ctx.saved_tensors
    grads = grads + 0 * sums[VALID.value]  # NaN where an illegal label made the sums NaN
    gradient = _gradient(grads, logits, target, weight, ctx.gamma, class_gamma, *ctx.options)
    return gradient, *(None,) * 8


def _no_second_derivative(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "Expected one backward pass: the triton backend does not support double backward. Use backend='reference'."
    )


_sums.register_autograd(_backward, setup_context=_remember)
_gradient.register_autograd(_no_second_derivative)


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
        ValueError: For float64 logits, and for logits that are not on CUDA while the interpreter is off.
        RuntimeError: In the backward pass of a backward pass.
    """
    if logits.dtype == torch.float64:
        remedy = "Use backend='auto', or pass logits.float()."
        raise ValueError(f"Expected `logits` in float32 or less: triton computes in float32, got float64. {remedy}")
    if logits.device.type != "cuda" and not _INTERPRETED:
        remedy = "Pass logits.cuda(), set TRITON_INTERPRET=1 before triton is imported, or use backend='tiled'."
        raise ValueError(f"Expected `logits` on CUDA for the triton backend, got {logits.device}. {remedy}")
    number, class_gamma = (0.0, gamma.float()) if isinstance(gamma, Tensor) else (float(gamma), None)
    softmax = activation == "softmax"
    sums = _sums(logits, target, weight, number, class_gamma, softmax, ignore_index, label_smoothing, squared)
    fields = list(sums.unbind())
    for constant in (ACTUAL, VALID, ACTUAL_SQUARED)[: 3 if squared else 2]:
        fields[constant.value] = fields[constant.value].detach()
    return PixelSums(*fields)
