"""Nets: any architecture and encoder of segmentation_models_pytorch, by name."""

import inspect
from difflib import get_close_matches
from typing import Any

from torch import nn

ARCHITECTURES = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
    "DPT",
)


def smp_net(
    architecture: str = "Unet",
    encoder_name: str = "resnet34",
    encoder_weights: str | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    auxiliary_head: bool = False,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """Build a net of segmentation_models_pytorch: images (B, in_channels, H, W) to logits (B, num_classes, H, W).

    Args:
        architecture: Unet, UnetPlusPlus, MAnet, Linknet, FPN, PSPNet, DeepLabV3, DeepLabV3Plus, PAN, UPerNet,
            Segformer or DPT.
        encoder_name: The encoder, such as resnet34, efficientnet-b0, mit_b0; `tu-NAME` takes timm's NAME.
        encoder_weights: Pre-trained weights of the encoder, such as imagenet, which are downloaded on first use.
            None: from scratch.
        num_classes: Channels of the logits. On the command line it comes from the data section.
        in_channels: Channels of the images.
        auxiliary_head: Whether to train the encoder's deepest features to give logits too (deep supervision), by two
            more convolutions. The net then returns two logits, of which the second, (B, num_classes, h, w), is smaller;
            `aux_weight` weighs its loss.
        options: Any further argument of the architecture, such as {decoder_channels: [64, 48, 32, 24, 16]}.

    Raises:
        ValueError: An architecture, encoder or option that segmentation_models_pytorch does not know.

    Example:
        >>> net = smp_net("Unet", "resnet18", num_classes=3)
        >>> net.segmentation_head[0].out_channels
        3
    """
    import segmentation_models_pytorch as smp

    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"Expected `architecture` to be one of {', '.join(ARCHITECTURES)}, got {architecture!r}."
            f"{_did_you_mean(architecture, ARCHITECTURES)}"
        )
    if num_classes is None or num_classes < 1:
        raise ValueError(f"Expected `num_classes` >= 1, got {num_classes}. Give the number of classes of your masks.")
    if not encoder_name.startswith(("tu-", "timm-")) and encoder_name not in smp.encoders.encoders:
        raise ValueError(
            f"Expected `encoder_name` to be an encoder of segmentation_models_pytorch, got {encoder_name!r}."
            f"{_did_you_mean(encoder_name, list(smp.encoders.encoders))} timm's models are called tu-NAME."
        )
    builder = getattr(smp, architecture)
    known = [name for name in inspect.signature(builder).parameters if name != "kwargs"]
    for option in options or {}:
        # smp takes any name: it hands the unknown ones to timm's encoders, which check them, and drops them elsewhere.
        if option not in known and not encoder_name.startswith("tu-"):
            raise ValueError(
                f"Expected `options` to be arguments of smp.{architecture}, got {option!r}."
                f"{_did_you_mean(option, known)} There are: {', '.join(known)}."
            )
    arguments = {"encoder_weights": encoder_weights, "in_channels": in_channels, "classes": num_classes}
    try:
        net: nn.Module = builder(encoder_name, **arguments, **(options or {}))
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"smp.{architecture} refuses {encoder_name!r}, options={options}: {error}.") from error
    except OSError as error:  # no network, and nothing in the cache
        raise ValueError(
            f"Expected `encoder_weights` {encoder_weights!r} of {encoder_name!r} to be at hand or to be had, got: "
            f"{error} Connect to the network once, or set encoder_weights to null to train from scratch."
        ) from error
    if auxiliary_head:
        if net.classification_head is not None:
            raise ValueError("Expected `auxiliary_head` or `aux_params` in `options`, got both. Leave one out.")
        # smp hands the deepest features to this head, and returns its result after the logits.
        net.classification_head = _fcn_head(net.encoder.out_channels[-1], num_classes)
    return net


def _fcn_head(channels: int, num_classes: int) -> nn.Sequential:
    """Features to logits, as at the end of a fully convolutional net (Long et al. 2015)."""
    hidden = max(channels // 4, 8)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, num_classes, 1),
    )


def _did_you_mean(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
