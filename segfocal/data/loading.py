"""From data sets to batches: the samplers, the loaders, and the data module that offers them.

Shapes: B images, C classes, H x W pixels of the image the net sees, H0 x W0 pixels of the stored mask.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler, default_collate

from segfocal.data.classes import check_names
from segfocal.data.datasets import Batch, SegmentationDataset
from segfocal.data.files import DataError, fault_report
from segfocal.data.images import RGB, Bands
from segfocal.data.labels import Labels
from segfocal.data.palettes import default_palette
from segfocal.data.parallel import default_workers
from segfocal.data.samplers import EqualSizeBatches, SeededSampler, WithFillers
from segfocal.data.samples import Sample
from segfocal.data.unlabelled import Unlabelled, find_images, look_at
from segfocal.data.workers import PATIENCE, Desk, Loader


class LabelledImages(LightningDataModule):
    """What every data module here offers: the classes, and the loaders over `datasets`, which `setup` fills.

    Args:
        classes: Names of the classes; a single one means a binary task.
        ignore_index: Label of pixels that count nowhere.
        palette: RGB colour per class; None for the default.
        batch_size: Images per training batch.
        eval_batch_size: Images per batch elsewhere; None means `batch_size`.
        num_workers: Worker processes; None means one per core, at most 4.
        images: What to predict on: see `find_images`; None means the images of the test split.
    """

    bands: Bands = RGB  # how images are read
    net_size: tuple[int, int] | None = None  # to which images are resized for the net

    def __init__(
        self,
        *,
        classes: Sequence[str],
        ignore_index: int,
        palette: Sequence[Sequence[int]] | None,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int | None,
        images: Sequence[str] | str | Path | None,
    ) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("eval_batch_size", batch_size if eval_batch_size is None else eval_batch_size, 1)
        check_at_least("num_workers", num_workers or 0, 0)
        check_at_least("ignore_index", ignore_index, 0)
        check_names(classes)
        self.labels = Labels(len(classes), ignore_index)
        if ignore_index < self.labels.count or ignore_index > 65535:
            raise ValueError(
                f"Expected `ignore_index` above the classes' labels 0..{self.labels.count - 1} and at most 65535, "
                f"got {ignore_index}. If the last class is void, take its name out of `classes`."
            )
        self._classes = list(classes)
        self._palette = default_palette(len(classes)) if palette is None else _checked_palette(palette, len(classes))
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.images = images
        self.datasets: dict[str, SegmentationDataset] = {}
        self._epoch, self._batches = 0, 0
        self._sampler: SeededSampler | None = None
        self._seed: int | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return list(self._classes)

    @property
    def num_classes(self) -> int:
        """Number of class names; 1 for a binary task."""
        return len(self._classes)

    @property
    def ignore_index(self) -> int:
        """Label of pixels that count nowhere."""
        return self.labels.ignore_index

    @property
    def multilabel(self) -> bool:
        """Whether masks are dense (B, C, H, W), with classes that may overlap."""
        return self.labels.dense

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB colour of each class."""
        return list(self._palette)

    def test_images(self) -> tuple[Sequence[Sample], list[str]]:
        """The images of the test split, whose headers need not have been read, and the faults."""
        raise NotImplementedError

    def unlabelled(self) -> Unlabelled:
        """The images to predict on, with what is wrong with those that cannot be read.

        Raises:
            DataError: What was asked for is not there, or two images have one name.
        """
        if self.images is None:
            samples, faults = self.test_images()
        else:
            listed, faults = find_images([self.images] if isinstance(self.images, str | Path) else self.images)
            samples = [replace(sample, bands=self.bands) for sample in listed]
        if faults:
            raise fault_report(faults, self._images_are_at)
        return look_at(samples, by_windows=self.net_size is None)

    def predict_on(self, samples: Sequence[Sample], *, skip_broken: bool = False) -> None:
        """Let `predict_dataloader` give these images, whose headers have been read."""
        options: dict[str, Any] = {"size": self.net_size, "with_masks": False, "skip_broken": skip_broken}
        self.datasets["predict"] = SegmentationDataset(samples, self.labels, **options)

    def set_up_prediction(self) -> None:
        """Find the images to predict on, unless `predict_on` has said which.

        Raises:
            DataError: With all that is wrong with them.
        """
        if "predict" not in self.datasets:
            found = self.unlabelled()
            if found.faults:
                raise fault_report(list(found.faults.values()), self._images_are_at)
            self.predict_on([*found.samples, *found.large])

    @property
    def _images_are_at(self) -> str:
        return "`images`" if self.images is not None else str(getattr(self, "root", "the test split"))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, augmented batches of one size: image (B, 3, H, W) uint8, mask (B, H, W), name."""
        loader = self._loader("train", self.batch_size)
        assert isinstance(loader.sampler, SeededSampler), "the data set is one to train on"
        loader.sampler.set_epoch(self._epoch)
        loader.sampler.skip = self._batches * self.batch_size
        self._sampler = loader.sampler
        return loader

    def state_dict(self) -> dict[str, int]:
        """For checkpoints: the epoch to go on with, and how many of its batches the net has seen."""
        if self._sampler is None or self.trainer is None:
            return {"epoch": self._epoch, "batches": self._batches}
        seen = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if 0 < seen < self.trainer.num_training_batches:
            return {"epoch": self._sampler.drawn, "batches": seen, "batch_size": self.batch_size}
        return {"epoch": self._sampler.drawn + 1, "batches": 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: a resumed trainer asks for batches before it says which epoch it is in."""
        size = state.get("batch_size", self.batch_size)
        if size != self.batch_size:
            raise ValueError(
                f"Expected `batch_size` {size}, with which the epoch began that is taken up after {state['batches']} "
                f"batches, got {self.batch_size}. Keep it, or resume from a checkpoint of an epoch's end."
            )
        self._epoch, self._batches = state["epoch"], state["batches"]

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches in order: image (B, 3, H, W) uint8, mask (B, H0, W0) at its own resolution, name."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches in order, as those of `val_dataloader`."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches in order: image (B, 3, H, W) uint8, name, size (list of (H0, W0)), path."""
        return self._loader("predict", self.eval_batch_size)

    def _loader(self, split: str, batch_size: int) -> DataLoader[Batch]:
        """The loader of this process; all of a trainer's processes draw one order, which `ranks` shares out."""
        if self._seed is None:  # later, each process has a seed of its own
            self._seed = torch.initial_seed()
        rank, ranks = 0, 1
        if self.trainer is not None:
            rank, ranks = self.trainer.global_rank, self.trainer.world_size
            # Lightning would share out once more what is shared out here, and count some images of val twice.
            self.trainer._accelerator_connector.use_distributed_sampler = False
        return make_loader(self.datasets[split], batch_size, self.num_workers, seed=self._seed, rank=rank, ranks=ranks)


def collate(items: list[Batch]) -> Batch:
    """Stack images and masks, list everything else. Fillers have no name, so `name` holds those of real images.

    Raises:
        DataError: If the images differ in size.
    """
    sizes = {item["name"]: tuple(item["image"].shape[1:]) for item in items}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {h} x {w}" for name, (h, w) in list(sizes.items())[:3])
        raise DataError(
            f"The images of a training batch must have one size, got {shown}. "
            "Set `size` or `crop`, or end `augment` with a transform that gives all one size."
        )
    columns = {key: [item[key] for item in items] for key in items[0]}
    columns["name"] = [name for name in columns["name"] if name is not None]
    # `default_collate` stacks in the memory that a worker shares with the main process: one copy less.
    return {
        key: default_collate(values) if values and isinstance(values[0], Tensor) else values
        for key, values in columns.items()
    }


def make_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    num_workers: int | None,
    *,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Batch]:
    """Build a loader: shuffled and seeded if `dataset.train`, else batches of equal sizes; the part of one process."""
    workers = default_workers() if num_workers is None else num_workers
    common: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": Desk(dataset.samples, workers),
        "timeout": PATIENCE if workers else 0,
        # Its own generator: starting an epoch draws nothing from torch's global one.
        "generator": torch.Generator().manual_seed(seed),
    }
    if dataset.train:
        sampler = SeededSampler(len(dataset), seed, batch_size, rank, ranks, rare=dataset.rare)
        return Loader(dataset, batch_size=batch_size, sampler=sampler, **common)
    # Stored sizes, even when the net sees one size: masks are compared, and predictions written, at the stored size.
    sizes = [sample.size for sample in dataset.samples]
    batches = EqualSizeBatches(SequentialSampler(dataset), batch_size, False, sizes, rank, ranks)
    return Loader(WithFillers(dataset) if ranks > 1 else dataset, batch_sampler=batches, **common)


def check_at_least(argument: str, value: int, least: int) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"Expected `{argument}` to be an integer of at least {least}, got {value!r}. Correct it.")


def check_size(size: tuple[int, ...], least: int, argument: str = "size") -> tuple[int, int]:
    """Return `size` as (H, W); raise a ValueError unless it is two integers of at least `least`."""
    if len(size) != 2 or not all(isinstance(n, int) and n >= least for n in size):
        raise ValueError(
            f"Expected `{argument}` to be (H, W), two integers of at least {least}, got {size}. Correct it."
        )
    return size[0], size[1]


def _checked_palette(palette: Sequence[Sequence[int]], count: int) -> list[tuple[int, int, int]]:
    if len(palette) != count or any(len(c) != 3 or min(c) < 0 or max(c) > 255 for c in palette):
        raise ValueError(
            f"Expected `palette` to hold {count} RGB triples of 0..255, one per class, got {list(palette)}. "
            "Correct it, or leave it out."
        )
    return [(int(r), int(g), int(b)) for r, g, b in palette]
