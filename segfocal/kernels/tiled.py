"""The sums tile by tile, with the closed-form gradient: a tile stays in the cache from its first to its last operation.

Reads downwards: what a tile is; softmax with one class per pixel, the fast way; the other kinds; how tiles are run and
added up; the two operators; `pixel_sums`. Shapes: b images, C classes, T pixels of a tile, K = C or 1.

With e = exp(x), o = the sum of e over the classes other than the pixel's own t, and s = e_t + o:

    p = e / s    q = 1 - p_t = o / s    r = log o - x_t    focal = q^gamma softplus(r)
    slope = d focal / d r = q^gamma (gamma p_t softplus(r) + q)

With the derivatives of the loss by the sums, f (positive_focal), u (overlap) and g (predicted), and v = g_t + u_t,
a = the sum over the other classes of p_j g_j, the gradient is

    dx_t = p_t (q v - a) - f_t slope        dx_j = p_j (g_j - a - p_t v + f_t slope / q)
"""

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.kernels import PixelSums

# Values in a tile, the dozen of each pixel beside its logits counted: few calls for much work, at most a sixth of the
# logits' number so that threads share and memory stays small, and never more than the cache holds.
_LEAST, _SHARE, _MOST = 2**18, 6, 2**21

R = TypeVar("R")


class _Options(NamedTuple):
    softmax: bool
    gamma: float
    gammas: Tensor | None  # (C,), in place of gamma
    ignore_index: int
    label_smoothing: float
    squared: bool


class _Tile(NamedTuple):
    x: Tensor  # (b, C, T) logits, of their own dtype and strides
    y: Tensor  # (b, T) int64 in [0, C), or (b, C, T) shares
    m: Tensor  # (b, K, T) weight, 0 where ignored; K = C where classes are ignored one by one
    ignored: Tensor  # (b, K, T) bool
    poison: Tensor | None  # (b, 1) NaN for an image with an illegal label, else 0; None if there is none
    room: Tensor  # (2, at least b * C * T) to write to: new memory for each tile would cost as much as its maths
    steps: Tensor  # 0, 1, 2, ... of length T or more


class _Grads(NamedTuple):
    """The derivatives of the loss by the sums that are not constant, (b, C) each."""

    positive: Tensor
    negative: Tensor
    overlap: Tensor
    predicted: Tensor
    squares: Tensor | None


# What the target says of a tile


def _tile(x: Tensor, target: Tensor, weight: Tensor | None, room: Tensor, steps: Tensor, options: _Options) -> _Tile:
    """Flatten the spatial dims and read the labels; `x` (b, C, ...), `target` with or without C, `weight` (b, ...)."""
    dtype, dense = _wide(x), target.ndim == x.ndim
    x, target = x.flatten(2), target.flatten(2 if dense else 1)
    y, ignored, poison = _shares(target, dtype, options) if dense else _indices(target, x.shape[1], dtype, options)
    if weight is None:
        m = (~ignored).to(dtype)
    else:
        m = weight.flatten(1).to(dtype).unsqueeze(1)
        ignored = ignored | (m == 0)
        m = m.masked_fill(ignored, 0.0)
    return _Tile(x, y, m, ignored, poison, room, steps)


def _indices(
    target: Tensor, num_classes: int, dtype: torch.dtype, options: _Options
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Class indices (b, T) or, where the fast way does not apply, one-hot shares; ignored (b, 1, T); poison."""
    target = _short(target, options.ignore_index)
    ignored = target == options.ignore_index
    index = target.masked_fill(ignored, 0)
    poison, last = None, max(num_classes, 2) - 1
    low, high = torch.aminmax(index)
    index = index.long()
    if index.device.type != "cpu" or low < 0 or high > last:  # elsewhere a look would wait for the device
        illegal = ((index < 0) | (index > last)).any(1, keepdim=True)
        poison, index = torch.where(illegal, math.nan, 0.0), index.clamp(0, last)
    if not options.softmax or options.label_smoothing > 0:
        first = 1 if num_classes == 1 else 0  # one channel is class 1, the object
        classes = torch.arange(first, first + num_classes, device=index.device)
        index = (index.unsqueeze(1) == classes[:, None]).to(dtype)
    return index, ignored.unsqueeze(1), poison


def _short(target: Tensor, ignore_index: int) -> Tensor:
    """The labels in 16 bits, where they and `ignore_index` fit, for speed; else in 64: 255 does not fit int8."""
    if target.dtype in (torch.uint8, torch.int16):
        return target.to(torch.int16) if abs(ignore_index) < 2**15 else target.long()
    target = target.long()
    if target.device.type == "cpu" and abs(ignore_index) < 2**15:
        low, high = torch.aminmax(target)
        if low >= -(2**15) and high < 2**15:
            return target.to(torch.int16)
    return target


def _shares(target: Tensor, dtype: torch.dtype, options: _Options) -> tuple[Tensor, Tensor, Tensor]:
    """Shares (b, C, T), ignored (b, K, T), poison (b, 1)."""
    y = target.to(dtype)  # widened first, as above
    ignored = y == options.ignore_index
    if options.softmax:
        ignored = ignored.any(1, keepdim=True)
    y = y.masked_fill(ignored, 0.0)
    legal = ((y >= 0) & (y <= 1)).flatten(1).all(1, keepdim=True)
    return y, ignored, torch.where(legal, 0.0, math.nan)


def _finite(tile: _Tile) -> Tensor:
    """A copy of the logits (b, C, T) in the dtype of the sums, without the NaN and infinities of ignored pixels."""
    x = tile.room[0, : tile.x.numel()].view(tile.x.shape).copy_(tile.x)
    if x.device.type == "cpu":  # elsewhere the check would wait for the device
        low, high = torch.aminmax(x)
        if low > -1e30 and high < 1e30:  # false for NaN
            return x
    return x.masked_fill_(tile.ignored, 0.0)


# The focal term, element by element


def _gamma_of(tile: _Tile, options: _Options) -> float | Tensor:
    if options.gammas is None:
        return options.gamma
    return options.gammas[:, None] if tile.y.ndim == 3 else options.gammas[tile.y]


def _softplus(r: Tensor) -> Tensor:
    return F.softplus(r, threshold=40.0)  # the default of 20 is too low for float64


def _focal(q: Tensor, surprise: Tensor, gamma: float | Tensor) -> Tensor:
    return surprise if isinstance(gamma, float) and gamma == 0 else q**gamma * surprise


def _slope(q: Tensor, p: Tensor, surprise: Tensor, gamma: float | Tensor) -> Tensor:
    """The derivative of the focal term by r, a new tensor."""
    if isinstance(gamma, float) and gamma == 0:
        return q.clone()
    surprise = surprise.clamp(max=torch.finfo(p.dtype).max)  # where p is 0 it may be infinite
    return surprise.mul_(p).mul_(gamma).add_(q).mul_(q**gamma)


# Softmax, one class per pixel: exponentials of the logits as they are, and matrix products


class _Odds(NamedTuple):
    e: Tensor  # (b, C, T) exp(x), 0 at the pixel's own class
    flat: Tensor  # the memory of e
    place: Tensor  # (b * T,) where in it the own class lies
    p: Tensor  # (b, T) probability of the own class
    q: Tensor  # (b, T) 1 - p
    surprise: Tensor  # (b, T) -log p
    inverse: Tensor  # (b, T) e * inverse is the probability


def _odds(tile: _Tile, e: Tensor) -> _Odds:
    """The odds, with e to write to; of any strides."""
    x, (image_stride, class_stride, pixel_stride) = tile.x, e.stride()
    # One flat index per pixel is several times faster than gather and scatter along the classes.
    flat = e.as_strided((1 + sum((n - 1) * s for n, s in zip(e.shape, e.stride(), strict=True)),), (1,))
    place = tile.steps[: x.shape[2]] if pixel_stride == 1 else pixel_stride * tile.steps[: x.shape[2]]
    if len(x) > 1:
        place = place + torch.arange(0, image_stride * len(x), image_stride, device=x.device)[:, None]
    place = torch.add(place, tile.y, alpha=class_stride).view(-1)
    if e.device.type == "cpu":  # elsewhere the check below would wait for the device
        torch.exp(x, out=e) if x.dtype == e.dtype else e.copy_(x).exp_()
        own, others = _split(e, flat, place)
        total, ratio = own + others, others / own
        # Inside these bounds no digit is lost; NaN and infinities, of ignored pixels too, lie outside.
        if own.amin() >= 1e-18 and total.amax() <= 1e18:
            inverse = total.reciprocal_()
            return _Odds(e, flat, place, own.mul_(inverse), others.mul_(inverse), ratio.log1p_(), inverse)
    e.copy_(x).masked_fill_(tile.ignored, 0.0)
    e -= e.amax(1, keepdim=True)
    x_own = flat.index_select(0, place).view_as(tile.y)
    own, others = _split(e.exp_(), flat, place)
    inverse, surprise = (own + others).reciprocal_(), _softplus(others.log() - x_own)
    return _Odds(e, flat, place, own.mul_(inverse), others.mul_(inverse), surprise, inverse)


def _split(e: Tensor, flat: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The own class's share and the sum of the others (b, T); sets the own class to 0, so nothing is subtracted."""
    own = flat.index_select(0, place)
    flat.scatter_(0, place, torch.zeros_like(own))
    others = torch.bmm(torch.ones(len(e), 1, e.shape[1], dtype=e.dtype, device=e.device), e).squeeze(1)
    return own.view_as(others), others


def _room(tile: _Tile, slot: int) -> Tensor:
    """Memory for (b, C, T), with the classes last where they are last in the logits."""
    (batch, num_classes, pixels), room = tile.x.shape, tile.room[slot, : tile.x.numel()]
    if num_classes > 1 and tile.x.stride(1) == 1 and pixels > 1:
        return room.view(batch, pixels, num_classes).transpose(1, 2)
    return room.view(tile.x.shape)


def _softmax_index_sums(tile: _Tile, options: _Options) -> list[Tensor]:
    e, _, _, p, q, surprise, inverse = _odds(tile, _room(tile, 0))
    m, (batch, num_classes, _) = tile.m.squeeze(1), e.shape
    rows = torch.empty(4 if options.squared else 3, *p.shape, dtype=_accumulator(e), device=e.device)
    torch.mul(m, _focal(q, surprise, _gamma_of(tile, options)), out=rows[0])
    m_p = torch.mul(m, p)
    rows[1].copy_(m_p)
    rows[2].copy_(m)
    if options.squared:
        torch.mul(m_p, p, out=rows[3])
    by_class = torch.zeros(len(rows), batch, num_classes, dtype=rows.dtype, device=e.device)
    positive, overlap, actual, *own = by_class.scatter_add_(2, tile.y.expand(rows.shape), rows).unbind(0)
    scale = m * inverse
    predicted = torch.bmm(e, scale.unsqueeze(2)).squeeze(2) + overlap
    sums = [
        positive,
        torch.zeros_like(positive),
        overlap,
        predicted,
        actual,
        actual.sum(1, keepdim=True).expand_as(actual),
    ]
    if options.squared:
        sums += [torch.bmm(e * e, (scale * inverse).unsqueeze(2)).squeeze(2) + own[0], actual]
    return sums


def _softmax_index_gradient(tile: _Tile, grads: _Grads, options: _Options, out: Tensor) -> None:
    direct = out.dtype == _wide(out)  # then the memory of the result is the room for e
    e, flat, place, p, q, surprise, inverse = _odds(tile, out if direct else _room(tile, 0))
    m, g, squares = tile.m.squeeze(1), grads.predicted, grads.squares
    push = _slope(q, p, surprise, _gamma_of(tile, options)).mul_(_of_class(grads.positive, tile.y))
    pull = torch.clamp(q, min=torch.finfo(q.dtype).tiny, out=surprise).reciprocal_().mul_(push)
    v = _of_class(g + grads.overlap, tile.y)
    a = torch.bmm(g.unsqueeze(1), e).squeeze(1).mul_(inverse)
    if squares is not None:  # g becomes g + 2 p squares
        v = v + 2 * p * _of_class(squares, tile.y)
        a = a + 2 * torch.bmm(squares.unsqueeze(1), e * e).squeeze(1) * inverse * inverse
    # dx_j / e_j = (g_j - a - p v + pull) m inverse, as a matrix product of rank 2.
    rows = torch.empty(len(e), 2, e.shape[2], dtype=e.dtype, device=e.device)
    scale = torch.mul(m, inverse, out=rows[:, 0])
    torch.mul(pull.sub_(a).addcmul_(p, v, value=-1), scale, out=rows[:, 1])
    own = a.addcmul_(q, v, value=-1).mul_(p).add_(push).mul_(m).neg_()  # m (p (q v - a) - push)
    w = torch.bmm(torch.stack([g, torch.ones_like(g)], 2), rows, out=_room(tile, 0 if direct else 1))
    if squares is not None:
        w += 2 * squares.unsqueeze(2) * e * (scale * inverse).unsqueeze(1)
    e *= w
    flat.scatter_(0, place, own.view(-1))
    if not direct:
        out.copy_(e)


def _of_class(values: Tensor, y: Tensor) -> Tensor:
    """What each pixel's class has: values (b, C) and class indices (b, T) to (b, T)."""
    return values.index_select(1, y[0]) if len(y) == 1 else values.gather(1, y)  # the first is faster


# Softmax, any share of any class


def _softmax_share_terms(tile: _Tile, options: _Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, q = 1 - p, -log p and the smoothed shares, each (b, C, T)."""
    log_p = _finite(tile).log_softmax(1)
    p = log_p.exp()
    # 1 - p loses digits for the likeliest class alone: only there are the others added up.
    top = p.argmax(1, keepdim=True)
    q = (1 - p).scatter_(1, top, p.scatter(1, top, 0.0).sum(1, keepdim=True))
    smoothing = options.label_smoothing
    return p, q, _softplus(q.log().sub_(log_p)), (1 - smoothing) * tile.y + smoothing / tile.x.shape[1]


def _softmax_share_sums(tile: _Tile, options: _Options) -> list[Tensor]:
    p, q, surprise, y = _softmax_share_terms(tile, options)
    # A term with y = 0 may be infinite.
    positive = y * _focal(q, surprise.masked_fill_(y == 0, 0.0), _gamma_of(tile, options))
    return _share_sums(tile, p, positive, torch.zeros_like(positive), options)


def _softmax_share_gradient(tile: _Tile, grads: _Grads, options: _Options, out: Tensor) -> None:
    p, q, surprise, y = _softmax_share_terms(tile, options)
    push = grads.positive.unsqueeze(2) * y * _slope(q, p, surprise, _gamma_of(tile, options))
    pull = push / q.clamp(min=torch.finfo(q.dtype).tiny)
    a = _region_slope(tile, p, grads)
    focal = p * (pull.sum(1, keepdim=True) - pull) - push
    out.copy_(tile.m * (focal + p * (a - (p * a).sum(1, keepdim=True))))


# Sigmoid: every class for itself


def _sigmoid_sums(tile: _Tile, options: _Options) -> list[Tensor]:
    x, gamma = _finite(tile), _gamma_of(tile, options)
    p, y = x.sigmoid(), _smooth_yes(tile, options)
    # A term with the factor 0 may be infinite.
    positive = y * _focal((-x).sigmoid_(), _softplus(-x).masked_fill_(y == 0, 0.0), gamma)
    negative = (1 - y) * _focal(p, _softplus(x).masked_fill_(y == 1, 0.0), gamma)
    return _share_sums(tile, p, positive, negative, options)


def _sigmoid_gradient(tile: _Tile, grads: _Grads, options: _Options, out: Tensor) -> None:
    x, gamma = _finite(tile), _gamma_of(tile, options)
    p, q, y = x.sigmoid(), (-x).sigmoid_(), _smooth_yes(tile, options)
    positive = grads.positive.unsqueeze(2) * y * _slope(q, p, _softplus(-x), gamma)
    negative = grads.negative.unsqueeze(2) * (1 - y) * _slope(p, q, _softplus(x), gamma)
    out.copy_(tile.m * (negative - positive + p * q * _region_slope(tile, p, grads)))


def _smooth_yes(tile: _Tile, options: _Options) -> Tensor:
    return (1 - options.label_smoothing) * tile.y + options.label_smoothing / 2


# What all kinds with shares have in common


def _share_sums(tile: _Tile, p: Tensor, positive: Tensor, negative: Tensor, options: _Options) -> list[Tensor]:
    m = tile.m.expand_as(p)
    terms = [positive, negative, p * tile.y, p, tile.y]
    sums = [(m * term).sum(2) for term in terms] + [m.sum(2)]
    return sums + [(m * term * term).sum(2) for term in (p, tile.y)] if options.squared else sums


def _region_slope(tile: _Tile, p: Tensor, grads: _Grads) -> Tensor:
    """The derivative by p of what depends on overlap, predicted and predicted_squared, without m, (b, C, T)."""
    slope = grads.predicted.unsqueeze(2) + tile.y * grads.overlap.unsqueeze(2)
    return slope if grads.squares is None else slope + 2 * p * grads.squares.unsqueeze(2)


# Running over the tiles


class _Kind(NamedTuple):
    sums: Callable[[_Tile, _Options], list[Tensor]]
    gradient: Callable[[_Tile, _Grads, _Options, Tensor], None]
    shrink: int  # what the size of a tile is divided by, for the memory of all intermediate results


def _kind(dense: bool, options: _Options) -> _Kind:
    if not options.softmax:
        return _Kind(_sigmoid_sums, _sigmoid_gradient, 4)
    if dense or options.label_smoothing > 0:
        return _Kind(_softmax_share_sums, _softmax_share_gradient, 4)
    return _Kind(_softmax_index_sums, _softmax_index_gradient, 1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64  # MPS has no float64


def _merge(tensors: list[Tensor], spatial: int) -> list[Tensor]:
    """Views with one spatial dim, if all tensors allow it without a copy."""
    if spatial == 0:
        return [t.unsqueeze(-1) for t in tensors]

    def in_line(t: Tensor) -> bool:
        dims = [d for d in range(t.ndim - spatial, t.ndim) if t.shape[d] > 1]
        return all(t.stride(a) == t.stride(b) * t.shape[b] for a, b in itertools.pairwise(dims))

    return [t.flatten(-spatial) for t in tensors] if all(in_line(t) for t in tensors) else tensors


def _tiles(logits: Tensor, shrink: int) -> list[tuple[slice, slice]]:
    """Slices of the images and of the first spatial dim that cut (B, C, rows, ...) into tiles of similar size."""
    batch, num_classes, rows, row = *logits.shape[:3], math.prod(logits.shape[3:])
    if logits.numel() == 0:
        return []
    most = min(max(_LEAST, logits.numel() // _SHARE), _MOST) // shrink // (num_classes + 12)  # pixels
    return list(itertools.product(_cut(batch, most // (rows * row)), _cut(rows, most // row)))


def _cut(length: int, most: int) -> list[slice]:
    step = math.ceil(length / math.ceil(length / max(1, most)))
    return [slice(start, start + step) for start in range(0, length, step)]


def _each(work: Callable[[slice, slice, Tensor, Tensor], R], logits: Tensor, shrink: int) -> list[R]:
    """Do the work for each tile, on the CPU in as many threads as PyTorch has; the results are in the tiles' order."""
    tiles, device = _tiles(logits, shrink), logits.device
    workers = max(1, min(torch.get_num_threads(), len(tiles))) if device.type == "cpu" else 1
    size = max((logits[images, :, rows].numel() for images, rows in tiles), default=0)

    def share(worker: int) -> list[R]:
        # Nothing here is differentiated, which makes calls cheaper; and a backward pass may run inside autocast.
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            room = torch.empty(2, size, dtype=_wide(logits), device=device)
            steps = torch.arange(size // max(logits.shape[1], 1), device=device)
            return [work(*tile, room, steps) for tile in tiles[worker::workers]]

    # A pool for every thread that PyTorch has, also where there are fewer tiles: one pool is enough.
    together = map if workers == 1 else _pool(os.getpid(), torch.get_num_threads()).map
    shares = list(together(share, range(workers)))
    return [shares[i % workers][i // workers] for i in range(len(tiles))]


@functools.cache
def _pool(_process: int, workers: int) -> ThreadPoolExecutor:
    """Threads that each compute alone. One coarse split: a parallel region per call stalls when a core is busy.

    A forked process has none of its parent's threads, so it is part of the key.
    """
    pool, together = ThreadPoolExecutor(workers, "segfocal"), threading.Barrier(workers)

    def alone(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes the number set last when it first needs one: let that be now
        together.wait()

    try:
        list(pool.map(alone, range(workers)))
    except BaseException:  # an interrupt, or no more threads: those that wait for the others must end
        together.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(workers)  # what threads made later start from
    return pool


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
    options = _Options(softmax, gamma, gammas, ignore_index, label_smoothing, squared)
    kind = _kind(target.ndim == logits.ndim, options)
    sums = torch.zeros(8 if squared else 6, *logits.shape[:2], dtype=_accumulator(logits), device=logits.device)
    x, y, *w = _merge([t for t in (logits, target, weight) if t is not None], logits.ndim - 2)

    def work(images: slice, rows: slice, *room: Tensor) -> tuple[slice, list[Tensor], Tensor | None]:
        tile = _cut_out(x, y, w, images, rows, options, *room)
        return images, kind.sums(tile, options), tile.poison

    for images, parts, poison in _each(work, x, kind.shrink):
        sums[:, images] += torch.stack(parts) if poison is None else torch.stack(parts) + poison
    return sums.to(_wide(logits))


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
    options = _Options(softmax, gamma, gammas, ignore_index, label_smoothing, squared)
    kind = _kind(target.ndim == logits.ndim, options)
    result = torch.empty_like(logits)
    x, y, out, *w = _merge([t for t in (logits, target, result, weight) if t is not None], logits.ndim - 2)

    def work(images: slice, rows: slice, *room: Tensor) -> None:
        tile = _cut_out(x, y, w, images, rows, options, *room)
        positive, negative, overlap, predicted, _, _, *squares = grads[:, images].unbind(0)
        mine = _Grads(positive, negative, overlap, predicted, squares[0] if squared else None)
        place = out[images, :, rows]
        gradient = place if place.ndim == 3 else torch.empty(tile.x.shape, dtype=_wide(x), device=x.device)
        kind.gradient(tile, mine, options, gradient)
        if gradient is not place:
            place.copy_(gradient.view(place.shape))

    _each(work, x, kind.shrink)
    return result


def _cut_out(
    x: Tensor, y: Tensor, w: list[Tensor], images: slice, rows: slice, options: _Options, room: Tensor, steps: Tensor
) -> _Tile:
    target = y[images, :, rows] if y.ndim == x.ndim else y[images, rows]
    return _tile(x[images, :, rows], target, w[0][images, rows] if w else None, room, steps, options)


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
    return tiled_gradient(grads + 0 * sums[5], *tensors, *ctx.options), *[None] * 8


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
    """The sums of `PixelSums`; see the contract in `segfocal.kernels`."""
    gammas, single = (gamma, 0.0) if isinstance(gamma, Tensor) else (None, gamma)
    softmax = activation == "softmax"
    sums = tiled_sums(logits, target, weight, gammas, single, softmax, ignore_index, label_smoothing, squared)
    return PixelSums(*sums.unbind(0))
