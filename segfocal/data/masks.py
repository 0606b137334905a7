"""Mask files: from their bytes to the raw values they hold. What these mean is said in labels.py.

Shapes: H x W pixels, C classes.
"""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segfocal.data.files import DataError, check_png, open_array, open_header, read_bytes
from segfocal.data.images import Bands, read_bands, read_size
from segfocal.data.labels import Labels
from segfocal.data.tiffs import is_tiff

Array = NDArray[Any]

_EXACT_MODES = {"L", "P", "1", "I", "I;16", "I;16L", "I;16B"}


def read_mask(path: Path, name: str, *, colours: bool = False) -> Array:
    """Decode a mask file with one value or one colour per pixel.

    Grey files (1 to 16 bits) give their values, palette files give their indices: the colours mean nothing, unless
    `colours` are asked for.

    Args:
        path: PNG, BMP, TIFF, PGM or any other lossless file, or .npy with integers (H, W).
        name: What an error calls the file.
        colours: Give the colours, of grey, palette and RGB files; alpha is dropped.

    Returns:
        Values (H, W), uint8, or uint16 where one exceeds 255; or colours (H, W), 0xRRGGBB as int32.

    Raises:
        DataError: If the file is unreadable, truncated, has colours where labels are wanted, or is a JPEG.
    """
    if path.suffix.lower() == ".npy":
        return _array_mask(path, name, colours)
    if is_tiff(path) and not colours:
        return _narrow(read_bands(path, name, 1)[..., 0], name)  # other readers invert or stretch what is stored
    data = read_bytes(path, name)
    image = open_header(io.BytesIO(data), name)
    if image.format == "JPEG":
        raise DataError(f"{name}: is a JPEG, whose compression changes labels. Store masks as PNG.")
    if image.format == "PPM" and (data[:2] in (b"P1", b"P4") or _largest(data) not in (255, 65535)):
        raise DataError(f"{name}: readers stretch or invert the values of such a PBM or PGM. Store masks as PNG.")
    bits = data[24] if image.format == "PNG" and image.mode == "L" else 8  # the depth in a PNG's header chunk
    # OpenCV is faster, but turns palettes and transparency into colours.
    plain = image.format == "PNG" and image.mode == "L" and bits == 8 and "transparency" not in image.info
    if image.format == "PNG" and not plain:
        check_png(data, name)
    try:
        if colours:
            red, green, blue = np.moveaxis(np.array(image.convert("RGB"), np.int32), -1, 0)
            return np.asarray(red << 16 | green << 8 | blue)
        if image.mode not in _EXACT_MODES:
            raise DataError(
                f"{name}: a mask holds one label per pixel (8-bit or 16-bit grey, or a palette), got mode "
                f"{image.mode}. If its colours are the labels, list them: `classes: {{road: [[128, 64, 128]], ...}}`."
            )
        labels = _decode_grey(data) if plain else np.array(image)  # a copy: torch wants writable memory
    except (cv2.error, OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{name}: is truncated or corrupt ({error}). Replace it.") from error
    if bits < 8:
        labels = labels // (255 // (2**bits - 1))  # the reader stretches 2 and 4 bits to 0..255
    return _narrow(labels, name)


def read_channels(path: Path, name: str, count: int) -> Array:
    """Decode a mask file with a channel per class: PNG, TIFF or .npy, (H, W, C) or (C, H, W).

    Returns:
        Values (C, H, W), uint8, or uint16 where one exceeds 255.

    Raises:
        DataError: If the file is unreadable, truncated, or has another number of channels.
    """
    return _narrow(np.ascontiguousarray(np.moveaxis(read_bands(path, name, count), -1, 0)), name)


def read_mask_size(path: Path, name: str, labels: Labels) -> tuple[int, int]:
    """Read (height, width) of a mask from its header.

    Raises:
        DataError: If the header cannot be read.
    """
    if labels.form == "channels":
        return read_size(path, name, Bands(labels.num_classes, (0, 1)))
    if path.suffix.lower() == ".npy" or is_tiff(path):
        return read_size(path, name, Bands(1, (0, 1)))
    with open_header(path, name) as header:  # masks are not turned
        return header.height, header.width


def _array_mask(path: Path, name: str, colours: bool) -> Array:
    array = open_array(path, name)
    if colours or array.ndim != 2 or array.dtype.kind == "f":
        raise DataError(
            f"{name}: a mask in a .npy file holds integers (H, W), got {array.dtype} {array.shape}. Convert it, with "
            "label values in `classes`."
        )
    return _narrow(np.array(array), name)


def _largest(data: bytes) -> int:
    """The value of a PGM or PPM that stands for white: the third number of its header."""
    words = re.sub(rb"#[^\n]*", b"", data[:1000]).split()
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else 255


def _decode_grey(data: bytes) -> Array:
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise ValueError("broken PNG")
    return np.asarray(labels)


def _narrow(labels: Array, name: str) -> Array:
    if labels.dtype == np.uint8:
        return labels
    if labels.dtype.kind not in "bui":
        raise DataError(f"{name}: labels must be integers, got {labels.dtype}. Write the mask again.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: labels must lie in 0..65535, got {low if low < 0 else high}. Write the mask again.")
    return labels.astype(np.uint8 if high <= 255 else np.uint16)
