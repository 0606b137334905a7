"""A trained net as a function: from an image to the mask that `segfocal predict` writes.

Shapes: H x W pixels of the image, D bands, C classes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor

from segfocal.checkpoints import CheckpointError, load_checkpoint, net_state
from segfocal.configuration import Configuration
from segfocal.data import SegmentationDataModule
from segfocal.data.datasets import resize_image
from segfocal.data.files import DataError
from segfocal.data.images import Bands, read_image
from segfocal.data.rasters import open_rows
from segfocal.data.samples import FileSample
from segfocal.data.tiffs import is_tiff
from segfocal.data.unlabelled import look_at
from segfocal.finding import Kind, find_checkpoint, run_of
from segfocal.mistakes import import_path
from segfocal.prediction.large import rows_of_labels
from segfocal.task import SegmentationTask
from segfocal.training.random_state import random_state, set_random_state

Array = NDArray[Any]


@dataclass(frozen=True)
class _Data:
    """What a configuration need know of the data, which may be gone."""

    class_names: list[str]
    ignore_index: int
    in_channels: int


class Predictor:
    """Predicts masks, equal to those that `segfocal predict` writes.

    Args:
        task: The net, with its weights.
        bands: How images are read, and how many bands they have.
        net_size: (H, W) to which images are resized for the net; None keeps them.
        precision: What it computes in.

    Attributes:
        class_names: The C names, in the order of their indices.

    Example:
        >>> from segfocal import FocalDiceLoss
        >>> task = SegmentationTask(torch.nn.Conv2d(3, 5, 1), FocalDiceLoss(), ["a", "b", "c", "d", "e"])
        >>> predict = Predictor(task)
        >>> mask = predict(np.zeros((90, 120, 3), np.uint8))
        >>> mask.shape, mask.dtype
        ((90, 120), dtype('uint8'))
        >>> predict.probabilities(np.zeros((90, 120, 3), np.uint8)).shape
        (5, 90, 120)
    """

    def __init__(
        self,
        task: SegmentationTask,
        bands: Bands | None = None,
        net_size: tuple[int, int] | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.task, self.net_size = task.eval(), net_size
        self.bands = Bands(len(task.hparams["mean"])) if bands is None else bands
        self.precision = Precision() if precision is None else precision
        self.class_names = list(task.class_names)
        self._type = np.uint8 if task.overlapping or len(self.class_names) <= 256 else np.uint16

    @classmethod
    def from_run(
        cls, run: str | Path, *, checkpoint: Kind = "best", device: str | torch.device | None = None
    ) -> "Predictor":
        """The net of a run, from its config.yaml and checkpoint; the data that it was trained on need not be there.

        Args:
            run: The directory of a fit, such as runs/x/000, or runs/x for its newest one, or a checkpoint in it.
            checkpoint: best, by mIoU on val, or last.
            device: Where to compute; None: on a GPU if there is one.

        Raises:
            CheckpointError: There is no such checkpoint, it does not fit, or lies in no run.
            ConfigError: The run's config.yaml cannot be read, or names what is not there.
            ValueError: A `checkpoint` that is neither best nor last, or a `device` that is not there.
        """
        if checkpoint not in ("best", "last"):
            raise ValueError(
                f"Expected `checkpoint` to be best or last, got {checkpoint!r}. Give the path of another one as `run`."
            )
        place = _device(device)
        path = find_checkpoint(str(run), Path(), None, checkpoint)
        if (folder := run_of(path)) is None:
            raise CheckpointError(f"Expected `run` to hold config.yaml and checkpoints/, got {run}. Give the run.")
        saved = load_checkpoint(path)
        options = saved["hyper_parameters"]
        with _aside():
            configuration = Configuration("predict", ["--config", str(folder / "config.yaml")], build="nothing")
            config = configuration.config
            configuration.build_task(_Data(options["class_names"], options["ignore_index"], len(options["mean"])))
            task = configuration.model
            task.net.load_state_dict(net_state(saved, path, task.net, task.class_names))
            precision = _precision(place, config.trainer.precision)
        moved: Any = precision.convert_module(task).to(place)
        bands, net_size = _how_images_are_read(config.data, len(options["mean"]))
        return cls(moved, bands, net_size, precision)

    def __call__(self, image: Array | str | Path) -> Array:
        """The mask of an image, at its size.

        Args:
            image: Pixels (H, W, D) uint8, red first; or (H, W) of a single band; or a file. A TIFF that is too large to
                be in memory is read by windows, as `segfocal predict` does.

        Returns:
            Class indices (H, W) in the narrowest unsigned type; of a single class 0 and 1; of classes that overlap 0
            and 1 (C, H, W).

        Raises:
            DataError: The file cannot be read.
            ValueError: Neither a path nor an array, or one of another type or shape.
        """
        if isinstance(image, str | Path) and (large := self._large(_path(image))) is not None:
            return large
        pixels, size = self._pixels(image)
        with self.precision.predict_step_context():
            labels = self.task.predict_labels(pixels, size)[0]
        return labels.cpu().numpy().astype(self._type)

    def probabilities(self, image: Array | str | Path) -> Array:
        """The probabilities of the classes, (C, H, W) float32; of a whole image, however large it is.

        Raises:
            DataError: The file cannot be read.
            ValueError: Neither a path nor an array, or one of another type or shape.
        """
        pixels, size = self._pixels(image)
        with self.precision.predict_step_context():
            found: Array = self.task.predict_probabilities(pixels, size)[1][0].cpu().numpy()
        return found

    def _large(self, path: Path) -> Array | None:
        """The mask of a file that is read by windows; None if it is not."""
        if not is_tiff(path):
            return None
        sample = FileSample(path.name, path, None, bands=self.bands)
        if not look_at([sample], by_windows=self.net_size is None).large:
            return None
        with open_rows(path, path.name, self.bands) as rows:
            shape = (len(self.class_names), *rows.size) if self.task.overlapping else rows.size
            mask = np.empty(shape, self._type)
            for top, labels in rows_of_labels(self.task, self.precision, rows, rows.size):
                mask[..., top : top + labels.shape[-2], :] = labels
        return mask

    def _pixels(self, image: Array | str | Path) -> tuple[Tensor, tuple[int, int]]:
        """The image as a batch on the device, resized for the net, and its own size."""
        if isinstance(image, str | Path):
            pixels = read_image(_path(image), Path(image).name, self.bands)
        elif isinstance(image, np.ndarray):
            pixels = image[..., None] if image.ndim == 2 else image
        else:
            raise ValueError(
                f"Expected `image` to be a path or a NumPy array of uint8 (H, W, {self.bands.count}), got "
                f"{type(image).__module__}.{type(image).__qualname__}. Give numpy.asarray of its pixels, or its file."
            )
        if pixels.ndim != 3 or pixels.shape[2] != self.bands.count or pixels.dtype != np.uint8 or not pixels.size:
            raise ValueError(
                f"Expected `image` of uint8 (H, W, {self.bands.count}), got {pixels.dtype} {pixels.shape}. "
                "Give the path of its file, which is read as `segfocal predict` does."
            )
        resized = resize_image(pixels, self.net_size).transpose(2, 0, 1).copy()  # torch wants writable memory
        return torch.from_numpy(resized)[None].to(self.task.device), (pixels.shape[0], pixels.shape[1])


def _path(image: str | Path) -> Path:
    """The path of an image, which the system can look for."""
    try:
        Path(image).stat()
    except FileNotFoundError:  # told where it is read
        pass
    except (OSError, ValueError) as error:  # a name too long, a NUL in it
        raise DataError(f"{image!s:.80}: is not a path that can be read ({error!s:.80}). Correct `image`.") from error
    return Path(image)


def _device(wanted: str | torch.device | None) -> torch.device:
    """Where to compute, which must be there."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted is None else wanted)
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError, TypeError) as error:  # unknown, not built in, not plugged in
        reason = str(error).partition("\n")[0][:160]
        raise ValueError(
            f"Expected `device` to be one that torch has here, such as cpu, got {wanted!r} ({reason}). Correct it."
        ) from error
    return device


@contextmanager
def _aside() -> Iterator[None]:
    """Leave the caller's random numbers, which the configuration seeds, as they are, and Lightning's advice unsaid."""
    state, logs = random_state(), [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*GPU available but not used")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        set_random_state(state)


def _precision(device: torch.device, name: Any) -> Precision:  # noqa: ANN401
    """Lightning's plugin for the trainer's option."""
    off: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator=device.type, devices=1, precision=name, **off).precision_plugin


def _how_images_are_read(data: Namespace, count: int) -> tuple[Bands, tuple[int, int] | None]:
    """From the data section; a data module of somebody else's says nothing but the number of bands."""
    options = data.get("init_args", Namespace())
    if not issubclass(import_path(data.class_path), SegmentationDataModule):
        return Bands(count), None
    bands = Bands(options["in_channels"], None if options["value_range"] is None else tuple(options["value_range"]))
    return bands, None if options["size"] is None else tuple(options["size"])
