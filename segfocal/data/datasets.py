"""The data set: from samples to items for the net.

Shapes: C classes, D bands, H x W pixels of the image the net sees, H0 x W0 pixels of the stored mask.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segfocal.data.files import DataError
from segfocal.data.labels import Labels
from segfocal.data.samples import Decoded, FileSample, Sample
from segfocal.data.sampling import RareImages
from segfocal.data.transforms import Augment

Array = NDArray[Any]
Batch = dict[str, Any]

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
        skip_broken: For prediction: of an image that cannot be read give zeros, and what is wrong with it as "fault",
            which is "" for the others.
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
        skip_broken: bool = False,
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
        self.skip_broken = skip_broken

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
        if not self.with_masks:
            return self._unlabelled(sample)
        image = sample.image()
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

    def _unlabelled(self, sample: Sample) -> Batch:
        fault = ""
        try:
            image = sample.image()
        except DataError as error:
            if not self.skip_broken or not isinstance(sample, FileSample):
                raise
            image, fault = np.zeros((*sample.size, sample.bands.count), np.uint8), str(error)
        item = {"image": _to_tensor(resize_image(image, self.size)), "name": sample.name, "size": sample.size}
        return item | {"path": sample.path} | ({"fault": fault} if self.skip_broken else {})

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
    bands = image.shape[2]
    if bands > 4:  # which is as many as OpenCV shrinks at once
        return np.concatenate([resize_image(image[..., i : i + 4], size) for i in range(0, bands, 4)], axis=-1)
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how)
    return np.asarray(resized).reshape(*size, bands)  # OpenCV drops a single band


def resize_mask(mask: Array, size: tuple[int, int] | None) -> Array:
    """Resize labels (H, W) or dense labels (C, H, W) to `size` (H, W), each pixel from the nearest. None keeps them."""
    if size is None or size == mask.shape[-2:]:
        return mask
    if mask.ndim == 3:
        return np.stack([resize_mask(plane, size) for plane in mask])
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def _to_tensor(image: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
