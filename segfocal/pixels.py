"""What evaluation does with every pixel: labels of logits, the confusion matrix, histograms of probabilities.

On the CPU one pass over the logits, compiled by Numba, with labels of a byte per pixel; elsewhere PyTorch's operators.
Shapes: logits (B, C, H, W); labels and masks (B, H, W), or (B, C, H, W) of 0 and 1 per class where classes may overlap.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numba.core import config
from numpy.typing import NDArray
from torch import Tensor

from segfocal.kernels.compiled.block import PIXELS, Plane, memory
from segfocal.kernels.compiled.labels import (
    BINS as BINS,
)
from segfocal.kernels.compiled.labels import (
    BLOCK,
    DROPPED,
    FIRST,
    LEAST,
    count,
    largest_of_few,
    largest_of_many,
    largest_of_rows,
    sigmoid_counts,
    softmax_counts,
)
from segfocal.kernels.compiled.labels import (
    CONFIDENCES as CONFIDENCES,
)
from segfocal.kernels.compiled.labels import (
    UNIT as UNIT,
)

Activation = Literal["softmax", "sigmoid"]
Array = NDArray[Any]
Result = TypeVar("Result")
_FEW = 24  # classes, up to which `largest_of_few` is the faster one
_RUN = 2**14  # pixels of a run at most: several for each thread


class ProbabilityCounts(NamedTuple):
    """Pixels by probability; what is NaN is counted nowhere.

    Attributes:
        histogram: Pixels per class, bin of its probability, and whether they are of the class, (C, BINS, 2).
        reliability: Per bin of confidence, (CONFIDENCES, 3): pixels, right ones, and the sum of their confidences in
            units of 2^-24. With softmax the confidence is the probability of the label; with sigmoid it is each class's
            probability, and right is what is of the class.
    """

    histogram: Tensor
    reliability: Tensor


def labels_of(logits: Tensor, activation: Activation = "softmax", threshold: float = 0.5) -> Tensor:
    """Labels of logits (B, C, H, W), in the narrowest of uint8, int16 and int32 that holds them.

    Args:
        logits: Of any floating dtype, on any device.
        activation: softmax: the class of the largest logit, (B, H, W); of equal ones the first, and NaN is infinite.
            sigmoid: 0 and 1 per class, (B, C, H, W), or (B, H, W) for a single class.
        threshold: Probability from which a class counts as predicted (sigmoid only).

    Raises:
        ValueError: Logits of other dims, or integers.

    Example:
        >>> labels_of(torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1))
        tensor([[[1]]], dtype=torch.uint8)
    """
    if logits.ndim != 4 or not logits.shape[1] or not logits.is_floating_point():
        got = f"{logits.dtype} {tuple(logits.shape)}"
        raise ValueError(f"Expected `logits` to be floating point (B, C, H, W), got {got}. Pass what the net returns.")
    if activation == "sigmoid":
        chosen = (logits.float().sigmoid() >= threshold).view(torch.uint8)
        return chosen[:, 0] if chosen.shape[1] == 1 else chosen
    batch, classes, *size = logits.shape
    dtype = torch.uint8 if classes <= 2**8 else torch.int16 if classes <= 2**15 else torch.int32
    if not _is_compiled(logits):
        return logits.argmax(1).to(dtype)
    labels = torch.empty(batch, *size, dtype=dtype)
    wide = logits.dtype == torch.float64
    plane, runs, brain = _opened(logits)
    neighbours = plane.class_step == 1 < classes and not wide
    if not neighbours and plane.pixel_step > 1:
        plane, runs, brain = _opened(logits.contiguous())
    result = labels.view(-1).numpy()

    def work(part: Array) -> None:
        if neighbours and classes <= _FEW:
            largest_of_few(plane, brain, classes, part, result)
        elif neighbours:
            largest_of_many(plane, brain, classes, part, np.empty(classes, np.int32), result)
        else:
            top, label = np.empty(BLOCK, np.float64 if wide else np.float32), np.empty(BLOCK, np.int32)
            largest_of_rows(plane, brain, classes, part, top, label, result)

    _share(work, runs)
    return labels


def confusion(labels: Tensor, mask: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The confusion matrix of labels: pixels by true and predicted class.

    Args:
        labels: Predicted labels, integers (B, H, W), or 0 and 1 (B, C, H, W).
        mask: True labels, of the same shape.
        classes: C.
        ignore_index: Label of the mask's pixels that count nowhere.

    Returns:
        (C, C), or (C, 2, 2) for labels (B, C, H, W) and for a single class; int64, on the device of the labels.

    Raises:
        ValueError: Another shape, or a label that is none of the classes'.

    Example:
        >>> confusion(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 255]]]), 2, 255).tolist()
        [[1, 1], [0, 0]]
    """
    if labels.ndim == 4 or classes == 1:
        planes, masks = (each if each.ndim == 4 else each[:, None] for each in (labels, mask))
        return torch.stack([_confusion(planes[:, c], masks[:, c], 2, ignore_index) for c in range(classes)])
    return _confusion(labels, mask, classes, ignore_index)


def _confusion(labels: Tensor, mask: Tensor, classes: int, ignore_index: int) -> Tensor:
    _check_shape("mask", mask, tuple(labels.shape))
    if _is_compiled(labels):
        guess, true = (tensor.reshape(-1).numpy() for tensor in (labels, mask))
        at = np.arange(0, len(true), 16 * _RUN)

        def work(part: Array) -> tuple[bool, Array]:
            matrix, cut = np.zeros((classes, classes), np.int64), slice(part[0], part[-1] + 16 * _RUN)
            return count(guess[cut], true[cut], ignore_index, matrix), matrix

        results = _share(work, at)
        total = torch.from_numpy(sum((matrix for _, matrix in results), np.zeros((classes, classes), np.int64)))
        illegal = any(wrong for wrong, _ in results)
    else:
        found, wanted, ignored = labels.long(), mask.long(), mask == ignore_index
        wrong = (found < 0) | (found >= classes) | (wanted < 0) | (wanted >= classes)
        index = torch.where(ignored, 0, torch.where(wrong, 1, wanted * classes + found + 2))
        counts = torch.bincount(index.flatten(), minlength=classes**2 + 2)
        illegal, total = bool(counts[1]), counts[2:].view(classes, classes)
    if illegal:
        for name, tensor in {"labels": labels, "mask": mask}.items():
            _check_labels(name, tensor[mask != ignore_index], classes, ignore_index)
    return total


def probability_counts(
    logits: Tensor, labels: Tensor, mask: Tensor, ignore_index: int, activation: Activation = "softmax"
) -> ProbabilityCounts:
    """Bin the probabilities of logits (B, C, H, W).

    Args:
        logits: Of any floating dtype.
        labels: `labels_of` them.
        mask: True labels, (B, H, W) for softmax, or 0 and 1 (B, C, H, W) for sigmoid.
        ignore_index: Label of the mask's pixels that count nowhere.
        activation: softmax or sigmoid.

    Returns:
        The counts, int64, on the device of the logits.

    Raises:
        ValueError: Labels or a mask of another shape.
    """
    batch, classes, *size = logits.shape
    wanted = (batch, *size) if activation == "softmax" else (batch, classes, *size)
    _check_shape("mask", mask if mask.ndim == len(wanted) else mask[:, None], wanted)
    if activation == "softmax":
        _check_shape("labels", labels, wanted)
        counts = _softmax_counts if _is_compiled(logits) else _torch_counts
        return counts(logits, labels, mask, ignore_index)
    planes = mask if mask.ndim == 4 else mask[:, None]
    one = _sigmoid_counts if _is_compiled(logits) else _torch_counts
    each = [one(logits[:, c : c + 1], labels, planes[:, c], ignore_index) for c in range(logits.shape[1])]
    histograms, reliabilities = zip(*each, strict=True)
    return ProbabilityCounts(torch.cat(histograms), torch.stack(reliabilities).sum(0))


def _softmax_counts(logits: Tensor, labels: Tensor, mask: Tensor, ignore_index: int) -> ProbabilityCounts:
    classes, (plane, runs, brain) = logits.shape[1], _opened(logits)
    guess, true = (tensor.reshape(-1).numpy() for tensor in (labels, mask))

    def work(part: Array) -> tuple[Array, Array]:
        room, counts = np.empty((classes + 3, PIXELS), np.float32), _zeros(classes)
        softmax_counts(plane, brain, classes, part, guess, true, ignore_index, *room[:3], room[3:], *counts)
        return counts

    return _added(_share(work, runs))


def _sigmoid_counts(logits: Tensor, labels: Tensor, mask: Tensor, ignore_index: int) -> ProbabilityCounts:
    plane, runs, brain = _opened(logits)
    true = mask.reshape(-1).numpy()

    def work(part: Array) -> tuple[Array, Array]:
        histogram, reliability = _zeros(1)
        sigmoid_counts(plane, brain, part, true, ignore_index, np.empty(PIXELS, np.float32), histogram[0], reliability)
        return histogram, reliability

    return _added(_share(work, runs))


def _torch_counts(logits: Tensor, labels: Tensor, mask: Tensor, ignore_index: int) -> ProbabilityCounts:
    """For any device, class by class, since the bins are of int64. A single class is sigmoid's."""
    classes = logits.shape[1]
    probabilities = logits.float().softmax(1) if classes > 1 else logits.float().sigmoid()
    known = (mask != ignore_index) & ~probabilities.isnan().any(1)
    histogram = torch.stack(
        [_histogram(probabilities[:, c], known, mask == (c if classes > 1 else 1)) for c in range(classes)]
    )
    confidence = probabilities.amax(1)[known]
    right = (labels == mask if classes > 1 else mask == 1)[known]
    place = (confidence * CONFIDENCES).long().clamp(max=CONFIDENCES - 1)
    what = torch.stack([torch.ones_like(place), right.long(), (confidence * UNIT).long()], 1)
    return ProbabilityCounts(histogram, what.new_zeros(CONFIDENCES, 3).index_add_(0, place, what))


def _histogram(p: Tensor, known: Tensor, positive: Tensor) -> Tensor:
    low = p <= 0.5
    place = (torch.where(low, p, 1 - p).clamp(min=float(LEAST)).view(torch.int32) >> DROPPED) - int(FIRST)
    place = torch.where(low, place, BINS - 1 - place)
    index = torch.where(known, 2 * place.long() + positive + 1, 0)
    return torch.bincount(index.flatten(), minlength=2 * BINS + 1)[1:].view(BINS, 2)


def _zeros(classes: int) -> tuple[Array, Array]:
    return np.zeros((classes, BINS, 2), np.int64), np.zeros((CONFIDENCES, 3), np.int64)


def _added(parts: list[tuple[Array, Array]]) -> ProbabilityCounts:
    histogram, reliability = (torch.from_numpy(np.sum(each, 0)) for each in zip(*parts, strict=True))
    return ProbabilityCounts(histogram, reliability)


def _check_labels(name: str, used: Tensor, classes: int, ignore_index: int) -> None:
    if wrong := sorted(set(used[(used < 0) | (used >= classes)].tolist())):
        raise ValueError(
            f"Expected `{name}` to hold 0..{classes - 1} where `mask` is not {ignore_index}, got {wrong[:20]}. Correct "
            "them, or give the void label as `ignore_index`."
        )


def _check_shape(name: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != wanted:
        raise ValueError(f"Expected `{name}` of shape {wanted}, got {tuple(tensor.shape)}. Give one label per pixel.")


# The compiled loops: how memory is walked through, and threads


def _is_compiled(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not config.DISABLE_JIT and tensor.numel() > 0  # type: ignore[attr-defined]


def _opened(logits: Tensor) -> tuple[Plane, Array, bool]:
    """The memory of logits, the table of its runs of pixels, and whether its half precision is bfloat16."""
    brain = logits.dtype == torch.bfloat16
    if 0 in logits.stride() or min(logits.stride()) < 0:
        logits = logits.contiguous()
    (batch, _, rows, width), (image_step, class_step, row_step, step) = logits.shape, logits.stride()
    if row_step == width * step or rows == 1:
        rows, width = 1, rows * width
    begins = np.arange(batch)[:, None] * image_step + np.arange(rows) * row_step
    at = np.arange(0, width, _RUN)
    runs = np.empty((batch * rows, len(at), 3), np.int64)
    runs[..., 0] = begins.reshape(-1, 1) + at * step
    runs[..., 1] = np.arange(batch * rows)[:, None] * width + at
    runs[..., 2] = np.minimum(_RUN, width - at)
    return Plane(memory(logits), class_step, step), runs.reshape(-1, 3), brain


def _share(work: Callable[[Array], Result], rows: Array) -> list[Result]:
    """Work on the rows of a table in as many threads as PyTorch has; results in order."""
    workers = torch.get_num_threads()
    parts = np.array_split(rows, min(len(rows), 4 * workers)) if workers > 1 else [rows]
    if len(parts) == 1:
        return [work(rows)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, parts))
