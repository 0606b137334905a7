"""Images that are too large to be in memory: read, predicted and written window by window.

Shapes: H x W pixels of the image, D bands, C classes.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.plugins.precision import Precision
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from segfocal.data.rasters import Rows, georeference, open_rows
from segfocal.data.samples import FileSample
from segfocal.evaluation.pictures import as_picture
from segfocal.inference import Inference
from segfocal.prediction.outputs import Outputs
from segfocal.task import SegmentationTask

Array = NDArray[Any]

WINDOW = (512, 512)  # where none is configured; what most nets are trained on is of this size or smaller
OVERLAY = 2048  # pixels of the longer side of an overlay, which is there to be looked at


def by_windows(how: Inference) -> Inference:
    """The options with a window, which a large image needs."""
    return how if how.window is not None else replace(how, window=WINDOW)


def predict_large(
    task: SegmentationTask, precision: Precision, sample: FileSample, outputs: Outputs, *, bar: bool = False
) -> None:
    """Predict a TIFF, and write its mask and a smaller overlay. Memory is that of one row of windows.

    Args:
        task: The net, on its device.
        precision: What it computes in.
        sample: The image.
        outputs: Where to write.
        bar: Whether to show a progress bar if there is a terminal.

    Raises:
        DataError: The image cannot be read to its end; nothing is written.
    """
    where = georeference(sample.image_path, sample.name)
    with open_rows(sample.image_path, sample.name, sample.bands) as rows:
        picture, mask = _Small(rows.size), _Small(rows.size)

        def read(top: int, end: int) -> Array:
            pixels = rows(top, end)
            picture.add(top, np.moveaxis(pixels, -1, 0))
            return pixels

        planes = task.overlapping
        with outputs.rows(sample.name, rows.size, where, planes=planes) as files, _progress(bar, rows) as progress:
            for top, labels in rows_of_labels(task, precision, read, rows.size):
                for file, plane in zip(files, labels if planes else [labels], strict=True):
                    file.write(plane)
                mask.add(top, labels)
                progress(top + labels.shape[-2])
    outputs.write_overlay(sample.name, as_picture(np.moveaxis(picture.pixels(), 0, -1)), mask.pixels())


def rows_of_labels(
    task: SegmentationTask, precision: Precision, read: Callable[[int, int], Array], size: tuple[int, int]
) -> Iterator[tuple[int, Array]]:
    """The labels of an image from the top to the bottom: the first row, and (rows, W) or (C, rows, W) from there on.

    Args:
        task: The net, on its device.
        precision: What it computes in.
        read: Gives the rows from `top` up to `end`, (end - top, W, D), uint8.
        size: (H, W).
    """

    def images(top: int, end: int) -> Tensor:
        return torch.from_numpy(read(top, end).transpose(2, 0, 1))[None]

    predicted = task.predict_rows(images, size, by_windows(task.inference))
    while True:
        with precision.predict_step_context():  # not while the caller writes
            found = next(predicted, None)
        if found is None:
            return
        yield found[0], found[1].to(torch.int32).cpu().numpy()


class _Small:
    """An image of at most `OVERLAY` pixels on its longer side, of the nearest of the pixels that pass by.

    Not read from the file once more: GDAL decodes the tiles of a row anew for each row of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        factor = min(1.0, OVERLAY / max(size))
        self._rows, self._columns = (
            ((np.arange(count) + 0.5) * length / count).astype(np.int64)
            for length in size
            for count in [max(1, round(length * factor))]
        )
        self._found: dict[int, Array] = {}

    def add(self, top: int, rows: Array) -> None:
        """Take what is wanted of the rows (..., rows, W) from `top` on; they may come twice."""
        end = top + rows.shape[-2]
        for row in self._rows[(self._rows >= top) & (self._rows < end)].tolist():
            if row not in self._found:
                self._found[row] = rows[..., row - top, self._columns]

    def pixels(self) -> Array:
        """(..., h, w)."""
        return np.stack([self._found[row] for row in self._rows.tolist()], axis=-2)


@contextmanager
def _progress(bar: bool, rows: Rows) -> Iterator[Any]:
    """A function that is told how many rows are finished."""
    with Progress(console=Console(file=sys.stderr), transient=True, disable=not (bar and sys.stderr.isatty())) as shown:
        of_rows = shown.add_task(rows.name, total=rows.size[0])
        yield lambda finished: shown.update(of_rows, completed=finished)
