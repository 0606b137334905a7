"""Files of the data: opening them, and what is said of those that cannot be."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

MAX_LISTED = 20  # faults printed by one DataError; the rest are counted


class DataError(Exception):
    """Something is wrong with the data on disk: the message names the files, what is wrong, and the remedy.

    A DataLoader rebuilds a worker's exception from the text of its traceback. This class keeps only its own text, so
    `str(error)` is the same wherever the error arose.

    >>> raise DataError("masks/val/a.png: label 13 is out of range.")
    Traceback (most recent call last):
    segfocal.data.files.DataError: masks/val/a.png: label 13 is out of range.
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


def read_bytes(path: Path, name: str) -> bytes:
    """Read a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}). Restore it or its permissions.") from error


def open_array(path: Path, name: str) -> Array:
    """Open a .npy file without reading its values.

    Raises:
        DataError: If it is missing, truncated, no array of numbers, or has more than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{name}: does not exist. Restore it or take it out of the split.") from error
    except Exception as error:  # whatever NumPy's parser raises for a broken header
        raise DataError(f"{name}: is not a readable array ({error!s:.100}). Write it with numpy.save.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise DataError(f"{name}: must hold one array of numbers. Write it with numpy.save.")
    if not array.size or array.ndim not in (2, 3):
        raise DataError(f"{name}: must hold pixels in 2 or 3 dimensions, got the shape {array.shape}. Write it again.")
    if Image.MAX_IMAGE_PIXELS is not None and array.size > 64 * Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    return array


def check_png(data: bytes, name: str) -> None:
    """Compare each chunk of a PNG with its checksum, which not every reader does.

    Raises:
        DataError: If one differs, or the file ends too early.
    """
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4])
        end = place + 8 + length
        if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4]) or len(data) < end + 4:
            raise DataError(f"{name}: is truncated or corrupt (a wrong checksum). Replace it.")
        if data[place + 4 : place + 8] == b"IEND":
            return
        place = end + 4
    raise DataError(f"{name}: is truncated or corrupt (it has no end). Replace it.")
