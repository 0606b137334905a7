"""From logits and masks, batch by batch, to the scores of a split."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from segfocal.evaluation.probabilities import Probabilities
from segfocal.evaluation.scores import Scores
from segfocal.pixels import BINS, CONFIDENCES, UNIT, Activation, confusion, labels_of, probability_counts


class Sum(Metric):
    """Sum over batches, and over ranks, of tensors of one shape.

    Args:
        shape: Their shape.
        dtype: Of the sum.
    """

    total: Tensor

    def __init__(self, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.shape = shape
        self.add_state("total", torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def update(self, value: Tensor) -> None:
        """Add a batch's."""
        self.total = self.total + value

    def compute(self) -> Tensor:
        """The sum."""
        return self.total.view(self.shape)

    def take(self) -> Tensor | None:
        """The sum on the CPU, beginning anew; None if nothing was added."""
        if not self.update_called:
            return None
        total: Tensor = self.compute().reshape(self.shape).cpu()  # a Metric makes a scalar of one number
        self.reset()
        return total


class Result(NamedTuple):
    """What a split has come to.

    Attributes:
        scores: Of its confusion matrix.
        loss: Mean over the images.
        shares: Each class's share of the loss; None for a loss that does not tell, or is 0.
        probabilities: Their scores; None where they were not counted.
    """

    scores: Scores
    loss: Tensor
    shares: list[float] | None
    probabilities: Probabilities | None


class Scorer(nn.Module):
    """Counts a split's pixels in one confusion matrix, and adds up what each class adds to the loss.

    Args:
        class_names: The C names.
        activation: softmax or sigmoid.
        ignore_index: Label of the pixels that count nowhere.
        threshold: Probability from which a class counts as predicted (sigmoid only).
    """

    def __init__(self, class_names: Sequence[str], activation: Activation, ignore_index: int, threshold: float) -> None:
        super().__init__()
        self.class_names, self.activation = list(class_names), activation
        self.ignore_index, self.threshold = ignore_index, threshold
        count = len(self.class_names)
        self.matrix = Sum(count, count) if activation == "softmax" else Sum(count, 2, 2)
        self.histogram, self.reliability = Sum(count, BINS, 2), Sum(CONFIDENCES, 3)
        self.losses = Sum(count, dtype=torch.float32)
        # Not Lightning's mean, which takes half of an odd number of images for an integer when there are two processes.
        self.mean_loss = MeanMetric(nan_strategy="disable")

    def labels(self, logits: Tensor) -> Tensor:
        """Of logits (B, C, H, W): (B, H, W) for softmax and for one class, else 0/1 per class (B, C, H, W)."""
        return labels_of(logits, self.activation, self.threshold)

    def update(self, logits: Tensor, mask: Tensor, *, probabilities: bool) -> Tensor:
        """Count the pixels of a batch and return its labels; its mask is (B, H, W) or (B, C, H, W).

        Args:
            logits: (B, C, H, W).
            mask: True labels.
            probabilities: Whether to bin probabilities too, which takes longer than all the rest.
        """
        labels, count = self.labels(logits), len(self.class_names)
        if self.activation == "sigmoid" and mask.ndim == 3:
            mask = self._one_vs_rest(mask) if count > 1 else mask[:, None]
        self.matrix.update(confusion(labels, mask, count, self.ignore_index))
        if probabilities:
            counts = probability_counts(logits, labels, mask, self.ignore_index, self.activation)
            self.histogram.update(counts.histogram)
            self.reliability.update(counts.reliability)
        return labels

    def result(self) -> Result:
        """What has come of the batches; then begin anew."""
        matrix, losses = self.matrix.take(), self.losses.take()
        shares = None if losses is None or not bool(losses.sum() > 0) else (losses / losses.sum()).tolist()
        mean_loss: Tensor = self.mean_loss.compute()
        self.mean_loss.reset()
        histogram, reliability = self.histogram.take(), self.reliability.take()
        probabilities = None
        if histogram is not None and reliability is not None:
            probabilities = Probabilities(histogram.numpy(), reliability.numpy() / [1, 1, UNIT])
        scores = Scores(np.zeros(self.matrix.shape) if matrix is None else matrix.numpy(), self.class_names)
        return Result(scores, mean_loss, shares, probabilities)

    def _one_vs_rest(self, mask: Tensor) -> Tensor:
        """Class indices (B, H, W) to 0/1 per class (B, C, H, W), ignored in every class where ignored."""
        index = torch.arange(len(self.class_names), device=mask.device, dtype=mask.dtype).view(1, -1, 1, 1)
        mask = mask[:, None]
        return torch.where(mask == self.ignore_index, mask, (mask == index).to(mask.dtype))
