"""From whole images of any size to logits of any size."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def predict_logits(net: nn.Module, images: Tensor, size: tuple[int, int] | None = None, *, divisor: int = 32) -> Tensor:
    """Logits of whole images at `size`, whatever sizes the net itself can take.

    The images are padded at the bottom and the right, by repeating their border, to the next multiple of `divisor`;
    the logits of the padding are cut off and the rest is resized bilinearly.

    Args:
        net: Maps (B, D, H, W) to logits (B, C, H, W), to a dict with them under "out" as torchvision's nets do, or to a
            list or tuple that begins with them.
        images: Normalised images (B, D, H, W), floating point.
        size: Height and width of the result; None: those of the images.
        divisor: What height and width must be a multiple of (32 for most encoders).

    Returns:
        Logits (B, C, *size), in the dtype that the net returns.

    Raises:
        ValueError: The net returns something else than logits (B, C, H, W) of its input's size.

    Example:
        >>> import torch
        >>> predict_logits(nn.Conv2d(3, 5, 1), torch.zeros(1, 3, 45, 60), size=(90, 120)).shape
        torch.Size([1, 5, 90, 120])
    """
    outputs, padded = _run(net, images, divisor)
    logits = _checked(outputs, images, padded)
    return resize_logits(logits[..., : images.shape[-2], : images.shape[-1]], size)


def predict_all_logits(
    net: nn.Module, images: Tensor, size: tuple[int, int] | None = None, *, divisor: int = 32
) -> list[Tensor]:
    """As `predict_logits`, and after these logits the auxiliary ones, (B, C, *size) each, which help in training.

    They are what a dict holds under "aux", or what follows the first entry of a list or tuple; they may be smaller than
    the images.

    Raises:
        ValueError: As `predict_logits`, or an auxiliary output that is no logits of as many channels.

    Example:
        >>> import torch
        >>> net = lambda x: {"out": x, "aux": x[..., ::8, ::8]}
        >>> [tuple(logits.shape) for logits in predict_all_logits(net, torch.zeros(1, 3, 45, 60))]
        [(1, 3, 45, 60), (1, 3, 45, 60)]
    """
    outputs, padded = _run(net, images, divisor)
    logits = _checked(outputs, images, padded)
    auxiliary = [outputs["aux"]] if isinstance(outputs, dict) and "aux" in outputs else []
    auxiliary += outputs[1:] if isinstance(outputs, list | tuple) else []
    for further in auxiliary:
        if not isinstance(further, Tensor) or further.ndim != 4 or further.shape[:2] != logits.shape[:2]:
            got = tuple(further.shape) if isinstance(further, Tensor) else type(further).__name__
            raise ValueError(
                f"Expected the net's further outputs to be logits {(*logits.shape[:2], 'h', 'w')}, got {got}. "
                "Return nothing but logits from the net."
            )
    enlarged = [F.interpolate(further, size=padded, mode="bilinear", align_corners=False) for further in auxiliary]
    height, width = images.shape[-2:]
    return [resize_logits(each[..., :height, :width], size) for each in (logits, *enlarged)]


def _run(net: nn.Module, images: Tensor, divisor: int) -> tuple[Any, tuple[int, int]]:
    """What the net returns for the padded images, and their size."""
    height, width = images.shape[-2:]
    padding = (0, -width % divisor, 0, -height % divisor)
    outputs = net(F.pad(images, padding, mode="replicate") if any(padding) else images)
    return outputs, (height + padding[3], width + padding[1])


def _checked(outputs: Any, images: Tensor, padded: tuple[int, int]) -> Tensor:  # noqa: ANN401
    """The logits among the outputs."""
    logits = outputs.get("out") if isinstance(outputs, dict) else outputs
    logits = logits[0] if isinstance(logits, list | tuple) and logits else logits
    if not isinstance(logits, Tensor) or logits.ndim != 4 or tuple(logits.shape[-2:]) != padded:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"Expected the net to return logits (B, C, {padded[0]}, {padded[1]}) for images {tuple(images.shape)}, got "
            f"{got}. Resize the logits to the images inside the net, or return them as a dict under 'out'."
        )
    return logits


def resize_logits(logits: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Logits (B, C, H, W) at another `size`, bilinearly; None keeps them.

    Example:
        >>> import torch
        >>> resize_logits(torch.zeros(1, 2, 8, 8), (4, 6)).shape
        torch.Size([1, 2, 4, 6])
    """
    if size is None or size == tuple(logits.shape[-2:]):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (B, D, H, W), uint8 in 0..255 or floating point in 0..1, to about zero mean and unit variance.

    Args:
        images: The images.
        mean: Mean per channel, (D, 1, 1), in units of 0..1.
        std: Standard deviation per channel, (D, 1, 1), in units of 0..1.

    Returns:
        The images in the dtype of `mean`, which is the net's.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1, 1)
        >>> normalise(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), 0.5 * one, 0.5 * one).unique().item()
        1.0
    """
    unit = 1 if images.is_floating_point() else 255
    normal = (images.float() - unit * mean.float()) / (unit * std.float())
    return normal.to(mean.dtype)
