"""Losses as functions: check the arguments, sum over the pixels in one pass (`pixel_sums`), combine the sums.

Shapes: B images, C classes, *S spatial dims (any number, or none).

    logits  (B, C, *S)  any floating dtype; float64 is computed in float64, everything else in float32
    target  (B, *S)     class indices, any integer dtype or bool; or
            (B, C, *S)  dense: bool, integers 0 and 1, or floats in [0, 1] (multi-label, soft)
    weight  (B, *S)     optional, per pixel, at least 0; a weight of 0 ignores the pixel

The options are documented once, in the class of the same name in `segfocal.losses`, and have the same defaults there.
"""

import math
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from numbers import Real

import torch
from torch import Tensor, distributed
from torch.autograd import forward_ad

from segfocal.checks import check_target as check_target
from segfocal.checks import check_tensors, check_values
from segfocal.kernels import PixelSums
from segfocal.options import (
    Absent,
    Activation,
    Backend,
    LossOptions,
    PerClass,
    Reduction,
    check_classes,
    visible,
)

_HAS_TRITON, _HAS_NUMBA = (find_spec(name) is not None for name in ("triton", "numba"))


def softmax_focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: PerClass = 2.0,
    alpha: PerClass | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    sync_dist: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Focal loss of classes that exclude each other, -alpha_t (1 - p_t)^gamma log p_t; `segfocal.FocalLoss`.

    Returns:
        A scalar, or for reduction="none" the loss map (B, *S).

    Raises:
        ValueError: An option, shape or label that is not allowed. On CUDA an illegal label makes the loss NaN instead.
        TypeError: An option or tensor of the wrong type.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5.

    Example:
        >>> logits = torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.4, 0.1]]).log()  # (B, C), no spatial dims
        >>> softmax_focal_loss(logits, torch.tensor([2, 0]), gamma=0.0, reduction="none")  # cross-entropy
        tensor([0.2231, 0.6931])
    """
    options = LossOptions(
        part="focal", activation="softmax", gamma=gamma, alpha=alpha, ignore_index=ignore_index,
        label_smoothing=label_smoothing, reduction=reduction, sync_dist=sync_dist, backend=backend,
    )  # fmt: skip
    return loss_parts(logits, target, weight, options)["total"]


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: PerClass = 2.0,
    alpha: PerClass | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    sync_dist: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Focal loss of independent yes-or-no questions, one per channel; `segfocal.FocalLoss` with activation="sigmoid".

    Returns:
        A scalar, or for reduction="none" the loss map (B, C, *S). Errors and source as in `softmax_focal_loss`.

    Example:
        >>> logits = torch.tensor([[0.1], [0.9]])  # (B, C=1): binary, the labels are 0 and 1
        >>> sigmoid_focal_loss(logits, torch.tensor([0, 1]), alpha=0.25, reduction="none").flatten()
        tensor([0.1539, 0.0071])
    """
    options = LossOptions(
        part="focal",
        activation="sigmoid",
        gamma=gamma,
        alpha=alpha,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        sync_dist=sync_dist,
        backend=backend,
    )
    return loss_parts(logits, target, weight, options)["total"]


def dice_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    activation: Activation = "softmax",
    ignore_index: int = 255,
    smooth: float = 1.0,
    per_image: bool = False,
    squared: bool = False,
    log: bool = False,
    absent: Absent = "skip",
    classes: Sequence[int] | None = None,
    sync_dist: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Soft Dice loss, the mean over classes of 1 - 2 |p y| / (|p| + |y|): `segfocal.DiceLoss` as a function.

    Source: Milletari et al., V-Net, 2016, section 3.

    Example:
        >>> logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])  # B=1, C=2, two pixels
        >>> dice_loss(logits, torch.tensor([[0, 1]]), smooth=0.0)
        tensor(0.0001)
    """
    options = LossOptions(
        part="dice",
        activation=activation,
        ignore_index=ignore_index,
        smooth=smooth,
        per_image=per_image,
        squared=squared,
        log=log,
        absent=absent,
        classes=classes,
        sync_dist=sync_dist,
        backend=backend,
    )
    return loss_parts(logits, target, weight, options)["total"]


def jaccard_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    activation: Activation = "softmax",
    ignore_index: int = 255,
    smooth: float = 1.0,
    per_image: bool = False,
    log: bool = False,
    absent: Absent = "skip",
    classes: Sequence[int] | None = None,
    sync_dist: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Soft Jaccard (IoU) loss, the mean over classes of 1 - |p y| / |p or y|: `segfocal.JaccardLoss` as a function.

    Source: Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks, 2016, equation 4.

    Example:
        >>> logits = torch.tensor([[[0.0], [0.0]]])  # B=1, C=2, one pixel, p = 1/2
        >>> jaccard_loss(logits, torch.tensor([[0]]), smooth=0.0)
        tensor(0.5000)
    """
    options = LossOptions(
        part="jaccard",
        activation=activation,
        ignore_index=ignore_index,
        smooth=smooth,
        per_image=per_image,
        log=log,
        absent=absent,
        classes=classes,
        sync_dist=sync_dist,
        backend=backend,
    )
    return loss_parts(logits, target, weight, options)["total"]


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    activation: Activation = "softmax",
    fp_weight: float = 0.5,
    fn_weight: float = 0.5,
    exponent: float = 1.0,
    ignore_index: int = 255,
    smooth: float = 1.0,
    per_image: bool = False,
    log: bool = False,
    absent: Absent = "skip",
    classes: Sequence[int] | None = None,
    sync_dist: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Tversky loss, Dice with prices for false positives and negatives: `segfocal.TverskyLoss` as a function.

    Source: Salehi et al., Tversky loss function, 2017, equation 4; the exponent: Abraham and Khan, 2018, equation 4.

    Example:
        >>> logits = torch.tensor([[[0.0], [0.0]]])  # B=1, C=2, one pixel, p = 1/2
        >>> tversky_loss(logits, torch.tensor([[0]]), fn_weight=1.0, smooth=0.0)
        tensor(0.5000)
    """
    options = LossOptions(
        part="tversky", activation=activation, fp_weight=fp_weight, fn_weight=fn_weight, exponent=exponent,
        ignore_index=ignore_index, smooth=smooth, per_image=per_image, log=log, absent=absent, classes=classes,
        sync_dist=sync_dist, backend=backend,
    )  # fmt: skip
    return loss_parts(logits, target, weight, options)["total"]


def focal_dice_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    activation: Activation = "softmax",
    focal_weight: float = 1.0,
    dice_weight: float = 1.0,
    gamma: PerClass = 2.0,
    alpha: PerClass | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    smooth: float = 1.0,
    per_image: bool = False,
    squared: bool = False,
    log: bool = False,
    absent: Absent = "skip",
    classes: Sequence[int] | None = None,
    sync_dist: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Focal plus Dice from one pass over the pixels: `segfocal.FocalDiceLoss` as a function.

    Example:
        >>> logits, target = torch.zeros(1, 3, 7, 9), torch.zeros(1, 7, 9, dtype=torch.uint8)
        >>> both = focal_dice_loss(logits, target, focal_weight=0.5)
        >>> torch.equal(both, 0.5 * softmax_focal_loss(logits, target) + dice_loss(logits, target))
        True
    """
    options = LossOptions(
        part="focal_dice", activation=activation, focal_weight=focal_weight, dice_weight=dice_weight, gamma=gamma,
        alpha=alpha, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction, smooth=smooth,
        per_image=per_image, squared=squared, log=log, absent=absent, classes=classes, sync_dist=sync_dist,
        backend=backend,
    )  # fmt: skip
    return loss_parts(logits, target, weight, options)["total"]


# The pass over the pixels


def pixel_sums(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    gamma: PerClass,
    ignore_index: int,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    squared: bool = False,
    backend: Backend = "auto",
) -> PixelSums:
    """The sums over the pixels of each image and class, (B, C) each, from which every loss here is made.

    They add up over tiles, so an image too large for memory is a loop over its tiles.

    Example:
        >>> logits, target = torch.zeros(1, 2, 7, 9), torch.zeros(1, 7, 9, dtype=torch.uint8)
        >>> pixel_sums(logits, target, activation="softmax", gamma=0.0, ignore_index=255).predicted
        tensor([[31.5000, 31.5000]])
    """
    LossOptions(
        activation=activation, gamma=gamma, ignore_index=ignore_index, label_smoothing=label_smoothing,
        squared=squared, backend=backend,
    )  # fmt: skip
    check_tensors(logits, target, weight, activation, ignore_index)
    backend_pixel_sums = _backend(backend, logits, gamma)
    with torch.autocast(logits.device.type, enabled=False):
        sums = backend_pixel_sums(
            logits,
            target,
            activation=activation, gamma=_gamma(gamma, logits), ignore_index=ignore_index, weight=weight,
            label_smoothing=label_smoothing, squared=squared,
        )  # fmt: skip
    if visible(target) and bool(sums.valid.isnan().any()):  # how a backend reports an illegal label
        check_values(target, logits.shape, ignore_index)
    return sums


def _backend(name: Backend, logits: Tensor, gamma: PerClass) -> Callable[..., PixelSums]:
    if isinstance(gamma, Tensor) and gamma.requires_grad and name != "reference":
        rule = f"Expected `gamma` to be a constant for backend={name!r}, got one that requires a gradient"
        raise ValueError(f"{rule}. Pass gamma.detach(), or use backend='reference'.")
    if name == "auto":
        name = _fastest(logits)
    elif name != "reference" and _has_tangent(logits):
        rule = f"Expected `logits` without a tangent for backend={name!r}, got forward-mode differentiation"
        raise ValueError(f"{rule}. Use backend='auto' or 'reference'.")
    match name:
        case "reference":
            from segfocal.kernels.reference import pixel_sums as backend
        case "tiled":
            _check_installed("numba", _HAS_NUMBA, name)
            from segfocal.kernels.tiled import pixel_sums as backend
        case "triton":
            _check_installed("triton", _HAS_TRITON, name)
            from segfocal.kernels.triton import pixel_sums as backend
    return backend


def _fastest(logits: Tensor) -> Backend:
    """The backend for a device, dtype and size. Neither compiler is installed everywhere."""
    if _has_tangent(logits):
        return "reference"
    if logits.device.type == "cpu" and _HAS_NUMBA and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0":
        return "tiled" if math.prod(logits.shape[2:]) >= 32 else "reference"  # blocks of a few pixels are slow
    if logits.device.type == "cuda" and _HAS_TRITON and logits.dtype != torch.float64:  # triton computes in float32
        return "triton"
    return "reference"


def _has_tangent(logits: Tensor) -> bool:
    """Whether a forward-mode derivative is asked for, which an operator of ours would silently leave out."""
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(logits).tangent is not None


def _check_installed(package: str, found: bool, name: Backend) -> None:
    if not found:
        remedy = f"Run pip install {package}, or use backend='auto'."
        raise ValueError(f"Expected {package} to be installed for `backend` {name!r}, got none. {remedy}")


def _focal_map(logits: Tensor, target: Tensor, weight: Tensor | None, options: LossOptions) -> Tensor:
    """The focal loss of every element; a map, not a pass, so there is one implementation."""
    from segfocal.kernels.reference import focal_map

    check_tensors(logits, target, weight, options.activation, options.ignore_index)
    if visible(target):
        check_values(target, logits.shape, options.ignore_index)
    positive, negative = _alpha(options, logits)
    with torch.autocast(logits.device.type, enabled=False):
        return focal_map(
            logits,
            target,
            activation=options.activation,
            gamma=_gamma(options.gamma, logits),
            ignore_index=options.ignore_index,
            positive_weight=positive,
            negative_weight=negative,
            weight=weight,
            label_smoothing=options.label_smoothing,
        )


# From sums to losses


def loss_parts(logits: Tensor, target: Tensor, weight: Tensor | None, options: LossOptions) -> dict[str, Tensor]:
    """The loss and what it is made of, all differentiable.

    Returns:
        "total" (scalar); "focal" (scalar) and "focal_per_class" (C,), which add up to it, where the loss has a focal
        term; "dice", "jaccard" or "tversky" (scalar) as it enters the total, and "dice_per_class" and so on (C,),
        which is 1 - score, NaN for a class without a target pixel. Only "total" for reduction="none".

    Example:
        >>> logits, target = torch.zeros(1, 2, 7, 9), torch.zeros(1, 7, 9, dtype=torch.uint8)
        >>> loss_parts(logits, target, None, LossOptions(part="dice", smooth=0.0))["dice_per_class"]
        tensor([0.3333,    nan])
    """
    if options.reduction == "none":
        return {"total": _focal_map(logits, target, weight, options)}
    sums = pixel_sums(
        logits, target, activation=options.activation,
        gamma=options.gamma if options.part in ("focal", "focal_dice") else 0.0, ignore_index=options.ignore_index,
        weight=weight, label_smoothing=options.label_smoothing, squared=options.squared, backend=options.backend,
    )  # fmt: skip
    fields = _all_reduce(torch.stack([f.sum(0) for f in sums if f is not None]), options.sync_dist)  # (fields, C)
    batch = PixelSums(*fields)
    parts: dict[str, Tensor] = {}
    if options.part in ("focal", "focal_dice"):
        share = _focal_per_class(batch, options, _alpha(options, logits), _unit(batch, target, weight, options))
        parts["focal_per_class"] = options.focal_weight * share
        parts["focal"] = parts["focal_per_class"].sum()
    if options.part != "focal":
        name = "dice" if options.part == "focal_dice" else options.part
        check_classes(options.classes, logits.shape[1])
        images = sums if options.per_image else PixelSums(*fields.unsqueeze(1))
        region, parts[f"{name}_per_class"] = _region(images, options)
        parts[name] = options.dice_weight * region
    scalars = [part for name, part in parts.items() if not name.endswith("_per_class")]
    return {"total": torch.stack(scalars).sum(), **parts}


def _focal_per_class(
    batch: PixelSums, options: LossOptions, alpha: tuple[Tensor, Tensor], unit: Tensor | float
) -> Tensor:
    """Each class's share (C,) of the focal loss."""
    positive, negative = alpha
    loss = positive * batch.positive_focal + negative * batch.negative_focal
    match options.reduction:
        case "mean":
            divisor = batch.valid.sum() if options.activation == "sigmoid" else batch.valid[0]
        case "weighted":
            divisor = (positive * batch.actual).sum()
        case "positive":
            divisor = batch.actual.sum().clamp(min=unit)
        case _:
            return loss
    # Nothing to divide by: nothing counts, so the loss is 0 and still connected to the logits.
    nothing = divisor == 0
    return (loss / divisor.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)


def _unit(batch: PixelSums, target: Tensor, weight: Tensor | None, options: LossOptions) -> Tensor | float:
    """The least divisor of reduction="positive": one pixel of mean weight, so that scaling weights changes nothing."""
    if weight is None or options.reduction != "positive":
        return 1.0
    dense = target.ndim == weight.ndim + 1
    wide = target.float() if dense else target.long()  # in its own dtype `ignore_index` could wrap: 255 is not -1
    counted = (wide != options.ignore_index) & ((weight.unsqueeze(1) if dense else weight) != 0)
    channels = 1 if dense else len(batch.valid)
    count = _all_reduce(channels * counted.sum().to(batch.valid), options.sync_dist)
    return batch.valid.sum() / count.clamp(min=1)


def _region(sums: PixelSums, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The region loss and 1 - score of each class (C,) from sums of shape (images, C)."""
    score = _score(sums, options)
    loss = -score.clamp(min=1e-7).log() if options.log else 1 - score
    if options.exponent != 1:
        zero = loss <= 0  # pow has an infinite slope at 0 for an exponent < 1
        loss = (loss.masked_fill(zero, 1.0) ** options.exponent).masked_fill(zero, 0.0)
    present = sums.actual != 0
    match options.absent:
        case "skip":
            counted = present
        case "keep":
            counted = torch.ones_like(present)
        case "zero":
            counted, loss = torch.ones_like(present), loss.masked_fill(~present, 0.0)
    per_class = (1 - score).masked_fill(~present, 0.0)
    if options.classes is not None:
        loss, counted = (torch.stack([t[:, c] for c in options.classes], 1) for t in (loss, counted))
    per_image = loss.masked_fill(~counted, 0.0).sum(1) / counted.sum(1).clamp(min=1)
    valid = (sums.valid != 0).any(1)
    # Rows add up over ranks: the images' losses, how many there are, and the same for each class.
    rows = torch.cat([per_image.masked_fill(~valid, 0.0)[:, None], valid[:, None], per_class, present], 1)
    totals = _all_reduce(rows.sum(0), options.sync_dist and options.per_image)
    (total, images), (missed, times) = totals[:2], totals[2:].chunk(2)
    return total / images.clamp(min=1), missed / times  # 0 / 0 is the NaN of an absent class


def _score(sums: PixelSums, options: LossOptions) -> Tensor:
    """Overlap as a share of size, (images, C); 0 / 0 counts as 1."""
    _, _, overlap, predicted, actual, _, predicted_squared, actual_squared = sums
    match options.part:
        case "jaccard":
            top, size = overlap, predicted + actual - overlap
        case "tversky":
            wrong = options.fp_weight * (predicted - overlap) + options.fn_weight * (actual - overlap)
            top, size = overlap, overlap + wrong
        case _:
            top, size = 2 * overlap, predicted + actual
            if predicted_squared is not None and actual_squared is not None:
                size = predicted_squared + actual_squared
    top, size = top + options.smooth, size + options.smooth
    return (top / size.masked_fill(size == 0, 1.0)).masked_fill(size == 0, 1.0)


def _all_reduce(local: Tensor, sync_dist: bool) -> Tensor:
    """Add up over the ranks of the default process group, differentiably."""
    if not (sync_dist and distributed.is_available() and distributed.is_initialized()):
        return local
    everywhere = local.detach().clone()
    distributed.all_reduce(everywhere)
    # DDP divides gradients by the world size, so each rank's own share of the gradient is multiplied by it.
    return everywhere + distributed.get_world_size() * (local - local.detach())


# Numbers per class


def background_alpha(alpha: float, num_classes: int) -> Tensor:
    """The per-class alpha (C,) of a scalar that weighs class 0, the background, against the others.

    Example:
        >>> background_alpha(0.25, 3)
        tensor([0.2500, 0.7500, 0.7500])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"Expected `alpha` to lie in [0, 1], got {alpha!r}. Pass the background's share, such as 0.25."
        )
    if num_classes < 1:
        raise ValueError(f"Expected `num_classes` to be at least 1, got {num_classes!r}. Count the background too.")
    return torch.tensor([alpha] + [1 - alpha] * (num_classes - 1))


def _gamma(gamma: PerClass, logits: Tensor) -> float | Tensor:
    return float(gamma) if isinstance(gamma, Real) else _per_class("gamma", gamma, logits)


def _alpha(options: LossOptions, logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a positive and a negative of each class weigh, (C,) each."""
    alpha = _per_class("alpha", 1.0 if options.alpha is None else options.alpha, logits)
    binary = options.activation == "sigmoid" and options.alpha is not None
    return alpha, 1 - alpha if binary else torch.ones_like(alpha)


def _per_class(name: str, value: PerClass, logits: Tensor) -> Tensor:
    """One number per class (C,), in the dtype of the sums."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    num_classes = logits.shape[1]
    if isinstance(value, Real):
        return torch.full((num_classes,), float(value), dtype=dtype, device=logits.device)
    tensor = torch.as_tensor(value, dtype=dtype, device=logits.device)
    if tensor.ndim == 1 and len(tensor) != num_classes:
        remedy = f"Give one per channel of `logits` {tuple(logits.shape)}, or a single float."
        raise ValueError(f"Expected `{name}` of {num_classes} numbers, got {len(tensor)}: {value!r}. {remedy}")
    return tensor.expand(num_classes)
