"""Samples: an image and its mask, wherever they come from. Without torch.

Shapes: C classes, D bands, H0 x W0 pixels of image and mask as they are stored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segfocal.data.files import DataError
from segfocal.data.images import RGB, Bands, read_image
from segfocal.data.labels import Labels
from segfocal.data.masks import read_channels, read_mask

Array = NDArray[Any]


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
