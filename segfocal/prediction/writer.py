"""The callback that writes what Lightning's loop predicts."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer

from segfocal.data.rasters import georeference
from segfocal.data.tiffs import is_tiff
from segfocal.evaluation.pictures import Picture, as_picture
from segfocal.prediction.outputs import Outputs
from segfocal.processes import of_all
from segfocal.task import SegmentationTask


class PredictionWriter(Callback):
    """Writes every predicted batch; at the end all processes have its count and faults.

    Args:
        outputs: Where to write.

    Attributes:
        count: Number of images written.
        faults: What is wrong with those that could not be read, by name.
    """

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.count = 0
        self.faults: dict[str, str] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for probabilities if they are to be written."""
        assert isinstance(pl_module, SegmentationTask)
        pl_module.gives_probabilities = self.outputs.probabilities

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the labels (B, H, W) or (B, C, H, W) of one batch, and probabilities (B, C, H, W) if there are any."""
        labels, probabilities = outputs if isinstance(outputs, tuple) else (outputs, None)
        images = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
        for row, name in enumerate(batch["name"]):
            if fault := batch["fault"][row] if "fault" in batch else "":
                self.faults[name] = fault
                continue
            source = batch["path"][row] if "path" in batch else None
            predicted = labels[row].cpu().numpy()
            self.outputs.write(
                name,
                _source_image(images[row], source, predicted.shape[-2:]),
                predicted,
                probabilities=None if probabilities is None else probabilities[row].cpu().numpy(),
                where=georeference(Path(source), name) if source and is_tiff(Path(source)) else None,
            )
            self.count += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what all processes have written, and could not."""
        told = of_all((self.count, self.faults))
        self.count = sum(count for count, _ in told)
        self.faults = {name: fault for _, faults in told for name, fault in faults.items()}


def _source_image(image: NDArray[Any], path: str | None, size: tuple[int, ...]) -> Picture:
    """The source at its own size, or the image as the net saw it when there is no file, or one of other bands."""
    if path and image.shape[2] == 3 and image.shape[:2] != size:
        encoded = np.fromfile(path, dtype=np.uint8)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
        if decoded is not None:
            return np.asarray(decoded, dtype=np.uint8)
    return as_picture(image)
