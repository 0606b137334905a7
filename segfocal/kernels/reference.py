"""The definition of the sums in plain PyTorch: ordinary autograd, float64 and double backward, any device.

B images, C classes, N pixels (all spatial dims flattened), K = C where the value differs between classes, else 1.

With r = log(q / p), where q = 1 - p is summed over the other classes and never found by subtraction from a p near 1:

    -log p = softplus(r)        focal = q^gamma * softplus(r)        softmax: p of the target's class
                                                                     sigmoid: r = -x for a positive, x for a negative
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.kernels import PixelSums

Activation = Literal["softmax", "sigmoid"]


class _Pixels(NamedTuple):
    x: Tensor  # (B, C, N) logits in the dtype of the sums, 0 where they do not count
    y: Tensor  # (B, N) int64 class indices, or (B, C, N) bool or float
    m: Tensor  # (B, K, N) weight, 0 where ignored
    illegal: Tensor  # (B, K, N) bool, a label that is neither a class nor ignored


def pixel_sums(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    gamma: float | Tensor,
    ignore_index: int,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    squared: bool = False,
) -> PixelSums:
    """The sums of `PixelSums` by its formulas; see the contract in `segfocal.kernels`."""
    pixels = _prepare(logits, target, activation, ignore_index, weight, one_hot=label_smoothing > 0)
    num_classes, (_, y, m, illegal) = logits.shape[1], pixels
    if y.ndim == 2:
        p, focal = _index_terms(pixels, gamma)
        m_bn, p_own = m.squeeze(1), p.gather(1, y.unsqueeze(1)).squeeze(1)
        positive, overlap, actual = (_by_class(v, y, num_classes) for v in (m_bn * focal, m_bn * p_own, m_bn))
        negative = torch.zeros_like(positive)
    else:
        p, positives, negatives = _dense_terms(pixels, activation, gamma, label_smoothing)
        positive, overlap, actual = ((m * v).sum(-1) for v in (positives, p * y, y))
        negative = torch.zeros_like(positive) if negatives is None else (m * negatives).sum(-1)
    m_p = m * p
    predicted, valid = m_p.sum(-1), m.sum(-1).expand_as(actual)
    sums = [positive, negative, overlap, predicted, actual, valid]
    if squared:
        sums += [(m_p * p).sum(-1), actual if y.ndim == 2 else (m * y * y).sum(-1)]
    # A product, not a sum: the gradient turns NaN with the value.
    poison = torch.ones_like(predicted[:, :1]).masked_fill(illegal.flatten(1).any(1, keepdim=True), math.nan)  # (B, 1)
    return PixelSums(*(poison * field for field in sums))


def focal_map(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    gamma: float | Tensor,
    ignore_index: int,
    positive_weight: Tensor,
    negative_weight: Tensor,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The focal loss before any sum: (B, *S) for softmax, (B, C, *S) for sigmoid; the class weights have shape (C,)."""
    pixels = _prepare(logits, target, activation, ignore_index, weight, one_hot=label_smoothing > 0)
    _, y, m, illegal = pixels
    if y.ndim == 2:
        _, focal = _index_terms(pixels, gamma)
        loss = (m.squeeze(1) * positive_weight[y] * focal).unsqueeze(1)
    else:
        _, positives, negatives = _dense_terms(pixels, activation, gamma, label_smoothing)
        loss = m * positive_weight[:, None] * positives
        loss = loss.sum(1, keepdim=True) if negatives is None else loss + m * negative_weight[:, None] * negatives
    loss = loss.masked_fill(illegal, math.nan)
    batch, num_classes, *spatial = logits.shape
    return loss.view(batch, *spatial) if activation == "softmax" else loss.view(batch, num_classes, *spatial)


def _prepare(
    logits: Tensor,
    target: Tensor,
    activation: Activation,
    ignore_index: int,
    weight: Tensor | None,
    one_hot: bool,
) -> _Pixels:
    """Flatten the pixels, widen the dtype, and select: what is not counted never enters the maths."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    x, num_classes = _flat(logits, 2).to(dtype), logits.shape[1]
    if target.ndim == logits.ndim:
        y = _flat(target, 2)
        y = y if y.dtype == torch.bool else y.to(dtype)  # widened first, as below
        valid = y != ignore_index
        valid = valid.all(1, keepdim=True) if activation == "softmax" else valid
        illegal = valid & ~((y >= 0) & (y <= 1))
        illegal = illegal.any(1, keepdim=True) if activation == "softmax" else illegal
        y = y.masked_fill(~valid, 0) if target.is_floating_point() else (y != 0) & valid
    else:
        index = _flat(target, 1).long()  # (B, N), widened first: 255 does not fit int8, -100 does not fit uint8
        valid = (index != ignore_index).unsqueeze(1)
        illegal = valid & ((index < 0) | (index >= max(num_classes, 2))).unsqueeze(1)
        y = index.masked_fill(~valid.squeeze(1), 0).clamp(0, max(num_classes, 2) - 1)  # gather must stay in bounds
        if activation == "sigmoid" or one_hot:
            first = 1 if num_classes == 1 else 0  # one channel: it is class 1, the object
            y = y.unsqueeze(1) == torch.arange(first, first + num_classes, device=y.device)[:, None]
    m = valid.to(dtype)
    if weight is not None:
        m = _flat(weight, 1).to(dtype).unsqueeze(1).masked_fill(~valid, 0.0)
    return _Pixels(x.masked_fill(m == 0, 0.0), y, m, illegal)


def _flat(tensor: Tensor, start: int) -> Tensor:
    return tensor.flatten(start) if tensor.ndim > start else tensor.unsqueeze(-1)


def _index_terms(pixels: _Pixels, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
    """Softmax, one class per pixel: p (B, C, N) and the focal term of the pixel's own class (B, N)."""
    index = pixels.y.unsqueeze(1)  # (B, 1, N)
    log_p = pixels.x.log_softmax(1)
    p = log_p.exp()
    q = p.scatter(1, index, 0.0).sum(1)
    r = _log(q) - log_p.gather(1, index).squeeze(1)
    return p, _focal(r, gamma if isinstance(gamma, float) else gamma[pixels.y])


def _dense_terms(
    pixels: _Pixels, activation: Activation, gamma: float | Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Any share of any class per pixel: p, y * positive term and (1 - y) * negative term, each (B, C, N)."""
    x, y, _, _ = pixels
    gamma = gamma if isinstance(gamma, float) else gamma[:, None]
    outcomes = x.shape[1] if activation == "softmax" else 2
    y = y if label_smoothing == 0 else (1 - label_smoothing) * y.to(x.dtype) + label_smoothing / outcomes
    # A term with the factor y = 0 may be infinite (a logit of -inf), so its r is replaced before the maths.
    if activation == "sigmoid":
        p = x.sigmoid()
        if y.dtype == torch.bool:
            focal = _focal(torch.where(y, -x, x), gamma)
            return p, focal.masked_fill(~y, 0.0), focal.masked_fill(y, 0.0)
        positive, negative = _focal((-x).masked_fill(y == 0, 0.0), gamma), _focal(x.masked_fill(y == 1, 0.0), gamma)
        return p, y * positive, (1 - y) * negative
    log_p = x.log_softmax(1)
    p = log_p.exp()
    # 1 - p loses digits for the likeliest class alone: only there are the others added up.
    top = p.argmax(1, keepdim=True)
    q = (1 - p).scatter(1, top, p.scatter(1, top, 0.0).sum(1, keepdim=True))
    return p, y * _focal((_log(q) - log_p).masked_fill(y == 0, 0.0), gamma), None


def _log(q: Tensor) -> Tensor:
    # q is 0 when p rounds to 1 or every other logit is -inf; the clamp's slope is 0 there, as the loss's is.
    return q.clamp(min=torch.finfo(q.dtype).tiny).log()


def _focal(r: Tensor, gamma: float | Tensor) -> Tensor:
    # Below the clamp the loss underflows; without it q reaches 0, where pow has an infinite slope for gamma < 1.
    r = r.clamp(min=math.log(torch.finfo(r.dtype).tiny))
    surprise = -F.logsigmoid(-r)  # softplus(r); F.softplus cuts off at 20, which float64 notices
    return surprise if isinstance(gamma, float) and gamma == 0 else r.sigmoid() ** gamma * surprise


def _by_class(values: Tensor, index: Tensor, num_classes: int) -> Tensor:
    """Sum values (B, N) by class into (B, C), in float64: a running float32 sum stalls at 2^24."""
    wide = torch.float32 if values.device.type == "mps" else torch.float64  # MPS has no float64
    sums = torch.zeros(len(values), num_classes, dtype=wide, device=values.device)
    return sums.scatter_add(1, index, values.to(wide)).to(values.dtype)
