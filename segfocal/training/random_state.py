"""The random numbers' state as plain data and tensors, which a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Of PyTorch, NumPy and Python."""
    _, keys, *numpy = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), *numpy],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from what `random_state` returned.

    Example:
        >>> state = random_state()
        >>> first = torch.rand(3)
        >>> set_random_state(state)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    keys, *numpy = state["numpy"]
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():  # else another machine, where the same numbers cannot come
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *numpy))
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
