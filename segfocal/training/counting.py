"""Counting each evaluated image by itself, beside the one confusion matrix of the task."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segfocal.evaluation.counts import ImageCounts, Labels, count_image
from segfocal.evaluation.gallery import Gallery, merged
from segfocal.evaluation.tally import Tally
from segfocal.processes import of_all

_Counted = tuple[str, ImageCounts]


class CountImages(Callback):
    """Counts the images of a validation or test while the net works on the next ones; `tally` holds them at the end.

    `gallery` holds the worst and the best of them. Of several processes each counts its own images, and all have the
    tally and the gallery of all.

    Args:
        class_names: The C names.
        ignore_index: Label of the pixels that count nowhere.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int) -> None:
        self.class_names, self.ignore_index = class_names, ignore_index
        self.tally, self.gallery = Tally(class_names), Gallery()
        self._pool: ThreadPoolExecutor | None = None
        self._counting: list[tuple[str, Future[ImageCounts]]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._pool, self._counting, self.gallery = ThreadPoolExecutor(2), [], Gallery()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the images of a batch, whose labels the step has returned."""
        assert self._pool is not None
        predictions, targets = _plain(outputs), _plain(batch["mask"])
        images = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
        names = batch.get("name", [f"{batch_idx}-{number}" for number in range(len(targets))])
        for name, *arrays in zip(names, predictions, targets, images, strict=False):  # fillers have no name
            self._counting.append((name, self._pool.submit(self._count, name, *arrays)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up what all processes have counted."""
        assert self._pool is not None
        counted: list[_Counted] = [(name, future.result()) for name, future in self._counting]
        self._pool.shutdown()
        self.tally = Tally(self.class_names)
        for name, counts in (image for of_process in of_all(counted) for image in of_process):
            self.tally.add(name, counts)
        wanted = merged(of_all([kept.key for kept in self.gallery.kept]))
        chosen = of_all([kept for kept in self.gallery.kept if kept.key in wanted])
        self.gallery = Gallery(kept for of_process in chosen for kept in of_process)

    def _count(self, name: str, prediction: Labels, target: Labels, image: NDArray[Any]) -> ImageCounts:
        count, ignore = len(self.class_names), self.ignore_index
        pair = _alike(prediction, target, count, ignore)
        counted = count_image(*pair, count, ignore)
        self.gallery.offer(name, counted, *pair, image)
        return counted

    on_test_start, on_test_batch_end, on_test_end = on_validation_start, on_validation_batch_end, on_validation_end


def _plain(labels: Tensor) -> Labels:
    """On the CPU, in the narrowest type that holds them."""
    array = labels.cpu().numpy()
    return array if array.dtype.itemsize <= 2 else array.astype(np.uint16)


def _alike(prediction: Labels, target: Labels, count: int, ignore: int) -> tuple[Labels, Labels]:
    """Both (H, W), or both (C, H, W) where a pixel may have several classes or a single one is told from the rest."""
    if prediction.ndim == 3 and target.ndim == 2:
        classes = np.arange(count, dtype=target.dtype)[:, None, None]
        target = np.where(target == ignore, target, (target == classes).astype(target.dtype))
    if count == 1 and prediction.ndim == 2:
        prediction, target = prediction[None], target.reshape(1, *target.shape[-2:])
    return prediction, target
