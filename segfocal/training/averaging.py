"""The moving average of the weights, which is what is scored and saved."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from segfocal.processes import in_pieces


class MovingAverage(WeightAveraging):
    """Exponential moving average (EMA) of all weights and buffers, updated after each optimiser step.

    Lightning's callback swaps it in for each validation, saves it as the checkpoint's state_dict, with what is trained
    beside it for a resume, and puts it into the task at the end. Until the averaging starts the average is a copy of
    the trained weights, so that what is scored and saved is never the net that training began with. In the n-th step
    from there the decay is at most (1 + n) / (10 + n), or one of 0.999 would remember the start for thousands of steps.
    Integer buffers are copied.

    Args:
        decay: Share of the average that an optimiser step keeps, in [0, 1).
        start: Share of all steps after which the averaging starts, in [0, 1).
    """

    def __init__(self, decay: float, start: float) -> None:
        super().__init__(multi_avg_fn=self._update)
        self._decay, self._start, self._keep = decay, start, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be averaged."""
        if in_pieces(trainer):
            raise ValueError(
                "Expected no `ema_decay` with trainer.strategy fsdp, whose processes hold a part of the weights each. "
                "Leave it out, or use ddp."
            )
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the average to where the weights are; Lightning made it before they were moved."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, *others: Any, **more: Any) -> None:  # noqa: ANN401
        """Update the average if an optimiser step has been taken."""
        averaged = trainer.global_step - self._start * trainer.estimated_stepping_batches
        self._keep = min(self._decay, (1 + averaged) / (10 + averaged)) if averaged > 0 else 0.0
        super().on_train_batch_end(trainer, *others, **more)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up the average and the trained weights; a checkpoint without an average is where it begins."""
        if self._average_model is None:  # only a fit needs both
            return
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
        else:
            self._average_model.module.load_state_dict(checkpoint["state_dict"])

    def _update(self, average: list[Tensor], trained: list[Tensor], _steps: Tensor) -> None:
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, trained, 1 - self._keep)
        else:
            torch._foreach_copy_(average, trained)
