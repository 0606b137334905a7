"""The contract of the backends: one pass over the pixels that produces small sums.

A backend is one module of this package with a function `pixel_sums(logits, target, *, activation, gamma, ignore_index,
weight, label_smoothing, squared) -> PixelSums`. It imports this file and no other backend. Its arguments are already
checked: `gamma` is a float or a tensor of shape (C,), `weight` is None or of shape (B, *S), and the tensors share a
device. The values of `target` have not been looked at: where a label is illegal, all sums of the image must be NaN and
its gradient too, never a plausible number. On the CPU the caller then lists the labels; on CUDA nobody waits to see.
"""

from typing import NamedTuple

from torch import Tensor


class PixelSums(NamedTuple):
    """Sums over the pixels of each image and class, from which every loss of `segfocal.functional` follows.

    Each field has shape (B, C), dtype float32 (float64 for float64 logits), and is differentiable unless called
    constant. `p` is the probability, `y` the target as one-hot, and `m` the pixel's weight, 0 where it is ignored.

    Attributes:
        positive_focal: sum of m * y * (1 - p)^gamma * -log p, with y smoothed where label smoothing is asked for.
        negative_focal: sum of m * (1 - y) * p^gamma * -log(1 - p), likewise; zeros for softmax.
        overlap: sum of m * p * y.
        predicted: sum of m * p.
        actual: sum of m * y, constant.
        valid: sum of m, constant.
        predicted_squared: sum of m * p^2, None unless asked for.
        actual_squared: sum of m * y^2, constant, None unless asked for; differs from `actual` for soft targets only.
    """

    positive_focal: Tensor
    negative_focal: Tensor
    overlap: Tensor
    predicted: Tensor
    actual: Tensor
    valid: Tensor
    predicted_squared: Tensor | None = None
    actual_squared: Tensor | None = None
