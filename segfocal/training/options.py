"""The rules that the options of `SegmentationTask` are held to."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor, nn

from segfocal.training.encoder import encoder_of
from segfocal.training.schedules import Schedule

_NUMBERS = (
    "lr", "warmup", "poly_power", "encoder_lr_factor", "freeze_encoder", "weight_decay", "aux_weight", "ema_start",
    "threshold", "size_divisor",
)  # fmt: skip
_STEEPEST = 1e37  # the largest factor of a weight's update that Adam still takes: it divides by 0.1 in the first step


def check_options(net: nn.Module, loss: nn.Module, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option outside its range, or one that does not go with the net or the loss."""
    _check_optimiser(options)
    _check_images(options)
    _check_net(net, options)
    _check_loss(loss, options)


def require(name: str, value: object, holds: bool, rule: str) -> None:
    """Raise a ValueError unless the rule holds.

    Example:
        >>> require("lr", -1, False, "> 0")
        Traceback (most recent call last):
        ...
        ValueError: Expected `lr` > 0, got -1.
    """
    if not holds:
        raise ValueError(f"Expected `{name}` {rule}, got {value}.")


def _check_optimiser(options: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        require(name, options[name], isinstance(options[name], int | float), "to be a number")
    lr, factor, decay = (options[name] for name in ("lr", "encoder_lr_factor", "weight_decay"))
    require("lr", lr, lr > 0 and math.isfinite(lr), "> 0")
    for name in ("encoder_lr_factor", "weight_decay", "poly_power", "aux_weight"):
        require(name, options[name], 0 <= options[name] < math.inf, ">= 0")
    product = lr * max(1.0, factor) * max(1.0, decay)
    require("lr, times encoder_lr_factor and weight_decay", product, product < _STEEPEST, f"below {_STEEPEST:g}")
    choices = get_args(Schedule)
    require("schedule", repr(options["schedule"]), options["schedule"] in choices, f"to be one of {', '.join(choices)}")
    require("warmup", options["warmup"], 0 <= options["warmup"] < 1, "in [0, 1), a share of the steps")
    keep, start = options["ema_decay"], options["ema_start"]
    require("ema_decay", keep, keep is None or 0 <= keep < 1, "in [0, 1), such as 0.999, or none")
    require("ema_start", start, 0 <= start < 1, "in [0, 1), a share of the steps")


def _check_images(options: Mapping[str, Any]) -> None:
    mean, std, names = options["mean"], options["std"], options["class_names"]
    require("mean and std", [*mean, *std], all(math.isfinite(value) for value in (*mean, *std)), "to be finite")
    require("std", std, len(std) == len(mean) and min(std) > 0, f"to be {len(mean)} numbers > 0, as `mean`")
    require("threshold", options["threshold"], 0 < options["threshold"] < 1, "in (0, 1)")
    require("size_divisor", options["size_divisor"], options["size_divisor"] >= 1, ">= 1")
    if options["activation"] == "softmax":
        rule = "to hold two or more for softmax; one class goes with sigmoid"
        require("class_names", len(names), len(names) >= 2, rule)


def _check_net(net: nn.Module, options: Mapping[str, Any]) -> None:
    trained = {parameter for parameter in net.parameters() if parameter.requires_grad}
    require("net", "none", bool(trained), "to have a parameter to train")
    epochs, encoder = options["freeze_encoder"], encoder_of(net)
    require("freeze_encoder", epochs, epochs >= 0, ">= 0, a number of epochs")
    wanting = "freeze_encoder" if epochs else "encoder_lr_factor" if options["encoder_lr_factor"] != 1 else None
    if wanting and encoder is None:
        parts = ", ".join(name for name, _ in net.named_children())
        raise ValueError(
            f"Expected the net to have a part called encoder or backbone for `{wanting}`, got {parts or 'none'}. "
            "Leave it out, or call that part encoder."
        )
    if epochs and encoder is not None:
        rest = trained - set(encoder.parameters())
        require("net", "none", bool(rest), "to have a parameter to train besides its encoder for `freeze_encoder`")


def _check_loss(loss: nn.Module, options: Mapping[str, Any]) -> None:
    for name in ("activation", "ignore_index"):
        if getattr(loss, name, options[name]) != options[name]:
            raise ValueError(
                f"Expected the loss to have {name} {options[name]!r} like the task, got {getattr(loss, name)!r}. "
                "Give both the same."
            )
    names = options["class_names"]
    for name in ("alpha", "gamma"):
        given = getattr(loss, name, None)
        if isinstance(given, Tensor) and given.ndim == 1 and len(given) != len(names):
            raise ValueError(
                f"Expected `{name}` of the loss to hold a number per class, {len(names)} for {names}, got "
                f"{len(given)}. Give one per class, or a single number."
            )
