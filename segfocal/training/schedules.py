"""The learning rate over the steps of a fit, as a share of its peak."""

import math
from typing import Literal

Schedule = Literal["poly", "cosine", "one_cycle"]


def lr_factor(
    step: int, steps: float, schedule: Schedule = "poly", *, warmup: float = 0.05, power: float = 0.9
) -> float:
    """What the peak learning rate is multiplied by at a step.

    poly: rises linearly over the warm-up, else (1 - step / steps) ** power. cosine: rises in the same way, and falls
    from the end of the warm-up along half a cosine. one_cycle: rises along half a cosine from 1/25, and falls as
    cosine does (Smith and Topin, Super-Convergence, 2018, with the cosines and the 1/25 of torch's OneCycleLR).

    Args:
        step: The optimiser step, from 0.
        steps: Number of steps of the whole fit; the factor reaches 0 at step = steps.
        schedule: poly, cosine or one_cycle.
        warmup: Share of the steps over which it rises, in [0, 1).
        power: Exponent of poly.

    Returns:
        A factor in [0, 1].

    Example:
        >>> [round(lr_factor(step, 8, "cosine", warmup=0.25), 2) for step in (0, 1, 2, 5, 8)]
        [0.33, 0.67, 1.0, 0.5, 0.0]
    """
    rise = warmup * steps
    if step < rise:
        if schedule == "one_cycle":
            return 1 - (1 - 1 / 25) * _half_cosine(step / rise)
        return (step + 1) / (rise + 1)
    if schedule == "poly":
        return float((1 - min(step, steps) / steps) ** power)
    return _half_cosine((min(step, steps) - rise) / (steps - rise))


def _half_cosine(progress: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))
