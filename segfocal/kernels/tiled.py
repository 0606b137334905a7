"""The sums on the CPU, block by block, with the closed-form gradient: compiled by Numba, in as many threads as PyTorch.

`compiled` has the loops over the pixels. Here tensors of any layout are cut into strips, which threads share; then come
the two operators and `pixel_sums`. B images, C classes, N pixels of an image.
"""

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numba.core import config
from torch import Tensor

from segfocal.kernels import PixelSums
from segfocal.kernels.compiled.block import (
    ACTUAL,
    ACTUAL_SQUARED,
    NEGATIVE,
    OVERLAP,
    PIXELS,
    POSITIVE,
    PREDICTED,
    PREDICTED_SQUARED,
    SCRATCH,
    STRIP,
    VALID,
    Input,
    Plane,
    memory,
)
from segfocal.kernels.compiled.shares import share_gradient, share_sums, sigmoid_gradient, sigmoid_sums
from segfocal.kernels.compiled.softmax import index_gradient, index_sums

VALUES = 2**18  # logits of a strip at most, and of a part at least, where the image has as many


class _Options(NamedTuple):
    gamma: float
    softmax: bool
    ignore_index: int
    label_smoothing: float
    squared: bool


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# Cutting tensors into strips


def _walk(tensors: list[Tensor]) -> tuple[int, list[int], list[np.ndarray]]:
    """How to walk through the pixels: pixels of a run, the step of each tensor, and where its runs begin, (B, runs).

    A run is what one step walks through in all tensors: whole images where that is possible, else single rows.
    """
    shape = tensors[0].shape[2:]
    strides = [t.stride()[2:] for t in tensors]

    def in_line(stride: tuple[int, ...]) -> bool:
        dims = [(n, step) for n, step in zip(shape, stride, strict=True) if n > 1]
        return all(outer == n * inner for (_, outer), (n, inner) in itertools.pairwise(dims))

    kept = 0 if all(in_line(stride) for stride in strides) else len(shape) - 1  # dims in which every place begins a run
    steps, starts = [], []
    for t, stride in zip(tensors, strides, strict=True):
        steps.append(next((step for n, step in zip(shape[::-1], stride[::-1], strict=True) if n > 1), 1))
        start = np.arange(len(t)) * t.stride(0)
        for n, step in zip(shape[:kept], stride[:kept], strict=True):
            start = start[..., None] + np.arange(n) * step
        starts.append(start.reshape(len(t), -1))
    return math.prod(shape[kept:]), steps, starts


def _strips(num_classes: int, run: int, steps: list[int], starts: list[np.ndarray]) -> np.ndarray:
    """The table of strips, from the steps and starts in logits, target and gradient."""
    images, runs = starts[0].shape
    most = max(PIXELS, VALUES // num_classes)
    length = -(-run // -(-run // most) // PIXELS) * PIXELS  # of about equal strips, in whole blocks
    at = np.arange(0, run, length)
    strips = np.empty((images, runs, len(at)), STRIP)
    strips["image"] = np.arange(images)[:, None, None]
    strips["pixels"] = np.minimum(length, run - at)
    strips["weight"] = np.arange(images * runs).reshape(images, runs, 1) * run + at
    for name, step, start in zip(("logits", "target", "gradient"), steps, starts, strict=True):
        strips[name] = start[:, :, None] + at * step
    count = runs * len(at)
    parts = min(count, max(1, runs * run // most))  # of an image, whatever the number of threads
    strips["part"] = strips["image"] * parts + (np.arange(count) * parts // count).reshape(runs, len(at))
    return strips.reshape(-1)


def _solid(tensor: Tensor) -> Tensor:
    """A copy of an expanded tensor: a step of 0 leads nowhere."""
    repeats = any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.contiguous() if repeats else tensor


def _plane(tensor: Tensor, step: int) -> Plane:
    return Plane(memory(tensor), tensor.stride(1), step)


def _readable(target: Tensor, dense: bool, dtype: torch.dtype) -> Tensor:
    """In one of the few dtypes that are compiled for; indices, small beside the logits, are put in order too."""
    if dense:
        return _solid(target if target.dtype in (torch.bool, torch.uint8, torch.float32) else target.to(dtype))
    return (target if target.dtype in (torch.uint8, torch.int64) else target.long()).contiguous()


def _prepare(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    gammas: Tensor | None,
    options: _Options,
    gradient: Tensor | None = None,
) -> tuple[Input, np.ndarray, Plane]:
    """What the kernels read, the table of strips, and where the gradient goes."""
    dtype, dense, logits = _wide(logits), target.ndim == logits.ndim, _solid(logits)
    result = logits if gradient is None else gradient  # without one its places in the table are not used
    target = _readable(target, dense, dtype)
    empty = torch.empty(0, dtype=dtype)
    weight = empty if weight is None else weight.to(dtype).contiguous()
    gammas = empty if gammas is None else gammas.to(dtype).contiguous()
    run, steps, starts = _walk([logits, target if dense else logits, result])
    if run < PIXELS < math.prod(logits.shape[2:]):  # rows shorter than a block: slower than a copy
        logits, target = logits.contiguous(), target.contiguous()
        run, steps, starts = _walk([logits, target if dense else logits, result])
    if not dense:
        steps[1], starts[1] = 1, np.arange(starts[0].size).reshape(starts[0].shape) * run
    number = np.float64 if dtype == torch.float64 else np.float32
    data = Input(
        logits=_plane(logits, steps[0]),
        brain=logits.dtype == torch.bfloat16,
        target=_plane(target, steps[1]) if dense else Plane(memory(target), 0, 1),
        dense=dense,
        weight=memory(weight),
        classes=logits.shape[1],
        ignore_index=options.ignore_index,
        ignore_share=number(options.ignore_index),
        gamma=number(options.gamma),
        gammas=memory(gammas),
        smoothing=number(options.label_smoothing),
        squared=options.squared,
    )
    return data, _strips(data.classes, run, steps, starts), _plane(result, steps[2])


# Running


class _Kind(NamedTuple):
    sums: Callable[..., None]
    gradient: Callable[..., None]
    rows: int  # arrays (C + 1, PIXELS) to work in


def _kind(dense: bool, options: _Options) -> _Kind:
    if not options.softmax:
        return _Kind(sigmoid_sums, sigmoid_gradient, 0)
    if dense or options.label_smoothing > 0:
        return _Kind(share_sums, share_gradient, 2)
    return _Kind(index_sums, index_gradient, 1)


def _run(kernel: Callable[..., None], rows: int, data: Input, strips: np.ndarray, *outputs: object) -> None:
    """Run in as many threads as PyTorch has; no two share a part, so that their number changes nothing."""
    workers, parts = torch.get_num_threads(), strips["part"][-1] + 1
    # Several shares for each thread, since a core may be busy with something else.
    bounds = np.linspace(0, parts, min(parts, 4 * workers) + 1).astype(np.int64)
    cuts = np.searchsorted(strips["part"], bounds)
    dtype = data.gamma.dtype

    def share(start: int, end: int) -> None:
        room = [np.empty((data.classes + 1, PIXELS), dtype) for _ in range(rows)]
        kernel(data, strips[start:end], np.empty(SCRATCH, dtype), *room, *outputs)

    # As the interpreter shuts down, no thread can be started any more.
    alone = workers == 1 or len(cuts) == 2 or not threading.main_thread().is_alive()
    list((map if alone else _pool(os.getpid(), workers).map)(share, cuts[:-1], cuts[1:]))


@functools.cache
def _pool(_process: int, workers: int) -> ThreadPoolExecutor:
    """A forked process has none of its parent's threads, so it is part of the key."""
    return ThreadPoolExecutor(workers, "segfocal")


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
    batch, num_classes = logits.shape[:2]
    fields = 8 if squared else 6
    if logits.numel() == 0:
        return logits.new_zeros(fields, batch, num_classes, dtype=_wide(logits))
    options = _Options(gamma, softmax, ignore_index, label_smoothing, squared)
    data, strips, _ = _prepare(logits, target, weight, gammas, options)
    kind = _kind(data.dense, options)
    parts = np.zeros((strips["part"][-1] + 1, 8, num_classes))
    _run(kind.sums, kind.rows, data, strips, parts)
    sums = parts.reshape(batch, -1, 8, num_classes).sum(1)  # (B, 8, C)
    if kind.sums is index_sums:
        sums[:, VALID] = sums[:, ACTUAL].sum(1, keepdims=True)
        sums[:, ACTUAL_SQUARED] = sums[:, ACTUAL]
    return torch.from_numpy(sums[:, :fields]).transpose(0, 1).to(_wide(logits)).contiguous()


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
    result = torch.empty_like(logits)
    if logits.numel() == 0:
        return result
    options = _Options(gamma, softmax, ignore_index, label_smoothing, squared)
    data, strips, out = _prepare(logits, target, weight, gammas, options, result)
    kind = _kind(data.dense, options)
    squares = grads[PREDICTED_SQUARED] if squared else torch.zeros_like(grads[0])
    slopes = [grads[POSITIVE], grads[OVERLAP], grads[PREDICTED], squares, grads[NEGATIVE]]
    _run(kind.gradient, kind.rows, data, strips, torch.stack(slopes, 1).numpy(), out)
    return result


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
    return tiled_gradient(grads + 0 * sums[VALID], *tensors, *ctx.options), *[None] * 8


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
    """The sums of `PixelSums`; see the contract in `segfocal.kernels`.

    Raises:
        ValueError: For logits that are not on the CPU, and where Numba is not to compile.
        RuntimeError: In the backward pass of a backward pass.
    """
    if logits.device.type != "cpu":
        remedy = "Pass backend='auto' or 'reference'."
        raise ValueError(f"Expected `logits` on the CPU for backend='tiled', got {logits.device}. {remedy}")
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        remedy = "Take NUMBA_DISABLE_JIT out of the environment, or use backend='reference'."
        raise ValueError(f"Expected Numba to compile for backend='tiled', got NUMBA_DISABLE_JIT. {remedy}")
    if logits.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        logits = logits.float()
    gammas, single = (gamma, 0.0) if isinstance(gamma, Tensor) else (None, gamma)
    softmax = activation == "softmax"
    sums = tiled_sums(logits, target, weight, gammas, single, softmax, ignore_index, label_smoothing, squared)
    return PixelSums(*sums.unbind(0))
