"""Label masks: from the bytes of a file to an array of labels, the rule for legal labels, and their colours.

Shapes: H x W pixels, C classes. Labels are never remapped: the value in the file is the value in the batch.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["DataError", "Labels", "default_palette", "fault_report", "open_header", "read_mask"]

Array = NDArray[Any]

MAX_LISTED = 20  # faults printed by one DataError; the rest are counted
_EXACT_MODES = {"L", "P", "1", "I", "I;16", "I;16L", "I;16B"}


class DataError(Exception):
    """Something is wrong with the data on disk: the message names the files, what is wrong, and the remedy.

    A DataLoader rebuilds a worker's exception from the text of its traceback. This class keeps only its own text, so
    `str(error)` is the same wherever the error arose.

    >>> raise DataError("masks/val/a.png: label 13 is out of range.")
    Traceback (most recent call last):
    segfocal.data.masks.DataError: masks/val/a.png: label 13 is out of range.
    """

    def __init__(self, message: str) -> None:
        if message.startswith(f"Caught {type(self).__name__} in "):
            message = message.rpartition(f"\n{type(self).__module__}.{type(self).__qualname__}: ")[2].rstrip("\n")
        super().__init__(message)


def fault_report(faults: Sequence[str], where: str) -> DataError:
    """Return one DataError that lists all faults, the first 20 in full.

    >>> print(fault_report(["a.png: has no mask.", "b.png: is empty."], "data/street"))
    2 faults in data/street:
      a.png: has no mask.
      b.png: is empty.
    """
    faults = list(dict.fromkeys(faults))  # two splits may share one, such as a missing root
    lines = [f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in {where}:", *faults[:MAX_LISTED]]
    if len(faults) > MAX_LISTED:
        lines.append(f"and {len(faults) - MAX_LISTED} more")
    return DataError("\n  ".join(lines))


def open_header(file: Path | io.BytesIO, name: str) -> Image.Image:
    """Read the header of an image file, without its pixels.

    Args:
        file: A path or the file's bytes.
        name: What an error calls the file.

    Returns:
        A lazy image; `size` is (width, height) as stored, before any EXIF rotation.

    Raises:
        DataError: If the file is missing, empty, no image, or larger than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: does not exist. Restore it or take it out of the split.") from error
    except (OSError, SyntaxError, ValueError) as error:
        empty = file.stat().st_size == 0 if isinstance(file, Path) else not file.getbuffer().nbytes
        what = "is empty (0 bytes)" if empty else "is not a readable image"
        raise DataError(f"{name}: {what}. Replace it or take it out of the split.") from error
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    return image


def _too_large(name: str) -> DataError:
    return DataError(
        f"{name}: its header claims more than {Image.MAX_IMAGE_PIXELS} pixels, which may be an attack. "
        "If the file is sound, cut it into tiles or raise PIL.Image.MAX_IMAGE_PIXELS."
    )


def read_mask(path: Path, name: str) -> Array:
    """Decode the labels of a mask file.

    Grey files (1 to 16 bits) give their values, palette files give their indices: the colours mean nothing.

    Args:
        path: PNG, BMP, TIFF, PGM or any other lossless file with one value per pixel.
        name: What an error calls the file.

    Returns:
        Labels (H, W), uint8, or uint16 where a label exceeds 255.

    Raises:
        DataError: If the file is unreadable, truncated, has colours instead of labels, or is a JPEG.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}). Restore it or its permissions.") from error
    image = open_header(io.BytesIO(data), name)
    if image.format == "JPEG":
        raise DataError(f"{name}: is a JPEG, whose compression changes labels. Store masks as PNG.")
    if image.mode not in _EXACT_MODES:
        raise DataError(
            f"{name}: a mask holds one label per pixel (8-bit or 16-bit grey, or a palette), got mode {image.mode}. "
            "Convert its colours to label values first."
        )
    bits = data[24] if image.format == "PNG" and image.mode == "L" else 8  # the depth in a PNG's header chunk
    # OpenCV is faster, but turns palettes and transparency into colours.
    plain = image.format == "PNG" and image.mode == "L" and bits == 8 and "transparency" not in image.info
    try:
        labels = _decode_grey(data) if plain else np.array(image)  # a copy: torch wants writable memory
    except (cv2.error, OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{name}: is truncated or corrupt ({error}). Replace it.") from error
    if bits < 8:
        labels = labels // (255 // (2**bits - 1))  # the reader stretches 2 and 4 bits to 0..255
    return _narrow(labels, name)


def _decode_grey(data: bytes) -> Array:
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise ValueError("broken PNG")
    return np.asarray(labels)


def _narrow(labels: Array, name: str) -> Array:
    if labels.dtype == np.uint8:
        return labels
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: labels must lie in 0..65535, got {low if low < 0 else high}. Write the mask again.")
    return labels.astype(np.uint8 if high <= 255 else np.uint16)


@dataclass(frozen=True)
class Labels:
    """Which labels a mask may hold.

    A single class means a binary task, where 0 is the background and 1 the class.

    >>> Labels(num_classes=3, ignore_index=255).illegal(np.array([[0, 2], [3, 255]], np.uint8))
    [3]
    """

    num_classes: int
    ignore_index: int

    @property
    def count(self) -> int:
        """Number of labels besides `ignore_index`: the classes, and for a binary task the background."""
        return max(self.num_classes, 2)

    @property
    def dtype(self) -> type[np.uint8] | type[np.int32]:
        """The smallest type that holds every legal label."""
        return np.uint8 if max(self.count - 1, self.ignore_index) <= 255 else np.int32

    def illegal(self, mask: Array) -> list[int]:
        """List the values in `mask` (any shape, uint8 or uint16) that are neither a class nor `ignore_index`."""
        if mask.dtype == np.uint8 and not cv2.hasNonZero(cv2.LUT(mask.reshape(-1, mask.shape[-1]), self._table)):
            return []  # at a third of the time of what follows
        return [value for value in present_labels(mask) if value >= self.count and value != self.ignore_index]

    @cached_property
    def _table(self) -> Array:
        """0 for each of 256 values that is legal, else 1."""
        values = np.arange(256)
        return np.asarray((values >= self.count) & (values != self.ignore_index), np.uint8)

    def fault(self, mask: Array, name: str) -> str | None:
        """Say what is wrong with the labels of the mask called `name`; None if nothing is."""
        bad = self.illegal(mask)
        if not bad:
            return None
        shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        remedy = "Add the missing classes, or set `ignore_index` to the value that marks void."
        if self.num_classes == 1 and bad == [255]:
            remedy = "A single class is stored as 0 and 1: divide the mask by 255."
        return f"{name}: labels must be 0..{self.count - 1} or {self.ignore_index} (ignored), got {shown}. {remedy}"


def present_labels(mask: Array) -> list[int]:
    """List the distinct values of a uint8 or uint16 mask of any shape, in rising order."""
    if mask.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(cv2.calcHist([mask.reshape(-1, 1)], [0], None, [256], [0, 256]))]
    return [int(v) for v in np.unique(mask)]


# The colours of Okabe and Ito (2008) without black: told apart with and without colour blindness.
_FIRST_COLOURS = [
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
]  # fmt: skip
# RGB (linear) as seen with deuteranopia (Machado, Oliveira and Fernandes, 2009).
_DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])


def default_palette(count: int) -> list[tuple[int, int, int]]:
    """Return `count` distinct RGB colours; black and white stay free for void and outlines.

    >>> default_palette(2)
    [(0, 114, 178), (230, 159, 0)]
    """
    palette = list(_FIRST_COLOURS)
    steps = np.linspace(30, 255, 9).astype(np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    seen = _perceived(candidates)
    taken = _perceived(np.array([*palette, (0, 0, 0), (255, 255, 255)], np.uint8))
    nearest = np.min([_distance(seen, taken[:, i : i + 1]) for i in range(taken.shape[1])], axis=0)
    while len(palette) < count:
        best = int(nearest.argmax())
        palette.append(tuple(int(v) for v in candidates[best]))  # type: ignore[arg-type]
        nearest = np.minimum(nearest, _distance(seen, seen[:, best : best + 1]))
    return palette[:count]


def _perceived(colours: Array) -> Array:
    """Map RGB (N, 3) uint8 to Lab (2, N, 3), as seen with normal vision and with deuteranopia."""
    linear = (colours / 255.0) ** 2.2
    views = np.stack([linear, np.clip(linear @ _DEUTERANOPIA.T, 0, 1)]) ** (1 / 2.2)
    return np.asarray(cv2.cvtColor(views.astype(np.float32), cv2.COLOR_RGB2LAB))


def _distance(seen: Array, one: Array) -> Array:
    """Lab distance of each colour of (2, N, 3) to the one of (2, 1, 3), in the view where they are closer."""
    distance: Array = np.linalg.norm(seen - one, axis=-1).min(axis=0)
    return distance
