"""Checks of the tensors: every error says the argument, the rule, what it got, and what to do."""

import torch
from torch import Tensor

from segfocal.options import Activation, visible


def check_target(target: Tensor, num_classes: int, ignore_index: int = 255) -> None:
    """Say which labels are illegal. Waits for the device, so the losses call it on the CPU only.

    Args:
        target: Class indices of any shape and any integer dtype.
        num_classes: C; the legal labels are 0 to C - 1, and 0 and 1 for C = 1 (binary).
        ignore_index: The label of pixels that do not count.

    Raises:
        TypeError: If `target` is not integer.
        ValueError: If a label is neither a class nor `ignore_index`; lists each illegal value and its count.

    Example:
        >>> check_target(torch.tensor([0, 1, 255]), num_classes=2)
        >>> check_target(torch.tensor([0, 7, 7]), num_classes=2)
        Traceback (most recent call last):
        ...
        ValueError: Expected `target` to hold 0 to 1 or ignore_index=255, got 7 (2 times). Remap these labels, ...
    """
    _check_integer(target)
    labels, last = target.long(), max(num_classes, 2) - 1
    _raise_if_any(labels, ((labels < 0) | (labels > last)) & (labels != ignore_index), f"0 to {last}", ignore_index)


def check_tensors(
    logits: Tensor, target: Tensor, weight: Tensor | None, activation: Activation, ignore_index: int
) -> None:
    """Shapes, dtypes and devices always; values where they can be seen without waiting for a device."""
    for name, value in {"logits": logits, "target": target, "weight": weight}.items():
        if not isinstance(value, Tensor) and not (value is None and name == "weight"):
            remedy = (
                "Pass outputs['out'] of torchvision's nets."
                if isinstance(value, dict)
                else "Pass torch.as_tensor(...)."
            )
            raise TypeError(f"Expected `{name}` to be a tensor, got {type(value).__name__}. {remedy}")
    _check_logits(logits, activation)
    shape = tuple(logits.shape)
    index_shape = shape[:1] + shape[2:]
    if tuple(target.shape) not in (shape, index_shape):
        got = f"got {tuple(target.shape)}. {_shape_remedy(target, shape)}"
        raise ValueError(f"Expected `target` of shape {index_shape} or (dense) {shape} for `logits` {shape}, {got}")
    if weight is not None and tuple(weight.shape) != index_shape:
        remedy = "It has one value per pixel; to weigh classes use alpha."
        raise ValueError(f"Expected `weight` of shape {index_shape}, got {tuple(weight.shape)}. {remedy}")
    for name, tensor in {"target": target, "weight": weight}.items():
        if tensor is not None and tensor.device != logits.device:
            remedy = f"Pass {name}.to(logits.device)."
            raise ValueError(f"Expected `{name}` on {logits.device} like `logits`, got {tensor.device}. {remedy}")
        if tensor is not None and tensor.requires_grad:
            remedy = f"Pass {name}.detach()."
            raise ValueError(f"Expected `{name}` to be a constant, got one that requires a gradient. {remedy}")
    if target.ndim < logits.ndim:
        _check_integer(target)
    elif ignore_index in (0, 1):
        remedy = "Mark ignored elements with another value, such as 255."
        raise ValueError(f"Expected `ignore_index` other than 0 and 1 for a dense target, got {ignore_index}. {remedy}")
    if weight is not None and weight.is_complex():
        raise TypeError(f"Expected `weight` to be real, got {weight.dtype}. Pass weight.abs() or weight.real.")
    if weight is not None and visible(weight) and weight.numel() > 0 and not bool(weight.amin() >= 0):
        raise ValueError(f"Expected `weight` to be at least 0, got {weight.min()}. Use 0 to ignore a pixel.")


def _check_logits(logits: Tensor, activation: Activation) -> None:
    shape = tuple(logits.shape)
    if not logits.is_floating_point():
        raise TypeError(f"Expected `logits` to have a floating dtype, got {logits.dtype}. Pass the net's raw output.")
    if logits.ndim < 2 or shape[1] < 1:
        raise ValueError(f"Expected `logits` of shape (B, C, *S) with C >= 1, got {shape}. One image: logits[None].")
    if activation == "softmax" and shape[1] < 2:
        remedy = "For one channel use activation='sigmoid'."
        raise ValueError(f"Expected `logits` with C >= 2 channels for activation='softmax', got {shape}. {remedy}")


def _check_integer(target: Tensor) -> None:
    if target.is_floating_point() or target.is_complex():
        remedy = "Pass target.long() for class indices, or a dense target of the shape of `logits`."
        raise TypeError(f"Expected `target` of class indices to have an integer dtype, got {target.dtype}. {remedy}")


def check_values(target: Tensor, shape: torch.Size, ignore_index: int) -> None:
    """Raise a ValueError that lists the illegal labels, if there are any; looks at every value."""
    if target.ndim < len(shape):
        return check_target(target, shape[1], ignore_index)
    shares = target.double()  # in an integer dtype `ignore_index` would wrap: 255 is not -1
    return _raise_if_any(target, ~((shares >= 0) & (shares <= 1)) & (shares != ignore_index), "[0, 1]", ignore_index)


def _shape_remedy(target: Tensor, shape: tuple[int, ...]) -> str:
    if target.ndim == len(shape) and target.shape[1] == 1:
        return "Drop the channel: target.squeeze(1)."
    if target.ndim == len(shape) and target.shape[-1] == shape[1]:
        return "Move the channels: target.movedim(-1, 1)."
    return "Resize the logits to the target's size, or check the number of classes."


def _raise_if_any(target: Tensor, illegal: Tensor, legal: str, ignore_index: int) -> None:
    if not bool(illegal.any()):
        return
    values, counts = (t.tolist() for t in torch.unique(target[illegal], return_counts=True))
    listed = [f"{value} ({count} times)" for value, count in zip(values, counts, strict=True)]
    got = ", ".join(listed[:256]) + (f" and {len(listed) - 256} other values" if len(listed) > 256 else "")
    remedy = "Remap these labels, check the number of classes, or pass ignore_index to leave them out."
    raise ValueError(f"Expected `target` to hold {legal} or ignore_index={ignore_index}, got {got}. {remedy}")
