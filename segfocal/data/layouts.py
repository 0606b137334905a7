"""Layouts: from a root on disk to the samples of a split, with everything wrong that is found on the way."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from segfocal.data.images import RGB, Bands
from segfocal.data.listing import samples_from_file, samples_of_voc, voc_list
from segfocal.data.pairing import samples_from_class_folders, samples_from_folders
from segfocal.data.samples import FileSample

Layout = Literal["auto", "folders", "camvid", "voc", "cityscapes", "ade20k"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_ADE20K = {"train": "training", "val": "validation", "test": "testing"}


def detect_layout(root: Path) -> Layout | None:
    """The layout that the folders in `root` are in; None if they are in none."""
    if (root / "images" / "training").is_dir():
        return "ade20k"
    if (root / "images").is_dir():
        return "folders"
    if any((root / f"{name}annot").is_dir() for name in SPLITS):
        return "camvid"
    if (root / "JPEGImages").is_dir():
        return "voc"
    return "cityscapes" if (root / "leftImg8bit").is_dir() else None


@dataclass(frozen=True)
class Source:
    """Where the samples of a data set are, and how they are paired.

    Attributes:
        root: Folder of the data set.
        layout: Where images and masks lie; unused with `split_files`.
        split_files: Text file per split, with a line `image mask` per sample.
        holdout: Share of images/ that goes to val and test, where images/ has no folder per split.
        mask_suffix: What a mask's stem has and its image's has not, such as _mask.
        class_folders: Names of the classes, where each has masks of its own.
        bands: How images are read.
    """

    root: Path
    layout: Layout = "auto"
    split_files: Mapping[str, str] | None = None
    holdout: Mapping[str, float] | None = None
    mask_suffix: str = ""
    class_folders: tuple[str, ...] = ()
    bands: Bands = RGB

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"Expected `layout` to be one of {', '.join(LAYOUTS)}, got {self.layout!r}. Choose one.")
        if not isinstance(self.mask_suffix, str):
            raise ValueError(
                f"Expected `mask_suffix` to be text, got {self.mask_suffix!r}. Leave it out if there is none."
            )
        if unknown := set(self.split_files or {}) - set(SPLITS):
            raise ValueError(f"Expected `split_files` with keys train, val, test, got {sorted(unknown)}. Rename them.")
        if self.holdout is not None:
            shares = list(self.holdout.values())
            known = set(self.holdout) <= {"val", "test"} and "val" in self.holdout
            if not known or not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
                raise ValueError(
                    "Expected `holdout` to give val, and test if there is one, a share in (0, 1), of less than 1 in "
                    f"all, got {dict(self.holdout)}. Such as {{val: 0.2, test: 0.1}}; train gets the rest."
                )

    def has(self, split: Split) -> bool:
        """Whether there is anything of this split."""
        if self.split_files is not None:
            return split in self.split_files
        if self.holdout is not None:
            return split == "train" or self.holdout.get(split, 0) > 0
        layout = self.found_layout()
        if layout == "voc":
            return voc_list(self.root, split).is_file()
        return layout is not None and _folders(self.root, layout, split)[0].is_dir()

    def samples(self, split: Split, *, masks: bool = True) -> tuple[list[FileSample], list[str]]:
        """List the samples of a split, without their sizes, and the faults; images alone without `masks`."""
        if not self.root.is_dir():
            return [], [f"{self.root}: `root` must be an existing folder. Set it to the folder that holds the data."]
        samples, faults = self._listed(split, masks)
        return [replace(sample, bands=self.bands) for sample in samples], faults

    def found_layout(self) -> Layout | None:
        """The layout, found out if it is `auto`; None if the folders are in none."""
        return detect_layout(self.root) if self.layout == "auto" else self.layout

    def _listed(self, split: Split, masks: bool) -> tuple[list[FileSample], list[str]]:
        if self.split_files is not None:
            return self._from_file(split, masks)
        layout = self.found_layout()
        if layout is None:
            return [], [
                f"{self.root}: holds neither images/ and masks/ nor train/ and trainannot/, and no other layout "
                f"({', '.join(LAYOUTS[3:])}). Arrange the files so, or list them with `split_files`."
            ]
        if layout == "voc":
            return samples_of_voc(self.root, split, masks)
        if layout == "folders" and self.holdout is not None:
            return self._held_out(split, masks)
        images, labels = _folders(self.root, layout, split)
        if layout == "folders" and not any((self.root / "images" / name).is_dir() for name in SPLITS):
            return [], [
                "images: holds no folders train, val, test. Make them, or set `holdout: {val: 0.2, test: 0.1}` to take "
                "val and test from the files of images/."
            ]
        suffixes = ("_leftImg8bit", "_gtFine_labelIds") if layout == "cityscapes" else ("", self.mask_suffix)
        return self._paired(images, labels if masks else None, suffixes)

    def _paired(
        self, images: Path, labels: Path | None, suffixes: tuple[str, str]
    ) -> tuple[list[FileSample], list[str]]:
        if self.class_folders and labels is not None:
            return samples_from_class_folders(self.root, images, labels, self.class_folders)
        return samples_from_folders(self.root, images, labels, *suffixes)

    def _held_out(self, split: Split, masks: bool) -> tuple[list[FileSample], list[str]]:
        """The part of images/ that a hash of its names gives to the split: it stays when files are added elsewhere."""
        assert self.holdout is not None, "the caller looks"
        images = self.root / "images"
        if present := [name for name in SPLITS if (images / name).is_dir()]:
            return [], [f"images/{present[0]}: a folder per split and `holdout` exclude each other. Take one away."]
        samples, faults = self._paired(images, self.root / "masks" if masks else None, ("", self.mask_suffix))
        mixed = sorted(samples, key=lambda s: hashlib.sha256(s.name.rpartition(".")[0].encode()).digest())
        first, parts = 0, {}
        for name in ("val", "test"):
            share = self.holdout.get(name, 0)
            count = max(1, round(share * len(mixed))) if share else 0
            parts[name] = mixed[first : first + count]
            first += count
        parts["train"] = mixed[first:]
        return sorted(parts[split], key=lambda sample: sample.name), faults

    def _from_file(self, split: Split, masks: bool) -> tuple[list[FileSample], list[str]]:
        assert self.split_files is not None, "the caller looks"
        if split not in self.split_files:
            return [], [f"{self.root}: `split_files` has no {split}. Add the text file that lists it."]
        file = self.root / self.split_files[split]
        samples, faults = samples_from_file(self.root, file, len(self.class_folders) or 1)
        if not masks:
            return [replace(sample, mask_path=None, planes=()) for sample in samples], faults
        lone = [sample.name for sample in samples if not sample.masks]
        return samples, faults + [f"{name}: its line names no mask. Write `image mask`." for name in lone]


def _folders(root: Path, layout: Layout, split: Split) -> tuple[Path, Path]:
    match layout:
        case "camvid":
            return root / split, root / f"{split}annot"
        case "ade20k":
            return root / "images" / _ADE20K[split], root / "annotations" / _ADE20K[split]
        case "cityscapes":
            return root / "leftImg8bit" / split, root / "gtFine" / split
        case _:
            return root / "images" / split, root / "masks" / split
