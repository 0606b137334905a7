"""`segfocal fit --find_lr`: which learning rate to train with."""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer

from segfocal.commands.common import load, start_run
from segfocal.configuration import Configuration
from segfocal.finding import find_checkpoint
from segfocal.mistakes import ConfigError
from segfocal.task import NonFiniteLossError

STEPS, LOWEST, HIGHEST = 100, 1e-6, 1.0
_SMOOTH = 11  # losses of batches are noisy: the curve is their mean over so many
# An epoch has a step at least, so STEPS epochs are enough; nothing is scored in them.
_TRAINER: dict[str, Any] = {
    "max_epochs": STEPS,
    "max_steps": STEPS,
    "max_time": None,
    "fast_dev_run": False,
    "callbacks": None,
    "limit_val_batches": 0,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


class RisingRate(Callback):
    """Raises the learning rate from LOWEST to HIGHEST by the same factor each step, and notes the loss at each.

    Lightning's finder is not used: it sets one rate for all parameters, whatever `encoder_lr_factor` says, and takes
    the steepest fall over the rate itself, which is the noise at the smallest rates.
    """

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self._of_step: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Set the rate."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self._rate() * group["initial_lr"] / pl_module.hparams["lr"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *others: object) -> None:  # noqa: ANN401
        """Note the loss of a step, the mean of its accumulated batches, and stop where it has exploded."""
        self._of_step.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == len(self.losses):
            return
        self.lrs.append(self._rate())
        self.losses.append(sum(self._of_step) / len(self._of_step))
        self._of_step = []
        _, curve = smooth(self.lrs, self.losses)
        trainer.should_stop = curve.size > 0 and curve[-1] > 2 * curve[0]

    def _rate(self) -> float:
        return LOWEST * math.pow(HIGHEST / LOWEST, len(self.losses) / (STEPS - 1))


def find_lr(options: list[str]) -> None:
    """Train for some steps while the learning rate rises, plot the loss over it, and suggest a value; keep nothing."""
    configuration = Configuration("fit", options)
    config, data = configuration.config, configuration.datamodule
    checkpoint = config.ckpt_path and find_checkpoint(config.ckpt_path, Path(config.runs), config.name, "last")
    if checkpoint:
        load(configuration, checkpoint)
    data.setup("fit")
    run = start_run(configuration, options, "lr", checkpoint)
    config.trainer.update(Namespace(**_TRAINER))
    rising = RisingRate()
    trainer = configuration.build_trainer(run, [rising], logged=False)
    print(f"looking for a learning rate: {STEPS} steps from {LOWEST:g} to {HIGHEST:g}; {run}", flush=True)
    with contextlib.suppress(NonFiniteLossError):  # a rate too high is what is looked for
        trainer.fit(configuration.model, datamodule=data)
    lr = suggestion(rising.lrs, rising.losses)
    plot(run / "lr.png", rising.lrs, rising.losses, lr)
    if lr is None:
        raise ConfigError(f"The loss falls at no learning rate from {LOWEST:g} to {HIGHEST:g}: {run / 'lr.png'}.")
    print(f"learning rate: {lr:.2g}, where the loss falls fastest, see {run / 'lr.png'}")
    print(f"train with it: --model.lr {lr:.2g}")


def smooth(lrs: list[float], losses: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Learning rates and the mean of the losses around each, as far as there are enough of them."""
    count = len(losses)
    if count < _SMOOTH:
        return np.empty(0), np.empty(0)
    return np.array(lrs[_SMOOTH // 2 : count - _SMOOTH // 2]), np.convolve(
        losses, np.full(_SMOOTH, 1 / _SMOOTH), "valid"
    )


def suggestion(lrs: list[float], losses: list[float]) -> float | None:
    """The learning rate at which the loss falls fastest, per factor of the rate; None where it falls nowhere.

    Example:
        >>> lrs = [10 ** (i / 10 - 5) for i in range(50)]
        >>> losses = [2 - 1 / (1 + (1e-3 / lr) ** 2) for lr in lrs]
        >>> round(suggestion(lrs, losses), 4)
        0.001
    """
    rates, curve = smooth(lrs, losses)
    if len(curve) < 3:
        return None
    slope = np.gradient(curve, np.log(rates))
    return float(rates[slope.argmin()]) if slope.min() < 0 else None


def plot(path: Path, lrs: list[float], losses: list[float], lr: float | None) -> None:
    """The loss over the learning rate, with a line at the suggested one."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(lrs, losses, color="0.8", label="a step")
    rates, curve = smooth(lrs, losses)
    axes.plot(rates, curve, color="tab:blue", label=f"mean over {_SMOOTH} steps")
    if lr is not None:
        axes.axvline(lr, color="tab:red", linestyle="--", label=f"suggested: {lr:.2g}")
    if curve.size:  # what has exploded at the end would flatten the rest
        axes.set_ylim(0.95 * curve.min(), 1.25 * max(curve[0], curve.min()))
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=120)
