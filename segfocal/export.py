"""A trained net as a file that runs without segfocal.

`Deployed` puts a net and what stands before and after it into one graph, `trace` records that graph for images of any
size, and `onnx_bytes`, `torch_bytes` and `safetensors_bytes` make files of it. segfocal/parity.py compares these files
with the net. Sizes are (height, width).
"""

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from segfocal.inference import normalise

Format = Literal["onnx", "torch", "safetensors"]
Input = Literal["uint8", "normalised"]
Output = Literal["labels", "probabilities", "logits"]
Activation = Literal["softmax", "sigmoid"]
Size = tuple[int, int]

OPSET = 18  # of ONNX: what torch writes without converting, and every runtime since 2023 reads


_POOL = torch.ops.aten.adaptive_avg_pool2d.default


class ExportError(RuntimeError):
    """A net that cannot be written in a format, or a file whose results are not those of the net."""


class Deployed(nn.Module):
    """A net from the stored image to the result.

    Args:
        net: Maps normalised images (B, D, H, W) to logits (B, C, H, W), to a dict with them under "out", or to a list
            or tuple that begins with them; further outputs are left out. It is copied.
        mean: Mean of the images per channel, (D, 1, 1), in units of 0..1.
        std: Standard deviation per channel, (D, 1, 1), in units of 0..1.
        input: `uint8`: images in 0..255, which are normalised here. `normalised`: float32, (image / 255 - mean) / std.
        output: `labels`: the class of each pixel, (B, H, W), or 0 and 1 per class, (B, C, H, W), for sigmoid with more
            than one class; uint8, or int32 for more than 256 classes. `probabilities` and `logits`: float32
            (B, C, H, W).
        activation: softmax or sigmoid.
        threshold: Probability from which a class counts as predicted (sigmoid only).
        divisor: What height and width of the net's images must be a multiple of: they are padded at the bottom and the
            right, by repeating their border, and the result is cropped.

    Raises:
        ExportError: The net cannot be copied.

    Example:
        >>> half = torch.full((3, 1, 1), 0.5)
        >>> deployed = Deployed(nn.Conv2d(3, 5, 1), half, half)
        >>> deployed(torch.zeros(2, 3, 45, 60, dtype=torch.uint8)).shape
        torch.Size([2, 45, 60])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: Tensor,
        std: Tensor,
        *,
        input: Input = "uint8",
        output: Output = "labels",
        activation: Activation = "softmax",
        threshold: float = 0.5,
        divisor: int = 32,
    ) -> None:
        super().__init__()
        try:
            # A copy is not compiled, and may lie in memory as it likes.
            self.net = copy.deepcopy(net).to(memory_format=torch.contiguous_format).eval()
        except (RuntimeError, TypeError) as error:
            raise ExportError(
                f"Expected a net that can be copied, got: {str(error).partition('. ')[0]:.300}. Keep no computed "
                "tensors or open files in it; of torch's norms of weights use those in torch.nn.utils.parametrizations."
            ) from error
        self.divisor = divisor
        self.input, self.output, self.activation, self.threshold = input, output, activation, threshold
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Labels, probabilities or logits of images (B, D, H, W)."""
        height, width = images.shape[-2:]
        inputs = normalise(images, self.mean, self.std) if self.input == "uint8" else images
        outputs = self.net(_padded(_padded(inputs, 2, height, self.divisor), 3, width, self.divisor))
        logits: Tensor = outputs["out"] if isinstance(outputs, dict) else outputs
        logits = logits[0] if isinstance(logits, list | tuple) else logits
        return self.finished(_first(_first(logits, 2, height), 3, width))

    def finished(self, logits: Tensor) -> Tensor:
        """Labels, probabilities or logits of logits (B, C, H, W)."""
        if self.output == "logits":
            return logits
        if self.output == "probabilities":
            return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()
        narrow = torch.uint8 if logits.shape[1] <= 256 else torch.int32
        if self.activation == "softmax":
            return logits.argmax(1).to(narrow)
        chosen = (logits.sigmoid() >= self.threshold).to(torch.uint8)
        return chosen[:, 0] if chosen.shape[1] == 1 else chosen


# Both pick rows by their numbers, whatever the size: padding and slicing would make the graph depend on whether there
# is something to pad or to cut off.


def _padded(images: Tensor, dim: int, side: int, divisor: int) -> Tensor:
    """With the last row or column repeated, up to a multiple of the divisor."""
    whole = divisor * ((side + divisor - 1) // divisor)
    return images.index_select(dim, torch.arange(whole, device=images.device).clamp(max=side - 1))


def _first(logits: Tensor, dim: int, side: int) -> Tensor:
    return logits.index_select(dim, torch.arange(side, device=logits.device))


def trace(deployed: Deployed, size: Size | None = None) -> ExportedProgram:
    """The graph of a net.

    Args:
        deployed: The net.
        size: Of all images; None: any.

    Raises:
        ExportError: The net has no such graph, as when it decides by what it computes.

    Example:
        >>> half = torch.full((3, 1, 1), 0.5)
        >>> program = trace(Deployed(nn.Conv2d(3, 5, 1), half, half))
        >>> program.module()(torch.zeros(1, 3, 45, 60, dtype=torch.uint8)).shape
        torch.Size([1, 45, 60])
    """
    # Sides that are no multiples of the divisor, differ, and leave more than a pixel at the end of the encoder.
    height, width = size or (11 * deployed.divisor + 1, 13 * deployed.divisor + 3)
    dtype = torch.uint8 if deployed.input == "uint8" else deployed.mean.dtype
    images = torch.zeros(2, len(deployed.mean), height, width, dtype=dtype)
    free = {0: Dim.DYNAMIC} if size else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with _quiet(), torch.no_grad():
            for small in (True, False):
                # A graph for small images too may ask for two images at once, where the net permutes its tensors. Then
                # one image matters more.
                with _symbols(small=small):
                    program = torch.export.export(deployed, (images,), dynamic_shapes={"images": free})
                if not small or _least(program, 0) < 2:
                    break
        return program
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever the net's own code, or torch on its way through it, may raise
        raise _refusal("cannot be recorded as a graph", error, size) from error


def _least(program: ExportedProgram, dim: int) -> int:
    """The smallest extent of a dimension of the images that a graph takes."""
    (images,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    side = images.meta["val"].shape[dim]
    return int(side) if isinstance(side, int) else max(1, int(program.range_constraints[side.node.expr].lower))


def onnx_bytes(program: ExportedProgram, about: str, size: Size | None = None) -> bytes:
    """A graph as an ONNX file.

    Args:
        program: The graph.
        about: The text of model.json, which goes into the file's metadata under "segfocal".
        size: As for `trace`.

    Raises:
        ExportError: The net uses what ONNX has not.
    """
    try:
        with _quiet(), _symbols(small=True), torch.no_grad():
            if any(node.target is _POOL for node in program.graph.nodes):
                program = program.run_decompositions({_POOL: _adaptive_avg_pool2d})
            written = torch.onnx.export(
                program,
                input_names=[json.loads(about)["input"]["name"]],
                output_names=[json.loads(about)["output"]["name"]],
                opset_version=OPSET,
                verbose=False,
            )
        assert written is not None, "nothing was asked to be written"
        model = written.model_proto
        model.metadata_props.add(key="segfocal", value=about)
        names = ["batch", "height", "width"] if size is None else ["batch"]
        for value in (*model.graph.input, *model.graph.output):
            free = [side for side in value.type.tensor_type.shape.dim if side.HasField("dim_param")]
            for side, name in zip(free, names, strict=True):
                side.dim_param = name
        return bytes(model.SerializeToString())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever the converter stumbles on
        raise _refusal("cannot be written as ONNX", error, size) from error


def torch_bytes(program: ExportedProgram, about: str) -> bytes:
    """A graph as a file for `torch.export.load`, with a text in it under "model.json"."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={"model.json": about})
    return file.getvalue()


def safetensors_bytes(net: nn.Module) -> bytes:
    """The weights of a net as a safetensors file, under the names that they have in the net."""
    from safetensors.torch import save

    # Copied, as the file has no place for weights that share memory, or lie otherwise than in rows.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in net.state_dict().items()
    }
    return bytes(save(weights, {"format": "pt"}))


def load_net(folder: str | Path) -> nn.Module:
    """The net that model.json in a folder describes, with the weights of weights.safetensors.

    The class that model.json names is imported and called: load what you trust.

    Raises:
        RuntimeError: The weights are not those of the net.
    """
    from jsonargparse import ArgumentParser
    from safetensors.torch import load_file

    folder = Path(folder)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=nn.Module)
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))["net"]
    net: nn.Module = parser.instantiate(parser.parse_object({"net": described})).net
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    return net.eval()


def _adaptive_avg_pool2d(features: Tensor, output_size: list[int]) -> Tensor:
    """As a product with a matrix per side, which ONNX can build from the size; torch's own way fixes the size."""
    if tuple(output_size) == (1, 1):
        return features.mean((-2, -1), keepdim=True)
    rows, columns = (
        _means(features, side, count) for side, count in zip(features.shape[-2:], output_size, strict=True)
    )
    return rows @ features @ columns.T


def _means(features: Tensor, side: int, count: int) -> Tensor:
    """(count, side): how much each pixel weighs in each mean."""
    cell, pixel = (torch.arange(n, device=features.device) for n in (count, side))
    first, end = cell * side // count, ((cell + 1) * side + count - 1) // count
    inside = (pixel >= first[:, None]) & (pixel < end[:, None])
    return inside.to(features.dtype) / (end - first)[:, None].to(features.dtype)


@contextmanager
def _symbols(*, small: bool) -> Iterator[None]:
    """While a graph is recorded, whether a side of 1, as features of small images have, is no case of its own."""
    config: Any = _config
    with config.patch(backed_size_oblivious=small):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and its converter tell about themselves; what goes wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refusal(what: str, error: Exception, size: Size | None) -> ExportError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    remedy = "" if size else "try a fixed size (--size H,W), or "
    advice = f"{remedy}take the weights alone (--format safetensors)"
    return ExportError(f"The net {what}: {lines[0].strip():.300} {advice[0].upper()}{advice[1:]}.")
