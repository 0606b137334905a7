"""The encoder of a net: which parameters it has, their learning rate, and how it is kept as it is for a while."""

import re
from collections.abc import Set
from typing import Any

from torch import nn

NAMES = ("encoder", "backbone")  # as smp and torchvision call it
_WRAPPER = re.compile(r"_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")  # what fsdp puts into names


def encoder_of(net: nn.Module) -> nn.Module | None:
    """The part of the net that is called encoder or backbone.

    Example:
        >>> net = nn.ModuleDict({"backbone": nn.Conv2d(3, 8, 3), "head": nn.Conv2d(8, 2, 1)})
        >>> encoder_of(net)
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    return next((getattr(net, name) for name in NAMES if isinstance(getattr(net, name, None), nn.Module)), None)


def parameter_groups(
    net: nn.Module, lr: float, encoder_lr_factor: float, weight_decay: float, decayed: Set[str]
) -> list[dict[str, Any]]:
    """Four groups for the optimiser: encoder or not, with or without decay; empty ones are left out.

    Args:
        net: As it is now, its parameters may be split over several processes.
        lr: Learning rate.
        encoder_lr_factor: Times this for the encoder.
        weight_decay: Weight decay.
        decayed: Names of the parameters which it is for, `decayed_names` of the net as it was built.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        plain = _WRAPPER.sub("", name)
        groups.setdefault((plain.split(".")[0] in NAMES, plain in decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (encoder_lr_factor if encoder else 1.0),
            "weight_decay": weight_decay if decay else 0.0,
        }
        for (encoder, decay), parameters in groups.items()
    ]


def decayed_names(net: nn.Module) -> set[str]:
    """Names of the matrices and kernels: biases and the scales of norms are not pulled towards 0.

    Example:
        >>> sorted(decayed_names(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))))
        ['0.weight']
    """
    return {name for name, parameter in net.named_parameters() if parameter.ndim > 1}


class Freezer:
    """Keeps an encoder as it is: no gradients, and eval mode, so that its norms' statistics do not move either.

    Args:
        encoder: What to keep; parameters of it that are not trained anyway are left alone.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder, self.frozen = encoder, False
        self.parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    def set(self, frozen: bool) -> None:
        """Freeze it, or let it train."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
            parameter.grad = None
        self.encoder.train(not frozen)
