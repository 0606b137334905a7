"""Samples, and the data set that makes items for the net of them.

Shapes: C classes, D bands, H x W pixels of the image the net sees, H0 x W0 pixels of the stored mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segfocal.data.files import DataError
from segfocal.data.images import RGB, Bands, read_image
from segfocal.data.labels import Labels
from segfocal.data.masks import read_channels, read_mask
from segfocal.data.sampling import RareImages
from segfocal.data.transforms import Augment

Array = NDArray[Any]
Batch = dict[str, Any]


class Sample(Protocol):
    """One image and its mask, wherever they come from."""

    @property
    def name(self) -> str:
        """Unique within the split; ends up in `batch["name"]`."""
        ...

    @property
    def path(self) -> str | None:
        """The image's file; None for a generated one."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(H0, W0) of image and mask."""
        ...

    def image(self) -> Array:
        """Return the pixels (H0, W0, D) uint8."""
        ...

    def mask(self, labels: Labels) -> Array:
        """Return legal labels (H0, W0), or dense (C, H0, W0) of 0, 1 and ignore_index."""
        ...


class Decoded(Protocol):
    """Samples by their index."""

    def __getitem__(self, index: int, /) -> Sample:
        """The sample of that index."""
        ...


@dataclass(frozen=True)
class FileSample:
    """A sample in files.

    Attributes:
        name: Unique within the split.
        image_path: The image.
        mask_path: The mask; None for an image alone.
        mask_name: What errors call the mask.
        size: (H0, W0) of the image; (0, 0) if its header has not been read, or cannot be.
        planes: Where every class has a mask of its own, path and name of each in place of `mask_path`; None for a class
            that does not occur.
        bands: How the image is read.
    """

    name: str
    image_path: Path
    mask_path: Path | None
    mask_name: str = ""
    size: tuple[int, int] = (0, 0)
    planes: tuple[tuple[Path, str] | None, ...] = ()
    bands: Bands = RGB

    @property
    def path(self) -> str:
        """The image's file."""
        return str(self.image_path)

    @property
    def masks(self) -> list[tuple[Path, str]]:
        """Path and name of every mask file."""
        own = [] if self.mask_path is None else [(self.mask_path, self.mask_name)]
        return [plane for plane in self.planes if plane is not None] or own

    def image(self) -> Array:
        """Return the pixels (H0, W0, D) uint8."""
        return read_image(self.image_path, self.name, self.bands)

    def mask(self, labels: Labels) -> Array:
        """Return labels (H0, W0), or dense (C, H0, W0) of 0, 1 and ignore_index; uint8 or uint16.

        Raises:
            DataError: If a file cannot be decoded, holds other labels, or has another size than the image.
        """
        mask, faults = self.decoded(labels)
        if mask is None:
            raise DataError(faults[0])
        return mask

    def decoded(self, labels: Labels) -> tuple[Array | None, list[str]]:
        """The mask, or None and everything that is wrong with it.

        Raises:
            DataError: If a file cannot be decoded.
        """
        assert self.masks, "only prediction has samples without masks, and never asks for them"
        if labels.dense:
            return self._dense(labels)
        raw = read_mask(*self.masks[0], colours=labels.colours)
        faults = self._faults(raw, labels, self.mask_name)
        return (None if faults else labels.legal(raw)), faults

    def _dense(self, labels: Labels) -> tuple[Array | None, list[str]]:
        raws: dict[int, tuple[Array, str]] = {}  # by class; one without a file occurs nowhere
        if labels.form == "channels":
            channels = read_channels(*self.masks[0], labels.num_classes)
            raws = {index: (channel, self.mask_name) for index, channel in enumerate(channels)}
        else:
            for index, plane in enumerate(self.planes):
                if plane is not None:
                    raws[index] = read_mask(*plane, colours=labels.colours), plane[1]
        faults = [fault for index, (raw, name) in raws.items() for fault in self._faults(raw, labels, name, index)]
        if not faults and len({raw.shape for raw, _ in raws.values()}) > 1:
            faults = [f"{self.mask_name}: the masks of {self.name} differ in size. Export them again."]
        if faults:
            return None, faults
        height, width = next(iter(raws.values()))[0].shape
        mask = np.zeros((labels.num_classes, height, width), labels.dtype)
        for index, (raw, _) in raws.items():
            mask[index] = labels.legal(raw, index)
        return mask, []

    def _faults(self, raw: Array, labels: Labels, name: str, plane: int = 0) -> list[str]:
        faults = [fault] if (fault := labels.fault(raw, name, plane)) else []
        return faults + self.size_faults(raw.shape, name)

    def size_faults(self, mask_size: tuple[int, ...], name: str) -> list[str]:
        """List the fault of a mask whose (height, width) is not that of the image."""
        if self.size in (mask_size, (0, 0)):  # (0, 0): the image's header cannot be read, which is a fault of its own
            return []
        return [
            f"{name}: image and mask must have one size, got {mask_size[0]} x {mask_size[1]} for the mask "
            f"and {self.size[0]} x {self.size[1]} for {self.name} (height x width, upright). Export the mask again."
        ]


_notes = torch.zeros(1, dtype=torch.int64)  # 1 + the index of the sample that is being read, 0 for none


def note_with(notes: Tensor) -> None:
    """From now on this process notes in `notes`, (1,), what it reads."""
    global _notes
    _notes = notes


class SegmentationDataset(Dataset[Batch]):
    """Images with their masks, as dictionaries of tensors and names.

    Args:
        samples: What to read.
        labels: The legal labels.
        size: (H, W) to which images are resized; None keeps them.
        train: Augment, and resize masks with the image. Otherwise masks keep their own resolution.
        crop: Called with image, mask and a seed when `train`, before `augment`.
        augment: Called likewise, before they are resized.
        rare: Which images an epoch shows more often; None shows each once.
        with_masks: False for prediction: items then hold "size" and "path" instead of "mask".
        decoded: What to read in place of `samples`, in the same order: a `Cache` of them; None reads `samples`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Labels,
        *,
        size: tuple[int, int] | None = None,
        train: bool = False,
        crop: Augment | None = None,
        augment: Augment | None = None,
        rare: RareImages | None = None,
        with_masks: bool = True,
        decoded: Decoded | None = None,
    ) -> None:
        self.samples = samples
        self.decoded: Decoded = samples if decoded is None else decoded
        self.labels = labels
        self.size = size
        self.train = train
        self.crop = crop
        self.augment = augment
        self.rare = rare
        self.with_masks = with_masks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        """Read one sample. The key is its index, or (index, seed of its random numbers)."""
        index, seed = key if isinstance(key, tuple) else (key, 0)
        _notes[:] = index + 1
        item = self._item(index, seed)
        _notes[:] = 0
        return item

    def _item(self, index: int, seed: int) -> Batch:
        sample = self.decoded[index]
        image = sample.image()
        if not self.with_masks:
            image = resize_image(image, self.size)
            return {"image": _to_tensor(image), "name": sample.name, "size": sample.size, "path": sample.path}
        mask = sample.mask(self.labels)
        if self.train:
            if self.crop is not None:
                image, mask = self.crop(image, mask, seed)
            if self.augment is not None:
                image, mask = self._augmented(self.augment, sample.name, image, mask, seed)
            mask = resize_mask(mask, self.size)
        image = resize_image(image, self.size)
        # PyTorch has no arithmetic for uint16.
        mask = np.ascontiguousarray(mask, np.uint8 if self.labels.dtype is np.uint8 else np.int32)
        return {"image": _to_tensor(image), "mask": torch.from_numpy(mask), "name": sample.name}

    @staticmethod
    def _augmented(augment: Augment, name: str, image: Array, mask: Array, seed: int) -> tuple[Array, Array]:
        try:
            return augment(image, mask, seed)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error


def resize_image(image: Array, size: tuple[int, int] | None) -> Array:
    """Resize an image (H, W, D) to `size` (H, W): by area when it shrinks, else linearly. None keeps it."""
    if size is None or size == image.shape[:2]:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized).reshape(*size, image.shape[2])  # OpenCV drops a single band


def resize_mask(mask: Array, size: tuple[int, int] | None) -> Array:
    """Resize labels (H, W) or dense labels (C, H, W) to `size` (H, W), each pixel from the nearest. None keeps them."""
    if size is None or size == mask.shape[-2:]:
        return mask
    if mask.ndim == 3:
        return np.stack([resize_mask(plane, size) for plane in mask])
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def _to_tensor(image: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
