"""SegmentationTask: a net and a loss, trained and scored by Lightning."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from segfocal.evaluation.probabilities import Probabilities
from segfocal.evaluation.scores import Scores
from segfocal.inference import Inference, infer, normalise, predict_all_logits, predict_logits, slide
from segfocal.pixels import Activation
from segfocal.processes import in_pieces, of_all
from segfocal.training.averaging import MovingAverage
from segfocal.training.calls import call_loss, call_net
from segfocal.training.encoder import Freezer, decayed_names, encoder_of, parameter_groups
from segfocal.training.options import check_options, require
from segfocal.training.random_state import random_state, set_random_state
from segfocal.training.schedules import Schedule, lr_factor
from segfocal.training.scoring import Scorer
from segfocal.training.shares import loss_of_classes

Batch = Mapping[str, Any]
Outputs = TypeVar("Outputs")
WHOLE = Inference()  # images as they are
ROWS = 64  # whose labels are computed at once where an image is too large: of sigmoid, these take several tensors


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
        net: Maps normalised images (B, D, H, W) to logits (B, C, H, W), to a dict with them under "out", or to a list
            that begins with them. Under "aux" of the dict, or as further entries of the list, there may be auxiliary
            logits, which count in training only.
        loss: Maps (logits, mask) to a scalar.
        class_names: The C names. On the command line they come from the data section.
        activation: softmax for classes that exclude each other; sigmoid for one class against the background, or for
            classes that overlap. On the command line the loss gets the same value.
        ignore_index: Label of the pixels that count nowhere. On the command line it comes from the data section.
        lr: Peak learning rate of AdamW. `segfocal fit --find_lr` suggests one.
        schedule: How the learning rate falls after the warm-up: poly, as (1 - progress) ** poly_power; cosine, along
            half a cosine; one_cycle, the same, and it also rises along one: give it a warmup of about 0.3.
        warmup: Share of all steps over which the learning rate rises to its peak, in 0..1.
        poly_power: The exponent of poly.
        encoder_lr_factor: Multiplies the learning rate of the net's encoder; below 1 for a pre-trained one.
        freeze_encoder: Number of epochs for which the net's encoder (or backbone) stays as it is, its norms' statistics
            included, while the rest trains.
        weight_decay: Decay of AdamW; norms and biases have none.
        aux_weight: Weight of the loss of each auxiliary output of the net, if it has any.
        ema_decay: Average the weights over the steps, and score and save the average: the share of it that a step
            keeps, such as 0.999. None: no average.
        ema_start: Share of all steps after which the averaging starts, in 0..1.
        compile: Compile the net with torch.compile: minutes at the start, and faster steps. Needs a C++ compiler.
        mean: Mean of the images per channel, in units of 0..1 (default: ImageNet's).
        std: Standard deviation of the images per channel, in units of 0..1 (default: ImageNet's).
        threshold: Probability from which a class counts as predicted (sigmoid only).
        size_divisor: Images are padded to a multiple of this before the net, and the logits cropped.
        channels_last: Run the net in the channels_last memory format, which is faster for most convolutions.
        inference: How the net is run on an image where it is not trained, in the validation of a fit too: by windows,
            averaged over flips and scales.

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
        schedule: Schedule = "poly",
        warmup: float = 0.05,
        poly_power: float = 0.9,
        encoder_lr_factor: float = 1.0,
        freeze_encoder: int = 0,
        weight_decay: float = 0.01,
        aux_weight: float = 0.4,
        ema_decay: float | None = None,
        ema_start: float = 0.0,
        compile: bool = False,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        threshold: float = 0.5,
        size_divisor: int = 32,
        channels_last: bool = True,
        inference: Inference = WHOLE,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _OPTIONS}
        super().__init__()
        options = {name: list(value) if name in _LISTS else value for name, value in given.items()}
        # As it was saved, if the task is made of a checkpoint's hyper-parameters.
        self.inference = Inference(**inference) if isinstance(inference, Mapping) else inference
        options["inference"] = self.inference.plain()
        check_options(net, loss, options)
        self.save_hyperparameters(options)
        self.loss = loss
        self.class_names: list[str] = options["class_names"]
        self._build_net(net)
        self.scores: dict[str, Scores] = {}
        self.probabilities: dict[str, Probabilities] = {}
        how = activation, ignore_index, threshold
        self._scorers = nn.ModuleDict({split: Scorer(self.class_names, *how) for split in ("val", "test")})
        self.gives_probabilities = False  # whether `predict_step` does
        self._resumed: dict[str, Any] | None = None
        self._last: tuple[Tensor, int, Sequence[str]] | None = None

    def _build_net(self, net: nn.Module) -> None:
        self.net = net.to(memory_format=torch.channels_last) if self.hparams["channels_last"] else net
        self._decayed = decayed_names(net)
        encoder = encoder_of(net) if self.hparams["freeze_encoder"] else None
        self._freezer = Freezer(encoder) if encoder is not None else None
        for name in ("mean", "std"):
            self.register_buffer(f"_{name}", torch.tensor(self.hparams[name]).view(-1, 1, 1), persistent=False)
        if self.hparams["compile"]:
            # In place, which keeps the names of the weights. A graph per size of a batch: with one for all sizes their
            # order would decide which kernels run, and a resumed fit would differ in the last bits.
            self.net.compile(dynamic=False)

    @property
    def overlapping(self) -> bool:
        """Whether labels are 0 and 1 per class, (B, C, H, W)."""
        return self.hparams["activation"] == "sigmoid" and len(self.class_names) > 1

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits (B, C, *size) of images (B, D, H, W), uint8 or float in 0..1; `size` defaults to (H, W).

        By whole images or by windows, as `inference` says.
        """
        inputs, activation = self._inputs(images), self.hparams["activation"]
        size = None if size is None else (size[0], size[1])  # which may be a torch.Size
        return infer(self._logits, inputs, self.inference, size, activation=activation)

    @torch.no_grad()
    def predict_labels(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Predicted labels of images (B, D, H, W), uint8.

        softmax: class indices (B, *size). sigmoid: 0/1 per class (B, C, *size), or (B, *size) for a single class.
        """
        return self._scorer("val").labels(self(images, size))

    @torch.no_grad()
    def predict_rows(
        self, read: Callable[[int, int], Tensor], size: tuple[int, int], how: Inference
    ) -> Iterator[tuple[int, Tensor]]:
        """Labels of an image that is too large to be in memory, by windows, from the top to the bottom.

        Args:
            read: Gives the rows from `top` up to `end` as images (1, D, end - top, W), uint8 or float in 0..1. Neither
                falls from one call to the next.
            size: (H, W) of the image.
            how: The options of inference; there must be a window.

        Yields:
            The first row, and the labels of the rows from there on, (rows, W) or (C, rows, W), without gaps.
        """
        activation, scorer = self.hparams["activation"], self._scorer("val")
        for top, logits in slide(
            self._logits, lambda *rows: self._inputs(read(*rows)), size, how, activation=activation
        ):
            for first in range(0, logits.shape[-2], ROWS):
                yield top + first, scorer.labels(logits[..., first : first + ROWS, :])[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, with that of auxiliary outputs, logged as train/loss.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite. On a GPU one step later, so that nobody waits for it.
        """
        self._check_finite()
        size = batch["mask"].shape[-2:]
        logits, *auxiliary = self._run_net(predict_all_logits, self._inputs(batch["image"]), size)
        self._check_channels(logits)
        loss = self._loss(logits, batch["mask"])
        for further in auxiliary:
            loss = loss + self.hparams["aux_weight"] * self._loss(further, batch["mask"])
        self._last = (loss.detach(), self.global_step, batch.get("name", []))
        if loss.device.type == "cpu":
            self._check_finite()
        count = len(batch["image"])
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=count, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the confusion matrix of val, and returns the labels."""
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the confusion matrix of test, and returns the labels."""
        return self._evaluate("test", batch)

    @torch.no_grad()
    def predict_probabilities(self, images: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """As `predict_labels`, and after the labels the probabilities (B, C, *size), float32."""
        logits = self(images, size)
        wide = logits.float()
        probabilities = wide.softmax(1) if self.hparams["activation"] == "softmax" else wide.sigmoid()
        return self._scorer("val").labels(logits), probabilities

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor | tuple[Tensor, Tensor]:
        """Labels at the size of the source images, which is the same within a batch; and probabilities if wanted."""
        size = None if "size" not in batch else (int(batch["size"][0][0]), int(batch["size"][0][1]))
        predict = self.predict_probabilities if self.gives_probabilities else self.predict_labels
        return predict(batch["image"], size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the random numbers' state of every process, and its gradients while they are being accumulated.

        Refuses to save weights that a batch without a finite loss has spoilt.
        """
        self._check_finite()
        checkpoint["random"] = of_all(random_state())
        batches = self.trainer.fit_loop.epoch_loop.batch_progress
        accumulating = batches.current.ready % self.trainer.accumulate_grad_batches and not batches.is_last_batch
        if accumulating and not in_pieces(self.trainer):
            grads = {name: parameter.grad for name, parameter in self.named_parameters()}
            checkpoint["gradients"] = of_all({name: grad.cpu() for name, grad in grads.items() if grad is not None})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what `on_save_checkpoint` added until training starts."""
        self._resumed = {"random": checkpoint.get("random", []), "gradients": checkpoint.get("gradients", [])}

    def on_validation_epoch_end(self) -> None:
        """Scores val and logs val/miou, val/iou/CLASS, and val/loss_share/CLASS for a loss with a breakdown."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Scores test and logs test/miou and so on."""
        self._score("test")

    def configure_callbacks(self) -> list[Callback]:
        """The moving average of the weights, if there is to be one."""
        keep = self.hparams["ema_decay"]
        return [] if keep is None else [MovingAverage(keep, self.hparams["ema_start"])]

    def setup(self, stage: str) -> None:
        """With fsdp the weights alone are not channels last: torch would mix up their moments when a fit is resumed."""
        if in_pieces(self.trainer):
            self.net.to(memory_format=torch.contiguous_format)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule that is updated every step."""
        optimizer = torch.optim.AdamW(self._parameter_groups(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as the trainer says; with fsdp to the norm of all pieces, which Lightning does not."""
        if gradient_clip_val and gradient_clip_algorithm != "value" and in_pieces(self.trainer):
            pieces: Any = self.trainer.strategy.model
            pieces.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """After a resume, puts the configured rates and decays back, and random numbers and gradients as they were.

        A checkpoint brings progress, not options. Of several processes each has random numbers of its own.
        """
        self._freeze()  # here too: an epoch that is taken up in its midst does not start
        resumed, self._resumed = self._resumed, None
        states = resumed["random"] if resumed is not None else []
        if len(states) == self.trainer.world_size:
            set_random_state(states[self.global_rank])
        elif self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)
        if resumed is None:
            return
        parameters = dict(self.named_parameters())
        if len(resumed["gradients"]) == self.trainer.world_size:
            for name, gradient in resumed["gradients"][self.global_rank].items():
                parameters[name].grad = gradient.to(parameters[name].device)
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        for group, wanted in zip(optimizer.param_groups, self._parameter_groups(), strict=True):
            group["weight_decay"] = wanted["weight_decay"]
            group["initial_lr"] = wanted["lr"]
            group["lr"] = wanted["lr"] * self._lr_factor(schedule.last_epoch)
        schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def on_train_epoch_start(self) -> None:
        """Freezes the encoder, or lets it train."""
        self._freeze()

    def on_train_end(self) -> None:
        """Leaves no part of the net frozen."""
        if self._freezer is not None:
            self._freezer.set(False)

    def _freeze(self) -> None:
        if self._freezer is not None:
            self._freezer.set(self.current_epoch < self.hparams["freeze_encoder"])

    def _check_finite(self) -> None:
        """Look at the last training loss, once."""
        if self._last is not None:
            (loss, step, names), self._last = self._last, None
            if not bool(loss.isfinite()):
                raise NonFiniteLossError(loss.item(), step, names)

    def _inputs(self, images: Tensor) -> Tensor:
        """What the net sees of images: normalised, on the task's device."""
        return normalise(images.to(self.device), self._mean, self._std)

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self._run_net(predict_logits, inputs, None)
        self._check_channels(logits)
        return logits

    def _run_net(self, predict: Callable[..., Outputs], inputs: Tensor, size: Sequence[int] | None) -> Outputs:
        if self.hparams["channels_last"]:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return call_net(predict, self.net, inputs, size, self.hparams["size_divisor"])

    def _check_channels(self, logits: Tensor) -> None:
        if logits.shape[1] != len(self.class_names):
            raise ValueError(
                f"Expected the net to return one channel per class, {len(self.class_names)} for {self.class_names}, "
                f"got {logits.shape[1]}. Set the net's number of classes to {len(self.class_names)}."
            )

    def _loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        loss: Tensor = call_loss(self.loss, logits, self._target(mask))
        return loss

    def _target(self, mask: Tensor) -> Tensor:
        """Losses of ours take labels of any integer type; others, torch's and smp's among them, want int64."""
        return mask if hasattr(self.loss, "breakdown") else mask.long()

    def _evaluate(self, split: str, batch: Batch) -> Tensor:
        mask, scorer = batch["mask"], self._scorer(split)
        count = len(batch.get("name", batch["image"]))
        logits = self(batch["image"], mask.shape[-2:])
        if breakdown := getattr(self.loss, "breakdown", None):
            parts = call_loss(breakdown, logits, mask)
            loss = parts["total"]
            scorer.losses.update(count * loss_of_classes(parts, getattr(self.loss, "classes", None)))
        else:
            loss = self._loss(logits, mask)
        scorer.mean_loss.update(loss if count else torch.zeros_like(loss), count)
        # Not in the validations of a fit, which want to be short.
        return scorer.update(logits, mask, probabilities=self.trainer.state.fn != TrainerFn.FITTING)

    def _score(self, split: str) -> None:
        scores, mean_loss, shares, probabilities = self._scorer(split).result()
        self.log(f"{split}/loss", mean_loss, prog_bar=True, sync_dist=True)
        self.scores[split] = scores
        if probabilities is not None:
            self.probabilities[split] = probabilities
        # A split without a single labelled pixel has no mean; 0 lets the checkpoint's comparison go on.
        miou = 0.0 if math.isnan(scores.miou) else scores.miou
        self.log(f"{split}/miou", miou, prog_bar=True, sync_dist=True)
        for name, iou in zip(self.class_names, scores.iou.tolist(), strict=True):
            if not math.isnan(iou):
                self.log(f"{split}/iou/{name}", iou, sync_dist=True)
        if shares is not None:
            named = zip(self.class_names, shares, strict=True)
            self.log_dict({f"{split}/loss_share/{name}": share for name, share in named}, sync_dist=True)

    def _scorer(self, split: str) -> Scorer:
        scorer = self._scorers[split]
        assert isinstance(scorer, Scorer)
        return scorer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        lr, factor, decay = (self.hparams[name] for name in ("lr", "encoder_lr_factor", "weight_decay"))
        return parameter_groups(self.net, lr, factor, decay, self._decayed)

    def _lr_factor(self, step: int) -> float:
        steps = self.trainer.estimated_stepping_batches
        require("max_epochs or max_steps", steps, steps < math.inf, "to be set, as the schedule ends at the last step")
        schedule, warmup, power = (self.hparams[name] for name in ("schedule", "warmup", "poly_power"))
        return lr_factor(step, max(1.0, steps), schedule, warmup=warmup, power=power)


_LISTS = ("class_names", "mean", "std")  # plain lists, whatever sequences they are given as
_OPTIONS = [
    name for name in inspect.signature(SegmentationTask.__init__).parameters if name not in ("self", "net", "loss")
]
