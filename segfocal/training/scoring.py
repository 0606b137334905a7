"""From logits and masks, batch by batch, to the scores of a split."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix, MultilabelConfusionMatrix

from segfocal.evaluation.scores import Scores

Activation = Literal["softmax", "sigmoid"]


class ClassLosses(Metric):
    """Sum over batches, and over ranks, of what each class adds to the loss."""

    total: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(count), dist_reduce_fx="sum")

    def update(self, of_classes: Tensor) -> None:
        """Add a batch's (C,)."""
        self.total = self.total + of_classes

    def compute(self) -> Tensor:
        """The sum, (C,)."""
        return self.total


class Scorer(nn.Module):
    """Counts a split's pixels in one confusion matrix, and adds up what each class adds to the loss.

    Args:
        class_names: The C names.
        activation: softmax or sigmoid.
        ignore_index: Label of the pixels that count nowhere.
        threshold: Probability from which a class counts as predicted (sigmoid only).
    """

    matrix: Metric

    def __init__(self, class_names: Sequence[str], activation: Activation, ignore_index: int, threshold: float) -> None:
        super().__init__()
        self.class_names, self.activation = list(class_names), activation
        self.ignore_index, self.threshold = ignore_index, threshold
        count = len(self.class_names)
        if activation == "softmax":
            self.matrix = MulticlassConfusionMatrix(count, ignore_index=ignore_index, validate_args=False)
        elif count == 1:
            self.matrix = BinaryConfusionMatrix(threshold, ignore_index=ignore_index, validate_args=False)
        else:
            self.matrix = MultilabelConfusionMatrix(count, threshold, ignore_index=ignore_index, validate_args=False)
        self.losses = ClassLosses(count)
        # Not Lightning's mean, which takes half of an odd number of images for an integer when there are two processes.
        self.mean_loss = MeanMetric(nan_strategy="disable")

    def labels(self, logits: Tensor) -> Tensor:
        """Of logits (B, C, H, W): (B, H, W) for softmax and for one class, else 0/1 per class (B, C, H, W)."""
        if self.activation == "softmax":
            return logits.argmax(1)
        chosen: Tensor = (logits.float().sigmoid() >= self.threshold).long()
        return chosen[:, 0] if chosen.shape[1] == 1 else chosen

    def update(self, labels: Tensor, mask: Tensor) -> None:
        """Count the pixels of a batch; its mask is (B, H, W) or (B, C, H, W)."""
        mask = mask.long()
        if labels.ndim == 4 and mask.ndim == 3:
            mask = self._one_vs_rest(mask)
        if labels.ndim == 3 and mask.ndim == 4:
            mask = mask[:, 0]
        self.matrix.update(labels, mask)

    def result(self) -> tuple[Scores, Tensor, list[float] | None]:
        """The scores, the mean loss, and each class's share of it, None if nobody told it; then begin anew."""
        matrix = self.matrix.compute()
        self.matrix.reset()
        if matrix.shape == (2, 2) and len(self.class_names) == 1:
            matrix = matrix[None]
        shares = None
        if self.losses.update_called:
            losses = self.losses.compute().reshape(-1)  # a Metric makes a scalar of one number
            self.losses.reset()
            shares = (losses / losses.sum()).tolist() if bool(losses.sum() > 0) else None
        mean_loss: Tensor = self.mean_loss.compute()
        self.mean_loss.reset()
        return Scores(matrix.cpu().numpy(), self.class_names), mean_loss, shares

    def _one_vs_rest(self, mask: Tensor) -> Tensor:
        """Class indices (B, H, W) to 0/1 per class (B, C, H, W), ignored in every class where ignored."""
        index = torch.arange(len(self.class_names), device=mask.device).view(1, -1, 1, 1)
        return torch.where(mask[:, None] == self.ignore_index, self.ignore_index, (mask[:, None] == index).long())
