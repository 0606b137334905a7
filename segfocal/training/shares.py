"""Which classes a loss comes from."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def loss_of_classes(parts: Mapping[str, Tensor], classes: Sequence[int] | None = None) -> Tensor:
    """What each class adds to the loss, (C,), from a breakdown of one of segfocal's losses.

    The focal term says so itself. A region term (Dice and its relatives) is divided among the classes in proportion to
    1 - score, which is exact for a mean over classes and close to it for other options.

    Args:
        parts: What `loss.breakdown` returned.
        classes: The classes that the region term is about; None: all.

    Example:
        >>> parts = {"total": torch.tensor(0.5), "dice": torch.tensor(0.5)}
        >>> loss_of_classes({**parts, "dice_per_class": torch.tensor([0.1, 0.3, float("nan")])})
        tensor([0.1250, 0.3750, 0.0000])
    """
    found = []
    for name, per_class in parts.items():
        if name == "focal_per_class":
            found.append(per_class)
        elif name.endswith("_per_class"):
            missed = per_class.nan_to_num(0.0)
            if classes is not None:
                chosen = torch.zeros_like(missed)
                chosen[list(classes)] = 1
                missed = missed * chosen
            found.append(parts[name.removesuffix("_per_class")] * missed / missed.sum().clamp(min=1e-12))
    return torch.stack(found).sum(0)
