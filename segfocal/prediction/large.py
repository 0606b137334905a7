"""Images that are too large to be in memory: read, predicted and written window by window.

Shapes: H x W pixels of the image, D bands, C classes.
"""

import sys
from collections.abc import Iterator
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

from segfocal.data.rasters import Rows, georeference, open_rows, read_small
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
    where, planes = georeference(sample.image_path, sample.name), task.overlapping
    with open_rows(sample.image_path, sample.name, sample.bands) as rows:
        with outputs.rows(sample.name, rows.size, where, planes=planes) as files, _progress(bar, rows) as progress:
            for top, labels in rows_of_labels(task, precision, rows):
                for file, plane in zip(files, labels if planes else [labels], strict=True):
                    file.write(plane)
                progress(top + labels.shape[-2])
        factor = min(1.0, OVERLAY / max(rows.size))
        small = max(1, round(rows.size[0] * factor)), max(1, round(rows.size[1] * factor))
        picture = as_picture(rows.thumbnail(small))
    written = outputs.written_masks(sample.name, planes=planes)
    masks = np.stack([read_small(path, path.name, small)[..., 0] for path in written])
    outputs.write_overlay(sample.name, picture, masks if planes else masks[0])


def rows_of_labels(task: SegmentationTask, precision: Precision, rows: Rows) -> Iterator[tuple[int, Array]]:
    """The labels of an image from the top to the bottom: the first row, and (rows, W) or (C, rows, W) from there on."""

    def read(top: int, end: int) -> Tensor:
        return torch.from_numpy(rows(top, end).transpose(2, 0, 1))[None]

    predicted = task.predict_rows(read, rows.size, by_windows(task.inference))
    while True:
        with precision.predict_step_context():  # not while the caller writes
            found = next(predicted, None)
        if found is None:
            return
        yield found[0], found[1].to(torch.int32).cpu().numpy()


@contextmanager
def _progress(bar: bool, rows: Rows) -> Iterator[Any]:
    """A function that is told how many rows are finished."""
    with Progress(console=Console(file=sys.stderr), transient=True, disable=not (bar and sys.stderr.isatty())) as shown:
        of_rows = shown.add_task(rows.name, total=rows.size[0])
        yield lambda finished: shown.update(of_rows, completed=finished)
