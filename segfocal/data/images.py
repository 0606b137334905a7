"""Images: from the bytes of a file to an array of pixels.

Shapes: H x W pixels, D bands.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segfocal.data.files import DataError, check_png, open_array, open_header, read_bytes
from segfocal.data.orientation import orientation
from segfocal.data.tiffs import TiffHeader, is_tiff, read_tiff, tiff_header

Array = NDArray[Any]

_WIDTH, _HEIGHT = 256, 257  # TIFF tags


@dataclass(frozen=True)
class Bands:
    """What an image file holds, and how its values become uint8.

    Attributes:
        count: 3, RGB, made of whatever the file holds; 1, grey, likewise; any other number, as many bands as stored.
        value_range: The stored values that become 0 and 255; None: 0 and the largest value of the stored type.
    """

    count: int = 3
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise ValueError(f"Expected `in_channels` to be an integer of at least 1, got {self.count!r}. Correct it.")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"Expected `value_range` to be two finite numbers, low < high, got {self.value_range}. Correct it."
                )

    @property
    def exact(self) -> bool:
        """Whether files must hold just these bands; otherwise colours and grey are made of what they hold."""
        return self.count not in (1, 3) or self.value_range is not None


RGB = Bands()


def read_size(path: Path, name: str, bands: Bands = RGB) -> tuple[int, int]:
    """Read (height, width) of an image from its header; after its EXIF rotation if it is read as a photo.

    Raises:
        DataError: If the header cannot be read, claims too many pixels, or other bands than `bands`.
    """
    if path.suffix.lower() == ".npy":
        array = _bands_last(open_array(path, name), name, bands.count)
        check_type(array.dtype, name, bands)
        return array.shape[0], array.shape[1]
    if is_tiff(path):
        header = tiff_header(path, name)
        stored = as_stored(header, name, bands)
        size = header.height, header.width
        return size[::-1] if header.turned and not stored else size
    with open_header(path, name) as opened:
        if not bands.exact:
            return _upright_size(opened)
        # What OpenCV decodes a palette, transparency, and grey with transparency to.
        count = {"P": 3, "LA": 4}.get(opened.mode, len(opened.getbands())) + ("transparency" in opened.info)
        if count != bands.count:
            raise other_bands(name, count, bands.count)
        return opened.height, opened.width


def read_image(path: Path, name: str, bands: Bands = RGB) -> Array:
    """Decode an image file to (H, W, D) uint8.

    Three bands are RGB and one is grey, upright, of any file: colours and grey are converted into one another, alpha is
    dropped, 16 bits are cut to the upper 8. Other numbers of bands, any with a `value_range`, and those of a TIFF that
    does not call them colours are read as they are stored, from PNG, TIFF (also with bands as planes or pages) or .npy,
    (H, W, D) or (D, H, W).

    Raises:
        DataError: If the file is missing, truncated, corrupt, too large, has other bands, or holds floating-point
            values without a `value_range`.
    """
    if bands.exact or path.suffix.lower() == ".npy":
        stored = read_bands(path, name, bands.count)
        check_type(stored.dtype, name, bands)
        return as_uint8(stored, bands.value_range)
    if is_tiff(path):
        header = tiff_header(path, name)
        if as_stored(header, name, bands):
            return as_uint8(read_bands(path, name, bands.count), None)
        if header.compressed:
            read_tiff(path, name)  # OpenCV, which knows how to show colours, overlooks damage
    data = read_bytes(path, name)
    return _photo(data, open_header(io.BytesIO(data), name), name, bands.count)


def read_bands(path: Path, name: str, count: int) -> Array:
    """Decode the bands of a PNG, TIFF or .npy file as they are stored, (H, W, count) of any type.

    Raises:
        DataError: If the file is unreadable, truncated, or has another number of bands.
    """
    if path.suffix.lower() == ".npy":
        return np.array(_bands_last(open_array(path, name), name, count))
    if is_tiff(path):
        image = read_tiff(path, name)
        if image.shape[2] != count:
            raise other_bands(name, image.shape[2], count)
        return image
    data = read_bytes(path, name)
    return _stored(data, open_header(io.BytesIO(data), name), name, count)


def _photo(data: bytes, header: Image.Image, name: str, count: int) -> Array:
    try:
        # OpenCV multiplies a TIFF by its fourth band, which may be infrared.
        if header.format == "TIFF" and header.mode == "RGBA":
            upright = np.array(ImageOps.exif_transpose(header).convert("RGB" if count == 3 else "L"))
            return upright.reshape(*upright.shape[:2], count)
        # From bytes, because cv2.imread returns a full picture for most truncated JPEGs.
        flag = cv2.IMREAD_COLOR_RGB if count == 3 else cv2.IMREAD_GRAYSCALE
        image: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except (cv2.error, OSError, SyntaxError, ValueError):
        image = None
    if image is None or image.shape[:2] != _upright_size(header):
        raise _corrupt(name)
    return image.reshape(*image.shape[:2], count)


def _stored(data: bytes, header: Image.Image, name: str, count: int) -> Array:
    """The bands of a PNG, JPEG or the like as they are, red first."""
    if header.format == "PNG":
        check_png(data, name)
        if data[24] < 8:  # the depth
            raise DataError(f"{name}: has {data[24]} bits per value, which readers stretch. Store it with 8.")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise _corrupt(name)
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[2] != count:
        raise other_bands(name, image.shape[2], count)
    return image if count < 3 else image[..., [2, 1, 0, *range(3, count)]]


def _bands_last(array: Array, name: str, count: int) -> Array:
    """An array of pixels as (H, W, count)."""
    shape = array.shape
    if len(shape) == 2 and count == 1:
        return array[..., None]
    if len(shape) == 3 and shape[2] == count:
        return array
    if len(shape) == 3 and shape[0] == count:
        return np.moveaxis(array, 0, -1)
    raise DataError(f"{name}: an array must be (H, W, {count}) or ({count}, H, W), got {shape}. See `in_channels`.")


def as_uint8(image: Array, value_range: tuple[float, float] | None) -> Array:
    """Scale to 0..255; NaN, which marks missing values, becomes 0."""
    if value_range is not None:
        low, high = value_range
        scaled = (image.astype(np.float32) - low) * np.float32(255 / (high - low))
        known: Array = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
        return known.clip(0, 255).round().astype(np.uint8)
    if image.dtype == np.uint16:
        return (image >> 8).astype(np.uint8)
    return np.where(image, np.uint8(255), np.uint8(0)) if image.dtype == np.bool_ else np.ascontiguousarray(image)


def as_stored(header: TiffHeader, name: str, bands: Bands) -> bool:
    """Whether a TIFF is read as it is stored, or as a photo.

    Raises:
        DataError: It has other bands, or values whose black and white nobody knows.
    """
    stored = bands.exact or not header.photo
    if stored and header.bands != bands.count:
        raise other_bands(name, header.bands, bands.count)
    check_type(header.dtype, name, bands, photo=not stored)
    return stored


def check_type(dtype: np.dtype[Any], name: str, bands: Bands, *, photo: bool = True) -> None:
    """Refuse values whose black and white nobody knows; the 16 bits of photos fill their range, others' seldom do."""
    known = (np.uint8, np.bool_) if bands.exact or not photo else (np.uint8, np.bool_, np.uint16)
    if bands.value_range is None and dtype not in known:
        raise DataError(
            f"{name}: holds {dtype} values, whose black and white nobody knows. Give `value_range`, such as [0, 3000]."
        )


def _upright_size(header: Image.Image) -> tuple[int, int]:
    width, height = header.size
    if header.format == "TIFF":  # of these, Pillow may have turned the size already
        tags = header.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH], tags[_HEIGHT]
    try:
        turned = orientation(header) >= 5
    except Exception:  # Pillow raises all kinds for broken metadata, which turn nothing
        turned = False
    return (width, height) if turned else (height, width)


def _corrupt(name: str) -> DataError:
    return DataError(f"{name}: is truncated or corrupt. Replace it or take it out of the split.")


def other_bands(name: str, stored: int, count: int) -> DataError:
    """The error of a file with another number of bands."""
    return DataError(
        f"{name}: has {stored} bands, expected {count}. Correct `in_channels` (an image) or `classes` (a mask)."
    )
