"""Whether a file gives what its net gives: `expected` runs the net, and `compare` the file on the same images."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.export import Deployed, ExportError, Size, load_net
from segfocal.inference import normalise, predict_logits

SIZES: tuple[Size, ...] = ((97, 131), (224, 224), (360, 480))
BATCHES = (1, 2)
TOLERANCE = 1e-4  # largest difference, in logits or probabilities

Run = Callable[[Tensor], Tensor]  # images to results


class Case(NamedTuple):
    """Images, and what the net makes of them.

    Attributes:
        images: (B, D, H, W), uint8.
        inputs: The same, normalised.
        values: (B, C, H, W), float64: logits, or probabilities if the file gives these, or labels by a threshold.
        rounding: The largest difference of the values when the net runs in float32.
    """

    images: Tensor
    inputs: Tensor
    values: Tensor
    rounding: float


class Difference(NamedTuple):
    """How far the results of a file are from those of the net.

    Attributes:
        largest: The largest difference of a logit or probability. For labels: how far from a tie the net is, where the
            file has another label, in logits (half the gap to the net's own class) or probabilities (to the threshold).
        share: Of labels, the share that differs.
        allowed: The largest difference that rounding explains: `TOLERANCE`, or twice that of the net itself in float32,
            where this is more.
    """

    largest: float
    share: float
    allowed: float

    @property
    def fits(self) -> bool:
        """Whether the file is as good as the net; not if there is a NaN."""
        return self.largest <= self.allowed


def open_onnx(path: Path) -> Run:
    """The results of an ONNX file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised too
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def open_torch(path: Path) -> Run:
    """The results of a file of `torch.export.save`."""
    net: Run = torch.export.load(path).module()
    return net


def open_weights(folder: Path, deployed: Deployed) -> Run:
    """The results of the weights in a folder, in a net that its model.json describes, between the same ends."""
    ends = {name: getattr(deployed, name) for name in ("input", "output", "activation", "threshold", "divisor")}
    return Deployed(load_net(folder), deployed.mean, deployed.std, **ends)


def photos(size: Size, batch: int, bands: int, seed: int = 0) -> Tensor:
    """Images (B, D, H, W), uint8, of large and small structure, none like another.

    Example:
        >>> photos((4, 5), 2, 3).shape
        torch.Size([2, 3, 4, 5])
    """
    random = torch.Generator().manual_seed(seed)
    patches = torch.rand(batch, bands, 6, 7, generator=random)
    smooth = F.interpolate(patches, size=size, mode="bilinear", align_corners=False)
    noise = 0.2 * torch.rand(batch, bands, *size, generator=random)
    return (255 * (0.9 * smooth + noise).clamp(0, 1)).round().to(torch.uint8)


@torch.no_grad()
def expected(deployed: Deployed, size: Size, batches: Sequence[int] = BATCHES) -> list[Case]:
    """What the net itself gives, by `segfocal.inference`, for images of a size.

    Args:
        deployed: The net, and what comes before and after it.
        size: Of the images.
        batches: Numbers of images that are run at once.

    Raises:
        ExportError: The net gives NaN or infinite logits.
        Exception: Whatever the net raises that does not take such images.
    """
    cases, wide = [], copy.deepcopy(deployed.net).double()
    for seed, batch in enumerate(batches):
        images = photos(size, batch, len(deployed.mean), seed)
        inputs = normalise(images, deployed.mean, deployed.std)
        narrow = _values(deployed, predict_logits(deployed.net, inputs, divisor=deployed.divisor))
        try:
            exact = _values(deployed, predict_logits(wide, inputs.double(), divisor=deployed.divisor).double())
        except RuntimeError:  # a net that makes float32 tensors of its own
            exact = narrow.double()
        if not narrow.isfinite().all():
            raise ExportError(
                f"Expected finite logits of the checkpoint's net, got NaN or infinite ones for images of {size[0]} x "
                f"{size[1]}. Export another checkpoint of its run."
            )
        cases.append(Case(images, inputs, exact, float((narrow - exact).abs().max())))
    return cases


def _values(deployed: Deployed, logits: Tensor) -> Tensor:
    if deployed.output == "logits" or (deployed.output, deployed.activation) == ("labels", "softmax"):
        return logits
    return logits.softmax(1) if deployed.activation == "softmax" else logits.sigmoid()


@torch.no_grad()
def compare(run: Run, deployed: Deployed, cases: Sequence[Case]) -> Difference:
    """How far a file is from the net that it was made of.

    Raises:
        ExportError: The results have another shape than those of the net.

    Example:
        >>> from torch import nn
        >>> half = torch.full((3, 1, 1), 0.5)
        >>> deployed = Deployed(nn.Conv2d(3, 5, 1), half, half, output="logits")
        >>> cases = expected(deployed, (45, 60))
        >>> compare(deployed, deployed, cases).fits, compare(lambda x: deployed(x) + 0.01, deployed, cases).fits
        (True, False)
    """
    found = []
    for case in cases:
        got = run(case.images if deployed.input == "uint8" else case.inputs)
        wanted = deployed.finished(case.values).shape if deployed.output == "labels" else case.values.shape
        if got.shape != wanted:
            raise ExportError(
                f"It gives {tuple(got.shape)} for images {tuple(case.images.shape)}, not {tuple(wanted)}."
            )
        found.append(_distance(got, case.values, deployed))
    largest, share = torch.tensor(found).amax(0).tolist()  # NaN if there is one
    return Difference(largest, share, max(TOLERANCE, *(2 * case.rounding for case in cases)))


def _distance(got: Tensor, values: Tensor, deployed: Deployed) -> tuple[float, float]:
    """The largest difference, and of labels the share that differs."""
    if deployed.output != "labels":
        return float((got - values).abs().max()), 0.0
    if deployed.activation == "softmax":
        labels = got.long().unsqueeze(1)
        if labels.min() < 0 or labels.max() >= values.shape[1]:
            return math.inf, 1.0
        away = (values.amax(1) - values.gather(1, labels).squeeze(1)) / 2
        wrong = away > 0
    else:
        values = values[:, 0] if got.ndim == 3 else values
        wrong = got.bool() != (values >= deployed.threshold)
        away = (values - deployed.threshold).abs() * wrong
    return float(away.max()), float(wrong.double().mean())
