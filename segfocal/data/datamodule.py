"""The data module for images and masks in files."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfocal.data.cache import Cache, check_room
from segfocal.data.checks import Depth, Inspection, check_samples, equal_images, shared_images, unequal_sizes
from segfocal.data.classes import Classes, resolve_classes
from segfocal.data.datasets import SegmentationDataset
from segfocal.data.files import fault_report
from segfocal.data.images import Bands
from segfocal.data.labels import Labels, MaskForm
from segfocal.data.layouts import SPLITS, Layout, Source, Split
from segfocal.data.loading import LabelledImages, check_size
from segfocal.data.samples import FileSample
from segfocal.data.sampling import Crop, RareImages, check_shares, class_probabilities
from segfocal.data.transforms import AlbumentationsAugment, Entry

Array = NDArray[Any]

_log = logging.getLogger(__name__)

_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"), "validate": ("val",), "test": ("test",), None: ("train", "val"),
}  # fmt: skip


class SegmentationDataModule(LabelledImages):
    """Images and masks in files, checked before the first step.

    Args:
        root: Folder of the data set.
        layout: `folders`: images/{train,val,test} and masks/{train,val,test}. `camvid`: train/ trainannot/ and so on.
            `voc`, `cityscapes`, `ade20k`: as these are published, which brings their classes. `auto`: whichever is
            there. Images and masks are paired by stem, whatever their extensions.
        split_files: Text file per split (train, val, test), with an `image mask` pair per line, relative to root; used
            instead of a layout.
        holdout: Shares such as {val: 0.2, test: 0.1} of images/ that are kept from training, chosen by a hash of their
            names, where images/ and masks/ have no folder per split. Pictures of one scene belong into one split: then
            make the folders by hand.
        mask_suffix: What the masks' names have before the extension and the images' have not, such as _mask.
        classes: Names in the order of their labels; or a mapping of names to label values, {road: 7, car: [26, 27]}, or
            to RGB colours, {road: [[128, 64, 128]]}; or a file with either. None: root/classes.txt, one name per line,
            or root/classes.yaml. A single class means a binary task, 0 being the background: {crack: 255} reads masks
            of 0 and 255.
        unlisted: What becomes of values and colours that `classes` does not list: an `error`, `ignore`, or
            `background` of a single class; or a list of those that are ignored.
        ignore_index: Value that marks void pixels in the mask files, unless a class lists it, and in the batches; such
            pixels count nowhere.
        masks: `index`: one file per image with one value or colour per pixel. Classes that overlap: `per_class`, files
            in masks/SPLIT/CLASS/, and `channels`, one file with a channel per class, with 0 and 1, or the value that
            `classes` gives to the class.
        palette: RGB colour per class for pictures; None: the colours of `classes` or of the layout, else distinct ones
            that colour-blind people can tell apart.
        in_channels: Bands of the images, and of the net: 3, RGB, and 1, grey, are made of any file; other numbers must
            be what the files hold (PNG, TIFF, .npy).
        value_range: The stored values that become black and white, for more than 8 bits: [0, 3000]. None: all of 8
            bits, or the 16 of photos; other types and numbers of bands need it. Pixels travel as 8 bits.
        size: (H, W) to which images are resized for the net; None keeps them. Masks of val and test keep their own
            resolution, and scores are computed there.
        crop: (H, W) of a window that is cut at random out of every training image, before `augment`. Smaller images are
            padded with ignored pixels.
        rare_crops: Share of the windows that are laid around a pixel of a class, which is drawn with a probability that
            goes as 1 / sqrt(its share of the pixels).
        rare_images: Share of the places of an epoch that go to images with many pixels of a class that is drawn
            likewise; the others go to every image in turn.
        augment: For training: light, street, aerial or medical, or a list of these and of albumentations transforms.
            They see the stored resolution, so that a crop loses no detail; `size` comes after them. Pixels they bring
            in from outside become `ignore_index` in the mask, whatever their `fill_mask` says.
        batch_size: Images per training batch.
        eval_batch_size: Images per batch in validation, test and prediction; None: `batch_size`.
        num_workers: Worker processes that read the data; None: one per core, at most 4.
        cache: Keep the decoded images and masks of train and val in memory, which the workers share: 4 bytes per pixel,
            in each process of DDP. The batches are the same.
        images: What to predict on: an image, a folder, a pattern such as photos/*.jpg, a .txt file with a path in each
            line, or a list of these; None: the images of the test split.
        verify: Decode every mask before the first step. False checks file names and headers only.

    Raises:
        ValueError: If an argument is out of its range, or `classes` and classes.txt disagree or are both missing.
        DataError: On construction if classes.txt is needed and root does not exist; in `setup` with all faults found
            in the splits that the stage needs. ValueError there if `cache` does not fit into memory.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        layout: Layout = "auto",
        split_files: dict[str, str] | None = None,
        holdout: dict[str, float] | None = None,
        mask_suffix: str = "",
        classes: Classes | None = None,
        unlisted: str | list[Any] = "error",
        ignore_index: int = 255,
        masks: MaskForm = "index",
        palette: list[tuple[int, int, int]] | None = None,
        in_channels: int = 3,
        value_range: tuple[float, float] | None = None,
        size: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        rare_crops: float = 0.0,
        rare_images: float = 0.0,
        augment: str | list[Entry] | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        cache: bool = False,
        images: list[str] | str | Path | None = None,
        verify: bool = True,
    ) -> None:
        self.root = Path(root).expanduser()
        bands = Bands(in_channels, value_range)
        source = Source(self.root, layout, split_files, holdout, mask_suffix, bands=bands)
        known = resolve_classes(self.root, source.found_layout(), classes, unlisted, overlap=masks != "index")
        super().__init__(
            classes=known.names,
            ignore_index=ignore_index,
            palette=palette or known.palette,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            images=images,
        )
        self.bands = bands
        self.labels = Labels(len(known.names), ignore_index, known.values, known.colours, known.unlisted, masks)
        self.source = replace(source, class_folders=tuple(known.names) if masks == "per_class" else ())
        self.size = self.net_size = None if size is None else check_size(size, 1)
        self.crop = None if crop is None else check_size(crop, 1, "crop")
        check_shares(self.crop, rare_crops, rare_images)
        self.rare_crops, self.rare_images = rare_crops, rare_images
        self.augment = AlbumentationsAugment(augment, ignore_index) if augment else None
        self.cache = cache
        self.verify = verify

    @property
    def rare(self) -> bool:
        """Whether rare classes are shown more often, for which their pixels are counted."""
        return self.rare_crops > 0 or self.rare_images > 0

    @property
    def in_channels(self) -> int:
        """Bands of the images."""
        return self.source.bands.count

    def setup(self, stage: str | None = None) -> None:
        """Find and check the splits that the stage (fit, validate, test, predict; None as fit) needs.

        Raises:
            DataError: With all faults found in them.
        """
        if stage == "predict":
            self.set_up_prediction()
        elif wanted := [split for split in _STAGES[stage] if split not in self.datasets]:
            self._set_up_splits(wanted)

    def _set_up_splits(self, wanted: list[Split]) -> None:
        # All split files are read, whatever is wanted, to look for images that two of them share.
        files = self.source.split_files or {}
        found: dict[Split, list[FileSample]] = {}
        faults: list[str] = []
        counts: dict[Split, Array] = {}
        for split in [split for split in SPLITS if split in wanted or split in files]:
            found[split], more = self.source.samples(split)
            faults += more if split in wanted else []
        faults += shared_images(found) if files else []
        for split in wanted:
            depth: Depth = "masks" if self.verify or (self.rare and split == "train") else "headers"
            found[split], more, pixels = check_samples(found[split], self.labels, depth)
            faults += more
            if depth == "masks":
                counts[split] = pixels
        if "train" in wanted:
            faults += self._nothing_to_learn(counts["train"]) if "train" in counts and not faults else []
            faults += self._unequal_sizes(found["train"])
        if faults:
            raise fault_report(faults, str(self.root))
        self._make_datasets({split: found[split] for split in wanted}, counts.get("train"))
        for warning in self._absent_classes(counts["train"], counts["val"]) if {"train", "val"} <= set(counts) else []:
            _log.warning("warning: %s", warning)

    def _make_datasets(self, found: dict[Split, list[FileSample]], counts: Array | None) -> None:
        kept = [split for split in found if self.cache and split != "test"]  # of which each image is read once
        check_room([sample for split in kept for sample in found[split]], self.labels)
        for split, samples in found.items():
            train = split == "train"
            self.datasets[split] = SegmentationDataset(
                samples,
                self.labels,
                size=self.size,
                train=train,
                crop=self._crop(counts) if train else None,
                augment=self.augment if train else None,
                rare=None if counts is None or not train else self._rare_images(counts),
                decoded=Cache(samples, self.labels) if split in kept else None,
            )

    def test_images(self) -> tuple[list[FileSample], list[str]]:
        """The images of the test split, and the faults."""
        return self.source.samples("test", masks=False)

    def _crop(self, counts: Array | None) -> Crop | None:
        if self.crop is None:
            return None
        pixels = np.zeros(self.num_classes) if counts is None else counts.sum(0)
        return Crop(self.crop, self.labels, self.rare_crops, class_probabilities(pixels))

    def _rare_images(self, counts: Array) -> RareImages | None:
        return RareImages.of(self.rare_images, counts) if self.rare_images else None

    def inspect(self) -> Inspection:
        """Read and decode every image and mask of every split that is there; train and val must be."""
        found: dict[Split, list[FileSample]] = {}
        faults: dict[str, list[str]] = {}
        counts: dict[str, Array] = {}
        for split in [split for split in SPLITS if split != "test" or self.source.has(split)]:
            samples, faults[split] = self.source.samples(split)
            found[split], more, counts[split] = check_samples(samples, self.labels, "pixels")
            faults[split] += more
        if not any(faults.values()):
            faults["train"] += self._nothing_to_learn(counts["train"])
        faults["train"] += self._unequal_sizes(found["train"])
        listed: set[str] = set()  # two splits may share one, such as a folder that is missing
        for part, of_split in faults.items():
            faults[part] = [fault for fault in dict.fromkeys(of_split) if fault not in listed]
            listed |= set(of_split)
        leaks = (shared_images(found) if self.source.split_files else []) + equal_images(found)
        return Inspection(
            where=str(self.root),
            images={split: len(samples) for split, samples in found.items()},
            faults=faults | {"splits": leaks},
            warnings=[] if any(faults.values()) else self._absent_classes(counts["train"], counts["val"]),
        )

    def _unequal_sizes(self, samples: list[FileSample]) -> list[str]:
        """The fault of training images that stay of different sizes."""
        kept = self.size is None and self.crop is None and (self.augment is None or self.augment.keeps_size)
        return unequal_sizes(samples) if kept else []

    def _nothing_to_learn(self, counts: Array) -> list[str]:
        """A class that never occurs may be rare; if none does, the masks mean something else."""
        if counts.any():
            return []
        names = ", ".join(self.class_names[:3]) + (", ..." if self.num_classes > 3 else "")
        void = self.ignore_index
        return [
            f"train: no mask holds a single pixel of {names}. If {void} marks a class and not void, say so: "
            f"`classes: {{{self.class_names[0]}: {void}{', ...' if self.num_classes > 1 else ''}}}`."
        ]

    def _absent_classes(self, train: Array, val: Array) -> list[str]:
        """Warnings of classes that train never shows, and of those that only val never shows."""
        never = [set(np.flatnonzero(~counts.any(axis=0)).tolist()) for counts in (train, val)]
        texts = {
            "Classes that never occur in train and cannot be learnt": never[0],
            "Classes that never occur in val and have no score there": never[1] - never[0],
        }
        named = {text: [f"{self.class_names[index]} ({index})" for index in sorted(texts[text])] for text in texts}
        return [f"{text}: {', '.join(names)}." for text, names in named.items() if names]
