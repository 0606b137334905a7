"""How images are predicted: whole or by windows, once or averaged over flips and scales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Blend = Literal["gaussian", "linear"]
Flip = Literal["left_right", "up_down"]


@dataclass(frozen=True)
class Inference:
    """How the net is run on an image in validation, test and prediction.

    Args:
        window: (H, W) of windows that slide over the image as the net sees it (after data.size); None: the whole image.
            The training crop is a good choice.
        overlap: Share of a window that the next one covers too, in [0, 1).
        blend: How a window's say falls from its middle to its border where windows overlap: gaussian or linear.
        windows_at_once: Windows of an image that the net sees in one batch.
        flips: Also predict the image flipped, and average the probabilities: left_right, up_down; with both of them
            four times the work.
        scales: Also predict the image enlarged or shrunk by these factors, such as [0.75, 1.25], and average.

    Raises:
        ValueError: A value outside its range.

    Example:
        >>> Inference(window=(512, 512), overlap=1.0)
        Traceback (most recent call last):
        ...
        ValueError: Expected `inference.overlap` in [0, 1), got 1.0. Windows that half overlap have 0.5.
    """

    window: tuple[int, int] | None = None
    overlap: float = 0.25
    blend: Blend = "gaussian"
    windows_at_once: int = 4
    flips: Sequence[Flip] = ()
    scales: Sequence[float] = ()

    def __post_init__(self) -> None:
        window, flips, scales = self.window, self.flips, self.scales
        sides = list(window) if isinstance(window, Sequence) else []
        fits = window is None or (len(sides) == 2 and all(_whole(side) and side >= 1 for side in sides))
        _require("window", window, fits, "to be (H, W), two integers of at least 1, or none", "Such as [512, 512].")
        share = _number(self.overlap) and 0 <= self.overlap < 1
        _require("overlap", self.overlap, share, "in [0, 1)", "Windows that half overlap have 0.5.")
        blends, names = get_args(Blend), get_args(Flip)
        _require("blend", self.blend, self.blend in blends, f"to be one of {', '.join(blends)}", "Correct it.")
        count = self.windows_at_once
        _require("windows_at_once", count, _whole(count) and count >= 1, "to be an integer of at least 1", "Such as 4.")
        known = _listed(flips) and all(flip in names for flip in flips) and len(set(flips)) == len(flips)
        _require("flips", flips, known, f"to list {' and '.join(names)}, each at most once", "Such as [left_right].")
        sane = _listed(scales) and all(_number(scale) and 0.1 <= scale <= 10 for scale in scales)
        _require("scales", scales, sane, "to list factors in [0.1, 10]", "Such as [0.75, 1.25]; 1 is always there.")

    def plain(self) -> dict[str, object]:
        """As lists, numbers and texts, which a checkpoint can hold; `Inference(**plain)` is the same."""
        window = None if self.window is None else list(self.window)
        return vars(self) | {"window": window, "flips": list(self.flips), "scales": list(self.scales)}


def _require(name: str, value: object, holds: bool, rule: str, remedy: str) -> None:
    if not holds:
        raise ValueError(f"Expected `inference.{name}` {rule}, got {value!r}. {remedy}")


def _listed(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
