"""Losses as modules: they store their options, and `forward` is one call of the function of the same name.

Every loss maps `logits` (B, C, *S), `target` and an optional `weight` (B, *S) per pixel to a scalar, float32 (float64
for float64 logits). `target` is class indices (B, *S) or dense (B, C, *S); see `segfocal.functional` for the dtypes.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segfocal import functional
from segfocal.options import Absent, Activation, Alpha, Backend, LossOptions, PerClass, Reduction


class _Loss(nn.Module):
    """Stores the options of a loss under their names; per-class numbers become buffers, so that they move with it."""

    part: ClassVar[Any]
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__()
        LossOptions(part=self.part, **options)  # raises here, not in the first training step
        self._names = tuple(options)
        for name, value in options.items():
            if name == "alpha" or (name == "gamma" and not isinstance(value, int | float)):
                tensor = value.detach().clone() if isinstance(value, Tensor) else value
                tensor = None if tensor is None else torch.as_tensor(tensor)
                tensor = tensor if tensor is None or tensor.is_floating_point() else tensor.float()
                self.register_buffer(name, tensor, persistent=False)
            else:
                setattr(self, name, value)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of a batch; `logits` (B, C, *S), `target` (B, *S) or (B, C, *S), `weight` (B, *S)."""
        return type(self).function(logits, target, weight, **self._options())

    @torch.no_grad()
    def breakdown(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Who pays for the loss: "total", each term as it enters the total, and each term per class (C,), all detached.

        The focal shares add up to the focal term. A region term's share is 1 - score, NaN for an absent class. With
        sync_dist, every rank must call this.
        """
        if getattr(self, "reduction", "mean") == "none":
            remedy = "Build the loss with reduction='mean'."
            raise ValueError(f"Expected `reduction` to give a scalar for a breakdown, got 'none'. {remedy}")
        return functional.loss_parts(logits, target, weight, LossOptions(part=self.part, **self._options()))

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        """The activation, and every option that is not at its default."""
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        values = {
            k: v.double().round(decimals=6).tolist() if isinstance(v, Tensor) else v for k, v in self._options().items()
        }
        return ", ".join(f"{k}={v!r}" for k, v in values.items() if k == "activation" or v != defaults[k])


class FocalLoss(_Loss):
    """Focal loss, -alpha (1 - p)^gamma log p: cross-entropy in which well classified pixels count less.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5.

    Args:
        activation: "softmax" for classes that exclude each other, "sigmoid" for one yes-or-no question per channel.
            With sigmoid and class indices, one channel is binary and several are one against the rest.
        gamma: How much less well classified pixels count, one number or one per class; 0 is cross-entropy. One that is
            learnt needs backend="reference".
        alpha: Weight of the classes. softmax: alpha_c weighs the pixels of class c, one number weighs all alike.
            sigmoid: in [0, 1], alpha_c weighs the positives of class c and 1 - alpha_c its negatives; None is 1 and 1.
            In a configuration `auto` takes it from the training masks, as {method: inverse, power: 0.5} does.
        ignore_index: The label of pixels that do not count. In a dense target, softmax ignores a pixel when any of its
            channels is marked, sigmoid ignores element by element.
        label_smoothing: e in [0, 1); the target y becomes (1 - e) y + e / C, for sigmoid (1 - e) y + e / 2.
        reduction: "mean" over valid pixels (sigmoid: pixel-class pairs); "sum"; "none", the loss map; "weighted", the
            sum divided by the valid pixels' alpha (softmax); "positive", divided by the number of positives (sigmoid).
        sync_dist: Add up the sums over all ranks, so that under DDP loss and gradients are those of the whole batch.
        backend: What computes the sums: "triton" (CUDA), "tiled" (CPU) or "reference" (any device, twice
            differentiable); "auto" takes the fastest for the device. One that is named is used or raises.

    Raises:
        ValueError: An option outside its range, or options that exclude each other.
        TypeError: An option of the wrong type.

    Example:
        >>> from segfocal.losses import FocalLoss
        >>> loss = FocalLoss(gamma=2.0, alpha=[0.25, 0.75])
        >>> loss
        FocalLoss(activation='softmax', alpha=[0.25, 0.75])
        >>> loss(torch.zeros(1, 2, 7, 9), torch.ones(1, 7, 9, dtype=torch.uint8))  # 0.75 * (1 / 2)^2 * log 2
        tensor(0.1300)
    """

    part = "focal"

    def __init__(
        self,
        activation: Activation = "softmax",
        *,
        gamma: PerClass = 2.0,
        alpha: Alpha | None = None,
        ignore_index: int = 255,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        sync_dist: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            activation=activation,
            gamma=gamma,
            alpha=alpha,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
            sync_dist=sync_dist,
            backend=backend,
        )

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of a batch, a scalar; for reduction="none" (B, *S) with softmax and (B, C, *S) with sigmoid."""
        options = self._options()
        match options.pop("activation"):
            case "softmax":
                return functional.softmax_focal_loss(logits, target, weight, **options)
            case _:
                return functional.sigmoid_focal_loss(logits, target, weight, **options)


class DiceLoss(_Loss):
    """Soft Dice loss, the mean over classes of 1 - (2 overlap + smooth) / (predicted + actual + smooth).

    Source: Milletari et al., V-Net, 2016, section 3.

    Args:
        activation: "softmax" or "sigmoid", as in FocalLoss.
        ignore_index: The label of pixels that do not count, as in FocalLoss.
        smooth: Added above and below the fraction; 0 / 0 counts as a score of 1.
        per_image: Score every image alone, then average over the images with a valid pixel; else the whole batch.
        squared: Square p and y in the denominator.
        log: Take -log(score), with the score at least 1e-7, instead of 1 - score.
        absent: What a class without a target pixel contributes: "skip", it is not in the mean; "keep", its false
            positives count; "zero", 0, but it is in the mean.
        classes: The class indices to average over; None is all.
        sync_dist: Add up the sums over all ranks, as in FocalLoss.
        backend: What computes the sums, as in FocalLoss.

    Raises:
        ValueError: An option outside its range.
        TypeError: An option of the wrong type.

    Example:
        >>> from segfocal.losses import DiceLoss
        >>> loss = DiceLoss(smooth=0.0, absent="keep")
        >>> target = torch.zeros(1, 7, 9, dtype=torch.uint8)
        >>> loss(torch.zeros(1, 2, 7, 9), target)  # scores 2/3 and 0
        tensor(0.6667)
    """

    part = "dice"
    function = functional.dice_loss

    def __init__(
        self,
        activation: Activation = "softmax",
        *,
        ignore_index: int = 255,
        smooth: float = 1.0,
        per_image: bool = False,
        squared: bool = False,
        log: bool = False,
        absent: Absent = "skip",
        classes: Sequence[int] | None = None,
        sync_dist: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
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


class JaccardLoss(_Loss):
    """Soft Jaccard (IoU) loss, the mean of 1 - (overlap + smooth) / (predicted + actual - overlap + smooth).

    Source: Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks, 2016, equation 4.

    Args:
        activation: "softmax" or "sigmoid", as in FocalLoss.
        ignore_index: The label of pixels that do not count, as in FocalLoss.
        smooth: Added above and below the fraction; 0 / 0 counts as a score of 1.
        per_image: Score every image alone, then average over the images with a valid pixel; else the whole batch.
        log: Take -log(score), with the score at least 1e-7, instead of 1 - score.
        absent: "skip", "keep" or "zero", as in DiceLoss.
        classes: The class indices to average over; None is all.
        sync_dist: Add up the sums over all ranks, as in FocalLoss.
        backend: What computes the sums, as in FocalLoss.

    Example:
        >>> from segfocal.losses import JaccardLoss
        >>> JaccardLoss(smooth=0.0)(torch.zeros(1, 2, 7, 9), torch.zeros(1, 7, 9, dtype=torch.uint8))
        tensor(0.5000)
    """

    part = "jaccard"
    function = functional.jaccard_loss

    def __init__(
        self,
        activation: Activation = "softmax",
        *,
        ignore_index: int = 255,
        smooth: float = 1.0,
        per_image: bool = False,
        log: bool = False,
        absent: Absent = "skip",
        classes: Sequence[int] | None = None,
        sync_dist: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
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


class TverskyLoss(_Loss):
    """Tversky loss, the mean of (1 - T)^exponent with T = overlap / (overlap + fp_weight FP + fn_weight FN), smoothed.

    Weights of 0.5 and 0.5 give Dice (with half its smooth), 1 and 1 give Jaccard.

    Source: Salehi et al., Tversky loss function, 2017, equation 4; the exponent: Abraham and Khan, 2018, equation 4.

    Args:
        activation: "softmax" or "sigmoid", as in FocalLoss.
        fp_weight: The price of probability on pixels of other classes.
        fn_weight: The price of probability missing on pixels of the class; above fp_weight it favours recall.
        exponent: Acts on each class's loss; below 1 it stresses classes that are nearly right.
        ignore_index: The label of pixels that do not count, as in FocalLoss.
        smooth: Added above and below the fraction; 0 / 0 counts as a score of 1.
        per_image: Score every image alone, then average over the images with a valid pixel; else the whole batch.
        log: Take -log(score), with the score at least 1e-7, instead of 1 - score, before the exponent.
        absent: "skip", "keep" or "zero", as in DiceLoss.
        classes: The class indices to average over; None is all.
        sync_dist: Add up the sums over all ranks, as in FocalLoss.
        backend: What computes the sums, as in FocalLoss.

    Example:
        >>> from segfocal.losses import TverskyLoss
        >>> loss = TverskyLoss(fp_weight=0.3, fn_weight=0.7, smooth=0.0)
        >>> loss(torch.zeros(1, 2, 7, 9), torch.zeros(1, 7, 9, dtype=torch.uint8))  # 1 - 0.5 / (0.5 + 0.7 * 0.5)
        tensor(0.4118)
    """

    part = "tversky"
    function = functional.tversky_loss

    def __init__(
        self,
        activation: Activation = "softmax",
        *,
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
    ) -> None:
        super().__init__(
            activation=activation,
            fp_weight=fp_weight,
            fn_weight=fn_weight,
            exponent=exponent,
            ignore_index=ignore_index,
            smooth=smooth,
            per_image=per_image,
            log=log,
            absent=absent,
            classes=classes,
            sync_dist=sync_dist,
            backend=backend,
        )


class FocalDiceLoss(_Loss):
    """focal_weight * focal + dice_weight * Dice, from one pass over the pixels.

    Args:
        activation: "softmax" or "sigmoid", as in FocalLoss.
        focal_weight: Weight of the focal term.
        dice_weight: Weight of the Dice term.
        gamma: How much less well classified pixels count, one number or one per class, as in FocalLoss.
        alpha: Weight of the classes in the focal term, as in FocalLoss.
        ignore_index: The label of pixels that do not count, as in FocalLoss.
        label_smoothing: e in [0, 1), in the focal term only.
        reduction: "mean", "sum", "weighted" or "positive" of the focal term, as in FocalLoss.
        smooth: Added above and below the Dice fraction.
        per_image: Dice of every image alone, then the average, as in DiceLoss.
        squared: Square p and y in Dice's denominator.
        log: Take -log of the Dice score instead of 1 - score.
        absent: "skip", "keep" or "zero", as in DiceLoss.
        classes: The class indices Dice averages over; None is all.
        sync_dist: Add up the sums over all ranks, as in FocalLoss.
        backend: What computes the sums, as in FocalLoss.

    Example:
        >>> from segfocal.losses import FocalDiceLoss
        >>> loss = FocalDiceLoss(dice_weight=0.5, smooth=0.0)
        >>> parts = loss.breakdown(torch.zeros(1, 2, 7, 9), torch.zeros(1, 7, 9, dtype=torch.uint8))
        >>> parts["focal_per_class"], parts["dice_per_class"]
        (tensor([0.1733, 0.0000]), tensor([0.3333,    nan]))
    """

    part = "focal_dice"
    function = functional.focal_dice_loss

    def __init__(
        self,
        activation: Activation = "softmax",
        *,
        focal_weight: float = 1.0,
        dice_weight: float = 1.0,
        gamma: PerClass = 2.0,
        alpha: Alpha | None = None,
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
    ) -> None:
        super().__init__(
            activation=activation,
            focal_weight=focal_weight,
            dice_weight=dice_weight,
            gamma=gamma,
            alpha=alpha,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
            smooth=smooth,
            per_image=per_image,
            squared=squared,
            log=log,
            absent=absent,
            classes=classes,
            sync_dist=sync_dist,
            backend=backend,
        )
