"""The data module for images and masks in files."""

import logging
from pathlib import Path

from segfocal.data.cache import Cache, check_room
from segfocal.data.checks import Inspection, check_samples, equal_images, shared_images, unequal_sizes
from segfocal.data.datasets import SegmentationDataset
from segfocal.data.layouts import SPLITS, Layout, Split, find_images, find_samples, split_folders
from segfocal.data.loading import LabelledImages, check_size
from segfocal.data.masks import DataError, fault_report
from segfocal.data.transforms import AlbumentationsAugment, Transform

_log = logging.getLogger(__name__)

_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"), "validate": ("val",), "test": ("test",), None: ("train", "val"),
}  # fmt: skip


class SegmentationDataModule(LabelledImages):
    """Images and masks in files, checked before the first step.

    Args:
        root: Folder of the data set.
        layout: `folders`: images/{train,val,test} and masks/{train,val,test}. `camvid`: train/ trainannot/ and so on.
            `auto`: whichever is there. Images and masks are paired by stem, whatever their extensions.
        split_files: Text file per split (train, val, test), with an `image mask` pair per line, relative to root; used
            instead of a layout.
        classes: Class names in the order of their labels; None: one per line in root/classes.txt. A single name means
            a binary task: masks hold 0 (background) and 1 (the class).
        ignore_index: Value that marks void pixels in the mask files; they count nowhere.
        palette: RGB colour per class for pictures; None: distinct colours that colour-blind people can tell apart.
        size: (H, W) to which images are resized for the net; None keeps them. Masks of val and test keep their own
            resolution, and scores are computed there.
        augment: albumentations transforms for training. They see the stored resolution, so that a crop loses no detail;
            `size` comes after them. Pixels they bring in from outside become `ignore_index` in the mask, whatever
            their `fill_mask` says.
        batch_size: Images per training batch.
        eval_batch_size: Images per batch in validation, test and prediction; None: `batch_size`.
        num_workers: Worker processes that read the data; None: one per core, at most 4.
        cache: Keep the decoded images and masks of train and val in memory, which the workers share: 4 bytes per pixel,
            in each process of DDP. The batches are the same.
        images: Folder, image, or list of them to predict on; None: the images of the test split.
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
        classes: list[str] | None = None,
        ignore_index: int = 255,
        palette: list[tuple[int, int, int]] | None = None,
        size: tuple[int, int] | None = None,
        augment: list[Transform] | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        cache: bool = False,
        images: list[str] | str | Path | None = None,
        verify: bool = True,
    ) -> None:
        self.root = Path(root).expanduser()
        super().__init__(
            classes=_class_names(self.root, classes),
            ignore_index=ignore_index,
            palette=palette,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        self.layout: Layout = layout
        self.split_files = split_files
        self.size = None if size is None else check_size(size, 1)
        self.augment = AlbumentationsAugment(augment, ignore_index) if augment else None
        self.cache = cache
        self.images = images
        self.verify = verify
        self._check_arguments()

    def _check_arguments(self) -> None:
        if self.layout not in ("auto", "folders", "camvid"):
            raise ValueError(f"Expected `layout` to be auto, folders or camvid, got {self.layout!r}. Choose one.")
        if unknown := set(self.split_files or {}) - set(SPLITS):
            raise ValueError(f"Expected `split_files` with keys train, val, test, got {sorted(unknown)}. Rename them.")

    def setup(self, stage: str | None = None) -> None:
        """Find and check the splits that the stage (fit, validate, test, predict; None as fit) needs.

        Raises:
            DataError: With all faults found in them.
        """
        if stage == "predict":
            self._set_up_prediction()
        elif wanted := [split for split in _STAGES[stage] if split not in self.datasets]:
            self._set_up_splits(wanted)

    def _set_up_splits(self, wanted: list[Split]) -> None:
        # All split files are read, whatever is wanted, to look for images that two of them share.
        listed = [split for split in SPLITS if split in wanted or split in (self.split_files or {})]
        found, faults, present = {}, [], set()
        for split in listed:
            found[split], more = find_samples(self.root, split, self.layout, self.split_files)
            faults += more if split in wanted else []
        faults += shared_images(found) if self.split_files else []
        for split in wanted:
            found[split], more, labels = check_samples(found[split], self.labels, "masks" if self.verify else "headers")
            faults += more
            if split == "train":
                present = labels
                if self.size is None and self.augment is None:
                    faults += unequal_sizes(found[split])
        if faults:
            raise fault_report(faults, str(self.root))
        kept = [split for split in wanted if self.cache and split != "test"]  # of which each image is read once
        check_room([sample for split in kept for sample in found[split]], self.labels)
        for split in wanted:
            train = split == "train"
            self.datasets[split] = SegmentationDataset(
                found[split],
                self.labels,
                size=self.size,
                train=train,
                augment=self.augment if train else None,
                decoded=Cache(found[split], self.labels) if split in kept else None,
            )
        if absent := self._absent_classes(present) if present else "":
            _log.warning(absent)

    def _set_up_prediction(self) -> None:
        if self.images is None:
            found, faults = find_samples(self.root, "test", self.layout, self.split_files, masks=False)
        else:
            found, faults = find_images(self.images if isinstance(self.images, list) else [self.images])
        samples, more, _ = check_samples(found, self.labels, "headers")
        if faults + more:
            where = self.root if self.images is None else "`images`"
            raise fault_report(faults + more, str(where))
        self.datasets["predict"] = SegmentationDataset(samples, self.labels, size=self.size, with_masks=False)

    def inspect(self) -> Inspection:
        """Read and decode every image and mask of every split that is there; train and val must be."""
        splits = [split for split in SPLITS if split != "test" or self._has_test()]
        found, faults, present = {}, {}, {}
        for split in splits:
            samples, faults[split] = find_samples(self.root, split, self.layout, self.split_files)
            found[split], more, present[split] = check_samples(samples, self.labels, "pixels")
            faults[split] += more
        if self.size is None and self.augment is None:
            faults["train"] += unequal_sizes(found["train"])
        leaks = (shared_images(found) if self.split_files else []) + equal_images(found)
        return Inspection(
            where=str(self.root),
            images={split: len(samples) for split, samples in found.items()},
            faults={split: list(dict.fromkeys(listed)) for split, listed in faults.items()} | {"splits": leaks},
            warnings=[self._absent_classes(present["train"])] if self._absent_classes(present["train"]) else [],
        )

    def _has_test(self) -> bool:
        if self.split_files is not None:
            return "test" in self.split_files
        try:
            return split_folders(self.root, self.layout, "test")[0].is_dir()
        except DataError:  # no layout: a fault of train
            return False

    def _absent_classes(self, present: set[int]) -> str:
        first = 1 if self.num_classes == 1 else 0  # the label of the first name
        absent = [f"{name} ({label})" for label, name in enumerate(self.class_names, first) if label not in present]
        return f"Classes that never occur in train and cannot be learnt: {', '.join(absent)}." if absent else ""


def _class_names(root: Path, classes: list[str] | None) -> list[str]:
    file = root / "classes.txt"
    if not file.is_file():
        if classes is not None:
            return classes
        if not root.is_dir():
            raise DataError(f"{root}: `root` must be an existing folder. Set it to the folder that holds the data.")
        raise ValueError(
            f"Expected `classes`, for there is no {file}. List the names, or write them there, one per line."
        )
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: must be readable UTF-8 text ({error}). Write one class name per line.") from error
    written = [line for line in lines if line and not line.startswith("#")]
    if classes is not None and classes != written:
        raise ValueError(
            f"Expected `classes` to equal {file} ({len(written)} names: {written}), got {len(classes)}: {classes}. "
            "Leave `classes` out, or correct one of them."
        )
    return written
