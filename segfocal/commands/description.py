"""model.json, which says what the files of `segfocal export` are, take and give."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from segfocal import __version__
from segfocal.configuration import Configuration
from segfocal.data.palettes import default_palette
from segfocal.export import OPSET, Deployed, Size
from segfocal.parity import Difference

Json = dict[str, Any]


def trained(configuration: Configuration, checkpoint: Path) -> Json:
    """What was trained, on what."""
    task, options = configuration.model, configuration.config.data.get("init_args", {})
    names = task.class_names
    net = configuration.net.as_dict()
    if "encoder_weights" in net.get("init_args", {}):
        net["init_args"]["encoder_weights"] = None  # weights.safetensors has all of them
    palette = getattr(configuration.datamodule, "palette", None) or default_palette(len(names))
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "segfocal": __version__,
        "torch": str(torch.__version__),
        "checkpoint": {"file": str(checkpoint), "sha256": digest},
        "net": net,
        "class_names": names,
        "palette": [list(colour) for colour in palette],
        "ignore_index": task.hparams["ignore_index"],
        "mean": task.hparams["mean"],
        "std": task.hparams["std"],
        "value_range": options.get("value_range"),
        "data_size": options.get("size"),
    }


def interface(deployed: Deployed, names: list[str], size: Size | None) -> Json:
    """What goes into a file and what comes out."""
    bands, sides = len(deployed.mean), size or ("height", "width")
    example = deployed.finished(torch.zeros(1, len(names), 1, 1))
    channels = [len(names)] if example.ndim == 4 else []
    uint8, softmax = deployed.input == "uint8", deployed.activation == "softmax"
    largest = len(names) - 1 if softmax and deployed.output == "labels" else 1
    return {
        "in_channels": bands,
        "size_divisor": deployed.divisor,
        "activation": deployed.activation,
        "threshold": None if softmax else deployed.threshold,
        "input": {
            "name": "images",
            "shape": ["batch", bands, *sides],
            "dtype": "uint8" if uint8 else "float32",
            "values": "0..255" if uint8 else "(image / 255 - mean) / std",
            "channels": "RGB" if bands == 3 else None,
        },
        "output": {
            "name": deployed.output,
            "shape": ["batch", *channels, *sides],
            "dtype": str(example.dtype).removeprefix("torch."),
            "values": "any" if deployed.output == "logits" else f"0..{largest}",
        },
    }


def as_text(about: Json) -> str:
    """The file's content; what JSON has no type for is written as text."""
    return json.dumps(about, indent=1, ensure_ascii=False, default=str) + "\n"


def figures(file: Path, measured: dict[str, Difference]) -> Json:
    """A file's checksum, and how far it is from the net at each size."""
    return {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "opset": OPSET if file.suffix == ".onnx" else None,
        "largest_difference": {size: found.largest for size, found in measured.items()},
        "share_of_labels": {size: found.share for size, found in measured.items()},
        "allowed": max(found.allowed for found in measured.values()),
    }
