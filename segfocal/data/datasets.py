"""Samples, and the data set that makes items for the net of them.

Shapes: C classes, H x W pixels of the image the net sees, H0 x W0 pixels of the stored mask.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from segfocal.data.masks import DataError, Labels, open_header, read_mask
from segfocal.data.transforms import Augment

Array = NDArray[Any]
Batch = dict[str, Any]

_WIDTH, _HEIGHT = 256, 257  # TIFF tags
_ORIENTATION = 274  # TIFF and EXIF tag; 5 to 8 turn the picture by a quarter


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
        """Return RGB (H0, W0, 3) uint8."""
        ...

    def mask(self, labels: Labels) -> Array:
        """Return legal labels (H0, W0), or dense (C, H0, W0) of 0, 1 and ignore_index; uint8 or uint16."""
        ...


class Decoded(Protocol):
    """Samples by their index."""

    def __getitem__(self, index: int, /) -> Sample:
        """The sample of that index."""
        ...


@dataclass(frozen=True)
class FileSample:
    """A sample in two files."""

    name: str
    image_path: Path
    mask_path: Path | None
    mask_name: str = ""
    size: tuple[int, int] = (0, 0)

    @property
    def path(self) -> str:
        """The image's file."""
        return str(self.image_path)

    def image(self) -> Array:
        """Return RGB (H0, W0, 3) uint8."""
        return read_image(self.image_path, self.name)

    def mask(self, labels: Labels) -> Array:
        """Return labels (H0, W0), uint8 or uint16.

        Raises:
            DataError: If the file cannot be decoded, holds other labels, or has another size than the image.
        """
        assert self.mask_path is not None, "only prediction has samples without masks, and never asks for them"
        mask = read_mask(self.mask_path, self.mask_name)
        if faults := self.mask_faults(mask, labels):
            raise DataError(faults[0])
        return mask

    def mask_faults(self, mask: Array, labels: Labels) -> list[str]:
        """List what is wrong with the decoded mask."""
        faults = [fault] if (fault := labels.fault(mask, self.mask_name)) else []
        return faults + self.size_faults(mask.shape)

    def size_faults(self, mask_size: tuple[int, ...]) -> list[str]:
        """List the fault of a mask whose (height, width) is not that of the image."""
        if self.size in (mask_size, (0, 0)):  # (0, 0): the image's header cannot be read, which is a fault of its own
            return []
        return [
            f"{self.mask_name}: image and mask must have one size, got {mask_size[0]} x {mask_size[1]} for the mask "
            f"and {self.size[0]} x {self.size[1]} for {self.name} (height x width, upright). Export the mask again."
        ]


def read_size(path: Path, name: str) -> tuple[int, int]:
    """Read (height, width) of an image from its header, after its EXIF rotation.

    Raises:
        DataError: If the header cannot be read or claims too many pixels.
    """
    with open_header(path, name) as header:
        return _upright_size(header)


def _upright_size(header: Image.Image) -> tuple[int, int]:
    width, height = header.size
    if header.format == "TIFF":  # of these, Pillow may have turned the size already
        tags = header.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH], tags[_HEIGHT]
    try:
        turned = header.getexif().get(_ORIENTATION, 1) >= 5
    except Exception:  # Pillow raises all kinds for broken metadata, which turn nothing
        turned = False
    return (width, height) if turned else (height, width)


def read_image(path: Path, name: str) -> Array:
    """Decode an image file to RGB (H, W, 3) uint8, upright.

    Grey is repeated, alpha is dropped, 16 bits are cut to the upper 8, CMYK is converted.

    Raises:
        DataError: If the file is missing, truncated, corrupt, too large, or holds floating-point values.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}). Restore it or its permissions.") from error
    header = open_header(io.BytesIO(data), name)
    if header.mode == "F":
        raise DataError(f"{name}: an image holds 8-bit or 16-bit values, got floating point. Convert it to 8 bits.")
    try:
        # OpenCV multiplies a TIFF by its fourth band, which may be infrared.
        if header.format == "TIFF" and header.mode == "RGBA":
            return np.array(ImageOps.exif_transpose(header).convert("RGB"))
        # From bytes, because cv2.imread returns a full picture for most truncated JPEGs.
        image: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (cv2.error, OSError, SyntaxError, ValueError):
        image = None
    if image is None or image.shape[:2] != _upright_size(header):
        raise DataError(f"{name}: is truncated or corrupt. Replace it or take it out of the split.")
    return image


class SegmentationDataset(Dataset[Batch]):
    """Images with their masks, as dictionaries of tensors and names.

    Args:
        samples: What to read.
        labels: The legal labels.
        size: (H, W) to which images are resized; None keeps them.
        train: Augment, and resize masks with the image. Otherwise masks keep their own resolution.
        augment: Called with image, mask and a seed when `train`, before they are resized.
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
        augment: Augment | None = None,
        with_masks: bool = True,
        decoded: Decoded | None = None,
    ) -> None:
        self.samples = samples
        self.decoded: Decoded = samples if decoded is None else decoded
        self.labels = labels
        self.size = size
        self.train = train
        self.augment = augment
        self.with_masks = with_masks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        """Read one sample. The key is its index, or (index, seed of its random numbers)."""
        index, seed = key if isinstance(key, tuple) else (key, 0)
        sample = self.decoded[index]
        image = sample.image()
        if not self.with_masks:
            image = resize_image(image, self.size)
            return {"image": _to_tensor(image), "name": sample.name, "size": sample.size, "path": sample.path}
        mask = sample.mask(self.labels)
        if self.train:
            if self.augment is not None:
                image, mask = self._augmented(self.augment, sample.name, image, mask, seed)
            mask = resize_mask(mask, self.size)
        image = resize_image(image, self.size)
        mask = np.ascontiguousarray(mask, dtype=self.labels.dtype)
        return {"image": _to_tensor(image), "mask": torch.from_numpy(mask), "name": sample.name}

    @staticmethod
    def _augmented(augment: Augment, name: str, image: Array, mask: Array, seed: int) -> tuple[Array, Array]:
        try:
            return augment(image, mask, seed)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error


def resize_image(image: Array, size: tuple[int, int] | None) -> Array:
    """Resize an image (H, W, 3) to `size` (H, W): by area when it shrinks, else linearly. None keeps it."""
    if size is None or size == image.shape[:2]:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def resize_mask(mask: Array, size: tuple[int, int] | None) -> Array:
    """Resize labels (H, W) or dense labels (C, H, W) to `size` (H, W), each pixel from the nearest. None keeps them."""
    if size is None or size == mask.shape[-2:]:
        return mask
    if mask.ndim == 3:
        return np.stack([resize_mask(plane, size) for plane in mask])
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def _to_tensor(image: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
