"""What the tests of the losses share: scenes to score, and each backend as one function."""

from dataclasses import dataclass
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64 against float64
SINGLE = {"rtol": 1.3e-6, "atol": 1e-5}  # torch.testing's own for float32
activations = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


def scene(*shape, dtype=torch.float64, seed=0, classes=None):
    """Logits of this shape and class indices below `classes`; a fifth of the pixels is 255.

    By default class C - 1 is absent if C > 2.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, dtype=dtype, generator=generator) * 2
    classes = classes or max(shape[1] - (shape[1] > 2), 2)
    target = torch.randint(classes, (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


def dense(target, num_classes):
    """Class indices as bool channels; a pixel of another label is in no class."""
    return torch.stack([target == c for c in range(num_classes)], 1)


def value_and_grad(loss, logits, *args, **options):
    x = logits.detach().clone().requires_grad_()
    value = loss(x, *args, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@dataclass(frozen=True)
class Kernel:
    """A backend, from CPU tensors to CPU results, wherever and however widely it computes."""

    name: str
    device: str

    @property
    def wide(self):
        """Whether it computes in float64."""
        return self.name != "triton"

    @property
    def interpreted(self):
        """Whether it takes seconds where others take milliseconds."""
        return self.name == "triton" and self.device == "cpu"

    @property
    def close(self):
        return EXACT if self.wide else SINGLE

    def sums(self, logits, target, activation="softmax", gamma=2.0, ignore_index=255, **options):
        """Its `pixel_sums`; one that has no float64 gets float32 logits."""
        pixel_sums = import_module(f"segfocal.kernels.{self.name}").pixel_sums
        logits, target, weight = self._here(logits, target, options.pop("weight", None))
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        gamma = gamma if isinstance(gamma, float) else gamma.to(self.device, dtype)
        options |= {"activation": activation, "gamma": gamma, "ignore_index": ignore_index, "weight": weight}
        got = pixel_sums(logits, target, **options)
        return type(got)(*(None if field is None else field.cpu() for field in got))

    def loss(self, function, logits, target, weight=None, **options):
        """A function of `segfocal.functional` by this backend."""
        return function(*self._here(logits, target, weight), backend=self.name, **options).cpu()

    def _here(self, logits, target, weight):
        narrow = logits.dtype == torch.float64 and not self.wide
        logits = logits.to(self.device, torch.float32 if narrow else logits.dtype)
        return logits, target.to(self.device), None if weight is None else weight.to(self.device)


class OurCalls(TorchDispatchMode):
    """The calls of segfocal's operators, in order."""

    def __init__(self):
        super().__init__()
        self.calls = []

    @property
    def names(self):
        return {operator.name() for operator, _, _ in self.calls}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "segfocal":
            self.calls.append((operator, args, kwargs or {}))
        return operator(*args, **(kwargs or {}))
