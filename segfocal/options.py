"""The options of the losses, and the rules they are held to.

Every error says the argument, the rule, what it got, and what to do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Activation = Literal["softmax", "sigmoid"]
Reduction = Literal["mean", "sum", "none", "weighted", "positive"]
Absent = Literal["skip", "keep", "zero"]
Backend = Literal["auto", "reference", "tiled", "triton"]
PerClass = float | Sequence[float] | Tensor  # one number for all classes, or one per class
# For `segfocal fit`, which works it out from the training masks: see ClassStatistics.alpha in segfocal.data.
Alpha = PerClass | Literal["auto"] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The options of one loss, checked when they are put together; see `segfocal.losses` for what they mean."""

    part: Literal["focal", "dice", "focal_dice", "jaccard", "tversky"] = "focal"
    activation: Activation = "softmax"
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    gamma: PerClass = 2.0
    alpha: PerClass | None = None
    ignore_index: int = 255
    label_smoothing: float = 0.0
    reduction: Reduction = "mean"
    fp_weight: float = 0.5
    fn_weight: float = 0.5
    exponent: float = 1.0
    smooth: float = 1.0
    per_image: bool = False
    squared: bool = False
    log: bool = False
    absent: Absent = "skip"
    classes: Sequence[int] | None = None
    sync_dist: bool = False
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name in ("per_image", "squared", "log", "sync_dist"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"Expected `{name}` to be a bool, got {getattr(self, name)!r}. Pass True or False.")
        for name in ("focal_weight", "dice_weight", "fp_weight", "fn_weight", "smooth", "label_smoothing", "exponent"):
            _check_number(name, getattr(self, name))
        _check_per_class("gamma", self.gamma)
        if self.alpha == "auto" or isinstance(self.alpha, Mapping):
            rule = "Expected `alpha` to be numbers, as only `segfocal fit` knows the data"
            raise ValueError(f"{rule}, got {self.alpha!r}. segfocal.data.class_statistics(...).alpha() gives them.")
        if self.alpha is not None:
            _check_per_class("alpha", self.alpha, most=1.0 if self.activation == "sigmoid" else math.inf)
        check_classes(self.classes)
        if not isinstance(self.ignore_index, Integral) or isinstance(self.ignore_index, bool):
            remedy = "To ignore nothing, pass a value that no label has, such as -100."
            raise TypeError(f"Expected `ignore_index` to be an int, got {self.ignore_index!r}. {remedy}")
        if not -(2**63) <= self.ignore_index < 2**63:
            raise ValueError(f"Expected `ignore_index` to fit 64 bits, got {self.ignore_index}. A usual value is 255.")
        if self.reduction == {"softmax": "positive", "sigmoid": "weighted"}[self.activation]:
            other = {"softmax": "'mean' or 'weighted'", "sigmoid": "'mean' or 'positive'"}[self.activation]
            rule = f"Expected `reduction` to fit activation={self.activation!r}"
            raise ValueError(f"{rule}, got {self.reduction!r}. Use {other}.")
        if self.reduction == "none" and self.backend not in ("auto", "reference"):
            rule = "Expected `backend` to be 'auto' or 'reference' for reduction='none', which is a map and not a pass"
            raise ValueError(f"{rule}, got {self.backend!r}. Leave it at 'auto'.")
        if self.reduction == "none" and self.part == "focal_dice":
            remedy = "Take FocalLoss(reduction='none') for the map and DiceLoss beside it."
            raise ValueError(f"Expected `reduction` to give a scalar, as Dice has no loss map, got 'none'. {remedy}")


_CHOICES = {
    "activation": get_args(Activation),
    "reduction": get_args(Reduction),
    "absent": get_args(Absent),
    "backend": get_args(Backend),
}


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if isinstance(value, str) and value in choices:
        return
    allowed = ", ".join(map(repr, choices))
    raise ValueError(f"Expected `{name}` to be one of {allowed}, got {value!r}. Pass {choices[0]!r} if in doubt.")


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"Expected `{name}` to be a number, got {value!r}. Write it without quotes, such as 0.5.")
    number = float(value)
    rule, legal = "finite and at least 0", 0 <= number < math.inf
    if name == "label_smoothing":
        rule, legal = "in [0, 1)", 0 <= number < 1
    elif name == "exponent":
        rule, legal = "finite and above 0", 0 < number < math.inf
    if not legal:
        usual = {"smooth": 1.0, "label_smoothing": 0.1, "focal_weight": 1.0, "dice_weight": 1.0, "exponent": 0.75}
        raise ValueError(f"Expected `{name}` to be {rule}, got {value!r}. A usual value is {usual.get(name, 0.5)}.")


def _check_per_class(name: str, value: PerClass, most: float = math.inf) -> None:
    if isinstance(value, Tensor):
        numbers = value.detach().flatten().tolist() if visible(value) else [0.0]  # on a device, only the shape is seen
        shaped = value.ndim <= 1 and value.numel() > 0
    else:
        numbers = [value] if isinstance(value, Real) or not isinstance(value, Sequence) else list(value)
        shaped = len(numbers) > 0
    if not shaped or any(isinstance(n, bool | str) or not isinstance(n, Real) for n in numbers):
        remedy = "Pass a float, or a list with one float per class."
        raise TypeError(f"Expected `{name}` to be a number or one number per class, got {value!r}. {remedy}")
    if not all(0 <= float(n) <= most and float(n) < math.inf for n in numbers):
        rule = "finite and at least 0" if most == math.inf else "in [0, 1] for activation='sigmoid'"
        usual = "2.0, or 0.0 for cross-entropy" if name == "gamma" else "0.25, or None to weigh all alike"
        raise ValueError(f"Expected `{name}` to be {rule}, got {value!r}. A usual value is {usual}.")


def check_classes(classes: Sequence[int] | None, num_classes: int | None = None) -> None:
    """Raise a ValueError unless `classes` is None or different indices, below `num_classes` where that is known."""
    if classes is None:
        return
    listed = isinstance(classes, Sequence) and not isinstance(classes, str) and 0 < len(classes) == len(set(classes))
    most = math.inf if num_classes is None else num_classes - 1
    if listed and all(isinstance(c, Integral) and not isinstance(c, bool) and 0 <= c <= most for c in classes):
        return
    last = "C - 1" if num_classes is None else most
    remedy = "List class indices, or pass None for all classes."
    raise ValueError(f"Expected `classes` to be different indices from 0 to {last}, got {classes!r}. {remedy}")


def visible(tensor: Tensor) -> bool:
    """Whether a value can be looked at without waiting for a device or breaking a graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
