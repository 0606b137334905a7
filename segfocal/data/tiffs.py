"""TIFF files by tifffile: any number of bands of any type, and no damage overlooked.

Shapes: H x W pixels, D bands.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfocal.data.files import DataError

Array = NDArray[Any]

_ORIENTATION = 274  # the tag; 1 is upright, 5 to 8 turn the picture by a quarter
_NONE = 1  # no compression
_GREY = (0, 1)  # photometric interpretations: 0 is white, or 0 is black; also what writers give bands without colours


class TiffHeader(NamedTuple):
    """What a TIFF says of its first image; `photo`: that it is grey or has colours, and not just any bands."""

    height: int
    width: int
    bands: int
    dtype: np.dtype[Any]
    orientation: int
    compressed: bool
    photo: bool

    @property
    def turned(self) -> bool:
        """Whether the picture lies on its side."""
        return self.orientation >= 5


def is_tiff(path: Path) -> bool:
    """Whether the name is that of a TIFF."""
    return path.suffix.lower() in (".tif", ".tiff")


def tiff_header(path: Path, name: str, *, any_size: bool = False) -> TiffHeader:
    """Read the header of a TIFF.

    Raises:
        DataError: If it is missing, broken, no single image, or, unless of `any_size`, larger than
            `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    with _opened(path, name) as file:
        return _header(file, name, None if any_size else Image.MAX_IMAGE_PIXELS)


def read_tiff(path: Path, name: str) -> Array:
    """Decode a TIFF as it is stored, (H, W, D) of any type, bands as planes or pages too.

    Raises:
        DataError: If it is missing, truncated, corrupt, no single image, or too large.
    """
    with _opened(path, name) as file:
        header, axes = _header(file, name, Image.MAX_IMAGE_PIXELS), file.series[0].axes
        image = file.series[0].asarray()
        if image.ndim == 3 and axes[2] in "YX":
            image = np.moveaxis(image, 0, -1)
        return np.asarray(image.reshape(header.height, header.width, header.bands))


def _header(file: Any, name: str, most: int | None) -> TiffHeader:  # noqa: ANN401
    series = file.series[0]
    axes, shape = series.axes, series.shape
    if "Y" not in axes or "X" not in axes or len(shape) > 3:
        raise DataError(f"{name}: a TIFF holds pixels and bands, got axes {axes}. Export it as a single image.")
    height, width = shape[axes.index("Y")], shape[axes.index("X")]
    if not height * width or (most is not None and height * width > most):
        raise DataError(f"{name}: its header claims {height} x {width} pixels. Replace it, or cut it into tiles.")
    bands = next((n for axis, n in zip(axes, shape, strict=True) if axis not in "YX"), 1)
    page = series.pages[0]
    tag = page.tags.get(_ORIENTATION)
    orientation = 1 if tag is None else int(tag.value)
    dtype, samples = np.dtype(series.dtype), int(page.samplesperpixel)
    # Of several bands that it calls grey, Pillow refuses most and OpenCV shows the first one.
    photo = samples <= 4 if int(page.photometric) not in _GREY else samples == 1 or (samples == 2 and dtype == np.uint8)
    return TiffHeader(height, width, bands, dtype, orientation, int(page.compression) != _NONE, photo)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    import tifffile

    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as file:
            yield file
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: does not exist. Restore it or take it out of the split.") from error
    except Exception as error:  # whatever the reader and its codecs raise for a broken file
        empty = path.is_file() and not path.stat().st_size
        what = "is empty (0 bytes)" if empty else f"is truncated or corrupt ({error!s:.100})"
        raise DataError(f"{name}: {what}. Replace it or take it out of the split.") from error
    if complaints:
        raise DataError(f"{name}: is truncated or corrupt ({complaints[0]:.100}). Replace it or take it out.")


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile logs in this thread instead of raising it, such as pages that are not there."""
    found: list[str] = []
    thread = threading.get_ident()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread and record.levelno >= logging.ERROR:
                found.append(record.getMessage())

    logger, keep = logging.getLogger("tifffile"), Keep()
    logger.propagate = False  # the message of the error says it
    logger.addHandler(keep)
    try:
        yield found
    finally:
        logger.removeHandler(keep)
