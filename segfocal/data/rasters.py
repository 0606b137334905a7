"""Large TIFFs by rasterio: read row by row from the top to the bottom, each once, and written likewise.

Shapes: H x W pixels, D bands.
"""

import errno
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segfocal.data.files import DataError
from segfocal.data.images import Bands, as_stored, as_uint8, other_bands
from segfocal.data.tiffs import tiff_header

if TYPE_CHECKING:  # rasterio brings GDAL, which only large and georeferenced images need
    from affine import Affine
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader, DatasetWriter

Array = NDArray[Any]

CACHE = 256  # MB of decoded blocks that GDAL keeps; by default it takes a twentieth of the machine's memory
_MOST_ROWS = 1024  # of a block up to which whole blocks are held, so that each is decoded once
_TILE = 512  # pixels, of the files that are written


class Rows:
    """The rows of a TIFF as uint8, which are asked for from the top to the bottom.

    What has been read is kept as long as it may be asked for again, so each block of the file, a tile or a strip, is
    decoded once, however large it is: to go back within a compressed strip is to decode it anew from its beginning.

    Args:
        source: The open file.
        name: What an error calls it.
        bands: How it is read.
    """

    def __init__(self, source: "DatasetReader", name: str, bands: Bands) -> None:
        self.source, self.name, self.bands = source, name, bands
        self.size = source.height, source.width
        block = source.block_shapes[0][0]
        self._step = block if block <= _MOST_ROWS else 1
        self._begin = self._end = 0
        self._held: Array = np.empty((0, source.width, bands.count), np.uint8)
        palette = source.colorinterp[0].name == "palette" and not bands.exact
        self._colours = np.array([source.colormap(1)[i][:3] for i in range(256)], np.uint8) if palette else None

    def __call__(self, top: int, end: int) -> Array:
        """The rows (end - top, W, D) from `top` on; neither may fall from one call to the next.

        Raises:
            DataError: The file is damaged there.
        """
        if end > self._end:
            until = min(self.size[0], -(-end // self._step) * self._step)
            new = self._read(self._end, until)
            self._held = np.concatenate([self._held[top - self._begin :], new])
            self._begin, self._end = top, until
        return self._held[top - self._begin : end - self._begin]

    def _read(self, top: int, end: int) -> Array:
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        try:
            stored = self.source.read(window=Window(0, top, self.size[1], end - top))
        except RasterioError as error:
            raise DataError(
                f"{self.name}: is truncated or corrupt in the rows {top} to {end} ({error!s:.100}). Replace it."
            ) from error
        return self._as_bands(np.moveaxis(stored, 0, -1))

    def _as_bands(self, stored: Array) -> Array:
        if self.bands.exact:
            return as_uint8(stored, self.bands.value_range)
        pixels = _of_photo(stored)
        if self._colours is not None:
            pixels = self._colours[pixels[..., 0]]
        few = pixels.shape[2] < 3  # grey, and grey with alpha
        if self.bands.count == 3:
            return np.repeat(pixels[..., :1], 3, axis=2) if few else np.ascontiguousarray(pixels[..., :3])
        return pixels[..., :1] if few else np.asarray(cv2.cvtColor(pixels[..., :3], cv2.COLOR_RGB2GRAY))[..., None]


def _of_photo(stored: Array) -> Array:
    """8 bits of 16, as OpenCV does it where photos are read whole: of grey the upper ones, colours by libtiff."""
    if stored.dtype == np.uint8:
        return stored
    if stored.shape[2] < 3:
        return (stored >> 8).astype(np.uint8)
    return ((stored.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextmanager
def open_rows(path: Path, name: str, bands: Bands) -> Iterator[Rows]:
    """Open a TIFF to read its rows.

    Raises:
        DataError: It is broken, has other bands or values of an unknown range, or is not stored upright.
    """
    header = tiff_header(path, name, any_size=True)
    if not as_stored(header, name, bands) and header.orientation != 1:
        raise DataError(f"{name}: is stored turned or mirrored, which only smaller images may be. Write it upright.")
    with _opened(path, name) as source:
        if bands.exact and source.count != bands.count:
            raise other_bands(name, source.count, bands.count)
        structure = source.tags(1, ns="IMAGE_STRUCTURE") | source.tags(ns="IMAGE_STRUCTURE")
        if int(structure.get("NBITS", 8)) < 8 or (structure.get("MINISWHITE") == "YES" and not bands.exact):
            raise DataError(f"{name}: has less than 8 bits or 0 as white, which only smaller images may. Convert it.")
        yield Rows(source, name, bands)


@contextmanager
def _opened(path: Path, name: str) -> Iterator["DatasetReader"]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            source = rasterio.open(path)
        except RasterioError as error:
            raise DataError(f"{name}: cannot be opened ({error!s:.100}). Replace it.") from error
        with source:
            yield source


@dataclass(frozen=True)
class Georeference:
    """Where on Earth an image lies.

    Attributes:
        crs: Its coordinate reference system.
        transform: From pixels to coordinates.
        gcps: Ground control points and their system, for an image without a transform.
    """

    crs: "CRS | None"
    transform: "Affine"
    gcps: "tuple[Sequence[GroundControlPoint], CRS | None]"


def georeference(path: Path, name: str) -> Georeference | None:
    """The georeference of a TIFF, if it has any.

    Raises:
        DataError: It cannot be opened.
    """
    with _opened(path, name) as source:
        found = Georeference(source.crs, source.transform, source.gcps)
        return found if found.crs is not None or not found.transform.is_identity or found.gcps[0] else None


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """What GDAL cannot write is told as a full disk is, which it mostly is: its errors have no number."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        raise OSError(
            errno.ENOSPC, f"Expected room for a GeoTIFF, which could not be written ({error})", path
        ) from error


class PaletteTiff:
    """A GeoTIFF of class indices, shown in the palette's colours: tiled, compressed, without a value for no data.

    Used as a context; more than 256 classes take 16 bits and have no colours.

    Args:
        path: The file.
        size: (H, W).
        palette: One colour per class, in 0..255.
        where: The georeference; None: none.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], palette: Sequence[tuple[int, int, int]], where: Georeference | None
    ) -> None:
        self.path, self.size, self.palette, self.where = path, size, palette, where
        self.dtype = np.uint8 if len(palette) <= 256 else np.uint16
        self._held: list[Array] = []
        self._top = 0

    def __enter__(self) -> "PaletteTiff":
        """Begin the file."""
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

        few = self.dtype is np.uint8
        options: dict[str, Any] = (
            {} if self.where is None else {"crs": self.where.crs, "transform": self.where.transform}
        )
        # BigTIFF where 4 GB might not do: how well the labels compress is not known yet.
        options |= {
            "tiled": True,
            "blockxsize": _TILE,
            "blockysize": _TILE,
            "compress": "deflate",
            "bigtiff": "if_safer",
        }
        options |= {"photometric": "palette"} if few else {}
        self._env = rasterio.Env(GDAL_CACHEMAX=CACHE)
        self._env.__enter__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            height, width = self.size
            self._file: DatasetWriter = rasterio.open(
                self.path, "w", driver="GTiff", height=height, width=width, count=1, dtype=self.dtype, **options
            )
        if few:
            self._file.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(self.palette)})
        if self.where is not None and self.where.gcps[0]:
            self._file.gcps = self.where.gcps
        return self

    def write(self, labels: Array) -> None:
        """Write the next rows (rows, W)."""
        self._held.append(labels.astype(self.dtype))
        if sum(map(len, self._held)) >= _TILE:
            rows = np.concatenate(self._held)
            whole = len(rows) // _TILE * _TILE  # a tile that is written twice stays in the file twice
            self._put(rows[:whole])
            self._held = [rows[whole:]]

    def _put(self, rows: Array) -> None:
        from rasterio.windows import Window

        if not len(rows):
            return
        with _room_for(self.path):
            self._file.write(rows, 1, window=Window(0, self._top, self.size[1], len(rows)))
            self._top += len(rows)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End the file."""
        with _room_for(self.path):
            if kind is None and self._held:
                self._put(np.concatenate(self._held))
            self._file.close()
        self._env.__exit__(kind, *rest)
