"""Pictures of what the net sees and says, while it trains."""

from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from segfocal.evaluation.pictures import Colour, as_picture
from segfocal.evaluation.samples import LabelPainter
from segfocal.evaluation.sheets import contact_sheet


class SampleOverlays(Callback):
    """Each n epochs, the first images of the validation split with their truth and their prediction, as one picture.

    It is written to samples/epoch_005.png of the run's directory, and to TensorBoard if that is among the loggers.

    Args:
        every_n_epochs: Epochs from one picture to the next.
        count: Number of images in it.

    Raises:
        ValueError: A number below 1.

    Example:
        >>> SampleOverlays(count=0)
        Traceback (most recent call last):
        ...
        ValueError: Expected `count` >= 1, got 0. It is a number of images.
    """

    def __init__(self, every_n_epochs: int = 5, count: int = 4) -> None:
        for name, value, unit in (("every_n_epochs", every_n_epochs, "epochs"), ("count", count, "images")):
            if value < 1:
                raise ValueError(f"Expected `{name}` >= 1, got {value}. It is a number of {unit}.")
        self.every_n_epochs, self.count = every_n_epochs, count
        self._rows: list[list[Any]] = []
        self._names: list[str] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a picture."""
        self._rows, self._names = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add rows to it, until there are enough; `outputs` are the labels (B, H, W) or (B, C, H, W)."""
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not training or not trainer.is_global_zero or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        names, palette = _classes(trainer, pl_module)
        there = len(batch.get("name", outputs))  # of several processes one may have a batch that counts nowhere
        for row in range(min(self.count - len(self._rows), there)):
            image = batch["image"][row].permute(1, 2, 0).cpu().numpy()
            truth, predicted = batch["mask"][row].cpu().numpy(), outputs[row].cpu().numpy()
            if truth.ndim == 3 and len(names) == 1:
                truth = truth[0]
            painter = LabelPainter(names, palette, pl_module.hparams["ignore_index"])
            self._rows.append([as_picture(image), painter.paint(image, truth), painter.paint(image, predicted)])
            self._names.append(str(batch["name"][row]) if "name" in batch else f"image {len(self._rows)}")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        if not self._rows:
            return
        epoch = trainer.current_epoch + 1
        names, palette = _classes(trainer, pl_module)
        legend = LabelPainter(names, palette, pl_module.hparams["ignore_index"]).legend
        sheet = contact_sheet(self._rows, ("image", "truth", "prediction"), legend, names=self._names)
        path = Path(trainer.default_root_dir) / "samples" / f"epoch_{epoch:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", sheet, trainer.global_step, dataformats="HWC")


def _classes(trainer: Trainer, task: LightningModule) -> tuple[list[str], list[Colour]]:
    """Their names and colours; the colours are those of the data module if it has any."""
    names: list[str] = task.hparams["class_names"]
    palette = getattr(getattr(trainer, "datamodule", None), "palette", None)
    if palette is None:
        wheel = matplotlib.colormaps["turbo"].resampled(len(names))
        palette = [tuple(round(255 * channel) for channel in wheel(index)[:3]) for index in range(len(names))]
    return names, list(palette)
