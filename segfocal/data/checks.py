"""Checks of samples: headers, labels, sizes, pixels, leaks between splits.

A fault is a sentence that begins with a path; all of them are collected, so that a data set can be mended in one go.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segfocal.data.files import DataError
from segfocal.data.images import read_size
from segfocal.data.labels import Labels
from segfocal.data.layouts import Split
from segfocal.data.masks import read_mask_size
from segfocal.data.parallel import in_parallel
from segfocal.data.samples import FileSample

Array = NDArray[Any]

Depth = Literal["headers", "masks", "pixels"]

_TITLES = {"headers": "Reading headers", "masks": "Checking masks", "pixels": "Checking images and masks"}


@dataclass(frozen=True)
class Inspection:
    """What one pass over a whole data set has found.

    Attributes:
        where: The data set's folder.
        images: How many there are in each split.
        faults: Sentences that begin with a path, by split, and under "splits" what is wrong between them.
        warnings: What is no fault, but to be known.
    """

    where: str
    images: dict[Split, int]
    faults: dict[str, list[str]]
    warnings: list[str]

    @property
    def count(self) -> int:
        """Number of faults."""
        return sum(map(len, self.faults.values()))

    def text(self) -> str:
        """A line per split, then every fault.

        >>> print(Inspection("data", {"train": 2}, {"train": ["a.png: is empty (0 bytes). Replace it."]}, []).text())
        train       2 images, 1 fault
          a.png: is empty (0 bytes). Replace it.
        """
        lines = []
        for split, faults in self.faults.items():
            images = f"{self.images[split]:6} images" if split in self.images else " " * 13
            if faults or split in self.images:
                many = f", {len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else ""
                lines.append(f"{split:<6} {images}{many}")
            lines += [f"  {fault}" for fault in faults]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def check_samples(
    samples: Sequence[FileSample], labels: Labels, depth: Depth
) -> tuple[list[FileSample], list[str], Array]:
    """Read every header; for "masks" also decode every mask, for "pixels" every image too.

    Returns:
        The samples with their sizes, the faults, and the pixels of each class in each image, (images,
        C), all 0 for "headers".
    """

    def check(sample: FileSample) -> tuple[FileSample, list[str], Array]:
        faults: list[str] = []
        counts = np.zeros(labels.num_classes, np.int64)
        try:
            sample = replace(sample, size=read_size(sample.image_path, sample.name, sample.bands))
            if depth == "pixels":
                sample.image()
        except DataError as error:
            faults.append(str(error))
        try:
            if sample.masks and depth != "headers":
                mask, more = sample.decoded(labels)
                faults += more
                counts = counts if mask is None else labels.counts(mask)
            elif depth == "headers":
                for path, name in sample.masks:
                    faults += sample.size_faults(read_mask_size(path, name, labels), name)
        except DataError as error:
            faults.append(str(error))
        return sample, faults, counts

    results = in_parallel(check, samples, _TITLES[depth])
    return (
        [sample for sample, _, _ in results],
        [fault for _, faults, _ in results for fault in faults],
        np.array([counts for _, _, counts in results], np.int64).reshape(len(results), labels.num_classes),
    )


def shared_images(splits: Mapping[Split, list[FileSample]]) -> list[str]:
    """List the images that appear in two splits, which would make the scores worthless."""
    first: dict[Path, str] = {}
    faults = []
    for split, samples in splits.items():
        for sample in samples:
            path = sample.image_path.resolve()
            if (other := first.setdefault(path, split)) != split:
                faults.append(f"{sample.name}: is in the splits {other} and {split}. Keep it in one of them.")
    return faults


def equal_images(splits: Mapping[Split, list[FileSample]]) -> list[str]:
    """List the images of two splits whose files are the same, byte for byte, under different names."""

    def digest(sample: FileSample) -> bytes:
        try:
            return hashlib.blake2b(sample.image_path.read_bytes()).digest()
        except OSError:  # a fault of its own
            return b""

    first: dict[bytes, tuple[str, str]] = {}
    faults = []
    for split, samples in splits.items():
        for sample, key in zip(samples, in_parallel(digest, samples, "Comparing files"), strict=True):
            other, name = first.setdefault(key, (split, sample.name))
            if other != split and name != sample.name and key:
                faults.append(f"{sample.name}: in {split} is the same file as {name} in {other}. Remove one of them.")
    return faults


def unequal_sizes(samples: Sequence[FileSample]) -> list[str]:
    """List the fault of images that cannot be stacked to a batch."""
    sizes = {sample.size: sample.name for sample in samples if sample.size != (0, 0)}
    if len(sizes) < 2:
        return []
    shown = ", ".join(f"{height} x {width} ({name})" for (height, width), name in list(sizes.items())[:3])
    remedy = "Set `size`, or `crop`."
    return [f"train: images of a batch must have one size, got {len(sizes)}: {shown}. {remedy}"]
