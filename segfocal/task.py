"""SegmentationTask: a net and a loss, trained and scored by Lightning."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix, MultilabelConfusionMatrix

from segfocal.evaluation.scores import Scores
from segfocal.inference import normalise, predict_logits

Activation = Literal["softmax", "sigmoid"]
Batch = Mapping[str, Any]


class NonFiniteLossError(RuntimeError):
    """The loss of a training batch is NaN or infinite; `names` are the samples of the batch."""

    def __init__(self, value: float, step: int, names: Sequence[str]) -> None:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        super().__init__(
            f"The loss is {value} at step {step}, on {shown or 'a batch without names'}. Look at these samples, lower "
            "model.lr, or set trainer.gradient_clip_val; with 16-mixed try bf16-mixed."
        )
        self.names = list(names)


class SegmentationTask(LightningModule):
    """Trains `net` with `loss`, and scores it with one confusion matrix per split.

    Batches are dicts: "image" uint8 (or float in 0..1) (B, D, H, W); "mask" integer class indices (B, H', W'), or dense
    0/1 masks (B, C, H', W') with sigmoid. Logits are resized to the mask, so that scores are at the mask's resolution.
    "name" lists the B samples; a batch that names none counts nowhere.

    Args:
        net: Maps normalised images (B, D, H, W) to logits (B, C, H, W), or to a dict with them under "out".
        loss: Maps (logits, mask) to a scalar.
        class_names: The C names. On the command line they come from the data section.
        activation: softmax for classes that exclude each other; sigmoid for one class against the background, or for
            classes that overlap. On the command line the loss gets the same value.
        ignore_index: Label of the pixels that count nowhere. On the command line it comes from the data section.
        lr: Peak learning rate of AdamW.
        encoder_lr_factor: Multiplies the learning rate of the net's encoder; below 1 for a pre-trained one.
        weight_decay: Decay of AdamW; norms and biases have none.
        warmup: Share of all steps over which the learning rate rises linearly to its peak, in 0..1.
        poly_power: The learning rate then falls as (1 - progress) ** poly_power.
        mean: Mean of the images per channel, in units of 0..1 (default: ImageNet's).
        std: Standard deviation of the images per channel, in units of 0..1 (default: ImageNet's).
        threshold: Probability from which a class counts as predicted (sigmoid only).
        size_divisor: Images are padded to a multiple of this before the net, and the logits cropped.
        channels_last: Run the net in the channels_last memory format, which is faster for most convolutions.

    Raises:
        ValueError: An option outside its range, or a loss whose activation or ignore_index is another one.

    Example:
        >>> from segfocal import FocalDiceLoss
        >>> task = SegmentationTask(nn.Conv2d(3, 2, 1), FocalDiceLoss(), ["background", "crack"])
        >>> task.predict_labels(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([1, 8, 8])
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        class_names: Sequence[str],
        *,
        activation: Activation = "softmax",
        ignore_index: int = 255,
        lr: float = 1e-3,
        encoder_lr_factor: float = 1.0,
        weight_decay: float = 0.01,
        warmup: float = 0.05,
        poly_power: float = 0.9,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        threshold: float = 0.5,
        size_divisor: int = 32,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        _require("lr", lr, lr > 0 and math.isfinite(lr), "> 0")
        _require("encoder_lr_factor", encoder_lr_factor, 0 <= encoder_lr_factor < math.inf, ">= 0")
        _require("weight_decay", weight_decay, 0 <= weight_decay < math.inf, ">= 0")
        _require("warmup", warmup, 0 <= warmup < 1, "in [0, 1), a share of the steps")
        _require("poly_power", poly_power, 0 <= poly_power < math.inf, ">= 0")
        _require("threshold", threshold, 0 < threshold < 1, "in (0, 1)")
        _require("size_divisor", size_divisor, size_divisor >= 1, ">= 1")
        _require("net", "none", any(p.requires_grad for p in net.parameters()), "to have a parameter to train")
        finite = all(math.isfinite(value) for value in (*mean, *std))
        _require("mean and std", [*mean, *std], finite, "to be finite")
        _require("std", list(std), len(std) == len(mean) and min(std) > 0, f"to be {len(mean)} numbers > 0, as `mean`")
        for name, value in (("activation", activation), ("ignore_index", ignore_index)):
            if getattr(loss, name, value) != value:
                raise ValueError(
                    f"Expected the loss to have {name} {value!r} like the task, got {getattr(loss, name)!r}. "
                    "Give both the same."
                )
        names, mean, std = list(class_names), list(mean), list(std)
        for name in ("alpha", "gamma"):
            given = getattr(loss, name, None)
            if isinstance(given, Tensor) and given.ndim == 1 and len(given) != len(names):
                raise ValueError(
                    f"Expected `{name}` of the loss to hold a number per class, {len(names)} for {names}, got "
                    f"{len(given)}. Give one per class, or a single number."
                )
        self.save_hyperparameters(
            {
                "class_names": names,
                "activation": activation,
                "ignore_index": ignore_index,
                "lr": lr,
                "encoder_lr_factor": encoder_lr_factor,
                "weight_decay": weight_decay,
                "warmup": warmup,
                "poly_power": poly_power,
                "mean": mean,
                "std": std,
                "threshold": threshold,
                "size_divisor": size_divisor,
                "channels_last": channels_last,
            }
        )
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.loss = loss
        self.class_names = names
        self.scores: dict[str, Scores] = {}
        self._random: list[dict[str, Any]] = []
        self._last: tuple[Tensor, int, Sequence[str]] | None = None
        self.register_buffer("_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self._confusion = nn.ModuleDict(
            {split: _confusion_matrix(activation, len(names), ignore_index, threshold) for split in ("val", "test")}
        )
        # Not Lightning's mean, which takes half of an odd number of images for an integer when there are two processes.
        self._losses = nn.ModuleDict({split: MeanMetric(nan_strategy="disable") for split in ("val", "test")})

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits (B, C, *size) of images (B, D, H, W), uint8 or float in 0..1; `size` defaults to (H, W)."""
        inputs = normalise(images, self._mean, self._std)
        if self.hparams["channels_last"]:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        try:
            logits = predict_logits(self.net, inputs, size, divisor=self.hparams["size_divisor"])
        except (RuntimeError, LookupError, TypeError) as error:
            if "memory" in str(error):  # not the net's fault
                raise
            shape = tuple(images.shape)
            raise ValueError(f"Expected the net to take images {shape}, but it raised: {error!s:.300}") from error
        if logits.shape[1] != len(self.class_names):
            raise ValueError(
                f"Expected the net to return one channel per class, {len(self.class_names)} for {self.class_names}, "
                f"got {logits.shape[1]}. Set the net's number of classes to {len(self.class_names)}."
            )
        return logits

    @torch.no_grad()
    def predict_labels(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Predicted labels of images (B, D, H, W), uint8.

        softmax: class indices (B, *size). sigmoid: 0/1 per class (B, C, *size), or (B, *size) for a single class.
        """
        return self._labels(self(images, size))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, logged as train/loss.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite. On a GPU one step later, so that nobody waits for it.
        """
        self._check_finite()
        loss = self._loss(batch)[0]
        self._last = (loss.detach(), self.global_step, batch.get("name", []))
        if loss.device.type == "cpu":
            self._check_finite()
        size = len(batch["image"])
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the confusion matrix of val."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the confusion matrix of test."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labels at the size of the source images, which is the same within a batch."""
        size = batch.get("size")
        return self.predict_labels(batch["image"], None if size is None else (int(size[0][0]), int(size[0][1])))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the random numbers' state of every process; refuses to save weights that a loss of NaN has spoilt."""
        self._check_finite()
        checkpoint["random"] = [_random_state()] * self.trainer.world_size
        if self.trainer.world_size > 1:
            distributed.all_gather_object(checkpoint["random"], _random_state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the random numbers' state until training starts."""
        self._random = checkpoint.get("random", [])

    def on_validation_epoch_end(self) -> None:
        """Scores val and logs val/miou and val/iou/CLASS."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Scores test and logs test/miou and test/iou/CLASS."""
        self._score("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with linear warm-up and polynomial decay, updated every step."""
        optimizer = torch.optim.AdamW(self._parameter_groups(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """After a resume, puts the configured rates and decays back, and the random numbers where they were.

        A checkpoint brings progress, not options. Of several processes each has random numbers of its own.
        """
        if len(self._random) == self.trainer.world_size:
            _set_random_state(self._random[self.global_rank])
        elif self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)
        self._random = []
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        for group, wanted in zip(optimizer.param_groups, self._parameter_groups(), strict=True):
            group["weight_decay"] = wanted["weight_decay"]
            group["initial_lr"] = wanted["lr"]
            group["lr"] = wanted["lr"] * self._lr_factor(schedule.last_epoch)
        schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def _check_finite(self) -> None:
        """Look at the last training loss, once."""
        if self._last is not None:
            (loss, step, names), self._last = self._last, None
            if not bool(loss.isfinite()):
                raise NonFiniteLossError(loss.item(), step, names)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        mask: Tensor = batch["mask"]
        logits = self(batch["image"], (mask.shape[-2], mask.shape[-1]))
        # Losses of ours take labels of any integer type; others, torch's and smp's among them, want int64.
        target = mask if hasattr(self.loss, "breakdown") else mask.long()
        loss: Tensor = self.loss(logits, target)
        return loss, logits

    def _labels(self, logits: Tensor) -> Tensor:
        if self.hparams["activation"] == "softmax":
            return logits.argmax(1)
        chosen: Tensor = (logits.float().sigmoid() >= self.hparams["threshold"]).long()
        return chosen[:, 0] if chosen.shape[1] == 1 else chosen

    def _evaluate(self, split: str, batch: Batch) -> None:
        loss, logits = self._loss(batch)
        count = len(batch.get("name", batch["image"]))
        self._mean_loss(split).update(loss if count else torch.zeros_like(loss), count)
        labels, mask = self._labels(logits), batch["mask"].long()
        if labels.ndim == 4 and mask.ndim == 3:
            mask = _one_vs_rest(mask, len(self.class_names), self.hparams["ignore_index"])
        if labels.ndim == 3 and mask.ndim == 4:
            mask = mask[:, 0]
        self._matrix(split).update(labels, mask)

    def _score(self, split: str) -> None:
        self.log(f"{split}/loss", self._mean_loss(split).compute(), prog_bar=True, sync_dist=True)
        self._mean_loss(split).reset()
        matrix = self._matrix(split).compute()
        self._matrix(split).reset()
        if matrix.shape == (2, 2) and len(self.class_names) == 1:
            matrix = matrix[None]
        scores = Scores(matrix.cpu().numpy(), self.class_names)
        self.scores[split] = scores
        # A split without a single labelled pixel has no mean; 0 lets the checkpoint's comparison go on.
        miou = 0.0 if math.isnan(scores.miou) else scores.miou
        self.log(f"{split}/miou", miou, prog_bar=True, sync_dist=True)
        for name, iou in zip(self.class_names, scores.iou.tolist(), strict=True):
            if not math.isnan(iou):
                self.log(f"{split}/iou/{name}", iou, sync_dist=True)

    def _mean_loss(self, split: str) -> Metric:
        metric = self._losses[split]
        assert isinstance(metric, Metric)
        return metric

    def _matrix(self, split: str) -> Metric:
        metric = self._confusion[split]
        assert isinstance(metric, Metric)
        return metric

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Four groups: encoder or not, with or without decay; empty ones are left out."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.net.named_parameters():
            encoder = name.split(".")[0] in {"encoder", "backbone"}
            groups.setdefault((encoder, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.hparams["lr"] * (self.hparams["encoder_lr_factor"] if encoder else 1.0),
                "weight_decay": self.hparams["weight_decay"] if decay else 0.0,
            }
            for (encoder, decay), parameters in groups.items()
        ]

    def _lr_factor(self, step: int) -> float:
        """Warm-up then poly: rises linearly to 1 and falls to 0 at the last step."""
        total = max(1.0, self.trainer.estimated_stepping_batches)
        _require("max_epochs or max_steps", total, total < math.inf, "to be set, as the schedule ends at the last step")
        rise: float = self.hparams["warmup"] * total
        if step < rise:
            return (step + 1) / (rise + 1)
        return float((1 - min(step, total) / total) ** self.hparams["poly_power"])


def _confusion_matrix(activation: Activation, classes: int, ignore_index: int, threshold: float) -> Metric:
    if activation == "softmax":
        _require("class_names", classes, classes >= 2, "to hold two or more for softmax; one class goes with sigmoid")
        return MulticlassConfusionMatrix(classes, ignore_index=ignore_index, validate_args=False)
    if classes == 1:
        return BinaryConfusionMatrix(threshold, ignore_index=ignore_index, validate_args=False)
    return MultilabelConfusionMatrix(classes, threshold, ignore_index=ignore_index, validate_args=False)


def _one_vs_rest(mask: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Class indices (B, H, W) to 0/1 per class (B, C, H, W), ignored in every class where ignored."""
    index = torch.arange(classes, device=mask.device).view(1, -1, 1, 1)
    return torch.where(mask[:, None] == ignore_index, ignore_index, (mask[:, None] == index).long())


def _random_state() -> dict[str, Any]:
    """Of PyTorch, NumPy and Python, as plain data and tensors."""
    _, keys, *numpy = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), *numpy],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    keys, *numpy = state["numpy"]
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():  # else another machine, where the same numbers cannot come
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *numpy))
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"Expected `{name}` {rule}, got {value}.")
