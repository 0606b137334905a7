"""Progress of a fit: a bar while it runs, a line per epoch that stays, and curves in TensorBoard."""

import math
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger


class Progress(RichProgressBar):
    """Lightning's progress bar, counting epochs from 1, with one line per epoch above it.

    The lines reach a log file too, where a bar cannot be seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._start = 0.0
        self._best = -math.inf
        self._validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._start = time.monotonic()
        for kept in trainer.checkpoint_callbacks:  # after a resume there is a best so far
            if isinstance(kept, ModelCheckpoint) and kept.monitor == "val/miou" and kept.best_model_score is not None:
                self._best = float(kept.best_model_score)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that this epoch has scores of its own."""
        super().on_validation_end(trainer, pl_module)
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's losses and mIoU, a star where it is the best so far, and the time since the start."""
        super().on_train_epoch_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        keys = ("train/loss", "val/loss", "val/miou") if self._validated else ("train/loss",)
        shown = [f"{key} {metrics[key]:.3f}" for key in keys if key in metrics]
        miou = metrics.get("val/miou", -math.inf) if self._validated else -math.inf
        self._validated = False
        star = " *" if miou > self._best else ""
        self._best = max(self._best, miou)
        seconds = int(time.monotonic() - self._start)
        epoch = f"epoch {trainer.current_epoch + 1:3d}/{trainer.max_epochs}"
        print("  ".join([epoch, *shown, f"{seconds // 60}:{seconds % 60:02d}"]) + star, flush=True)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The loss beside the bar, and nothing that the line per epoch says; one line, or the terminal jumps."""
        metrics = super().get_metrics(trainer, pl_module)
        return {"loss": metrics["train/loss_step"]} if "train/loss_step" in metrics else {}


class Curves(TensorBoardLogger):
    """TensorBoard's file in a run's directory, without a hparams.yaml beside config.yaml.

    Args:
        run: The directory.
    """

    def __init__(self, run: Path) -> None:
        super().__init__(run, name="", version="")

    def save(self) -> None:
        """Write what is logged so far."""
        self.experiment.flush()
