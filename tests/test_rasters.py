"""Large TIFFs: the same pixels as when they are read whole, each block once; GeoTIFFs of labels."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine

from segfocal.data import DataError
from segfocal.data.images import Bands, read_image
from segfocal.data.rasters import PaletteTiff, georeference, open_rows

LAYOUTS = {
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    "strips": {"blockysize": 8, "compress": "lzw"},
    "one strip": {"blockysize": 301, "compress": "deflate"},
    "plain": {},
}
WHERE = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0)]


def write(path, pixels, **options):
    """A georeferenced TIFF of pixels (H, W, D)."""
    height, width, count = pixels.shape
    options = {"height": height, "width": width, "count": count, "dtype": pixels.dtype, **WHERE, **options}
    with rasterio.open(path, "w", driver="GTiff", **options) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def rows_of(path, bands, step=64, window=100):
    """All rows, asked for as overlapping windows, and what was read from the file."""
    read = []
    with open_rows(path, path.name, bands) as rows:
        usual = rows._read
        rows._read = lambda top, end: read.append((top, end)) or usual(top, end)
        height = rows.size[0]
        found = np.zeros((*rows.size, bands.count), np.uint8)
        for top in range(0, height, step):
            found[top : top + window] = rows(top, min(top + window, height))
    return found, read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_those_of_the_whole_image_and_each_block_is_read_once(tmp_path, layout):
    path = write(tmp_path / "a.tif", noise(301, 150, 3), **LAYOUTS[layout])
    found, read = rows_of(path, Bands())
    assert np.array_equal(found, read_image(path, "a.tif"))
    assert [end for _, end in read[:-1]] == [top for top, _ in read[1:]], "no row twice, none left out"
    assert (read[0][0], read[-1][1]) == (0, 301)
    block = LAYOUTS[layout].get("blockysize", 1)
    assert block == 301 or all(end % block == 0 for _, end in read[:-1])


@pytest.mark.parametrize(
    ("pixels", "bands", "options"),
    [
        (noise(90, 70, 1), Bands(3), {}),
        (noise(90, 70, 1), Bands(1), {}),
        (noise(90, 70, 4), Bands(3), {}),
        (noise(90, 70, 3, dtype=np.uint16), Bands(3), {"interleave": "pixel", "photometric": "RGB"}),
        (noise(90, 70, 1, dtype=np.uint16), Bands(1), {}),
        (noise(90, 70, 1, dtype=np.uint16), Bands(3), {}),
        (noise(90, 70, 3, dtype=np.uint16), Bands(3, (100, 3000)), {}),
        (noise(90, 70, 5), Bands(5), {}),
        (noise(90, 70, 4).astype(np.float32), Bands(4, (0, 300)), {"interleave": "band"}),
    ],
)
def test_bands_are_those_of_the_whole_image(tmp_path, pixels, bands, options):
    path = write(tmp_path / "a.tif", pixels, **options)
    assert np.array_equal(rows_of(path, bands)[0], read_image(path, "a.tif", bands))


def test_a_palette_gives_its_colours(tmp_path):
    path = write(tmp_path / "a.tif", noise(90, 70, 1) % 3, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(PALETTE)})
    assert np.array_equal(rows_of(path, Bands())[0], read_image(path, "a.tif"))


@pytest.mark.parametrize(
    ("pixels", "bands", "message"),
    [
        (noise(9, 7, 3), Bands(4), "has 3 bands, expected 4"),
        (noise(9, 7, 3).astype(np.float32), Bands(3), "holds float32 values"),
    ],
)
def test_what_cannot_be_read_so_is_refused(tmp_path, pixels, bands, message):
    path = write(tmp_path / "a.tif", pixels)
    with pytest.raises(DataError, match=message), open_rows(path, "a.tif", bands):
        pass


def test_a_truncated_file_names_its_rows(tmp_path):
    path = write(tmp_path / "a.tif", noise(300, 200, 3), compress="deflate", blockysize=8)
    with rasterio.open(path) as file:
        assert file.block_shapes[0] == (8, 200)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 2000] = bytes(2000)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"a.tif: is truncated or corrupt in the rows"):
        rows_of(path, Bands())


def test_a_picture_that_lies_on_its_side_is_refused(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", noise(9, 7, 3), extratags=[(274, 3, 1, 6, True)])
    with pytest.raises(DataError, match="stored turned"), open_rows(tmp_path / "a.tif", "a.tif", Bands()):
        pass


def test_labels_are_a_compressed_tiled_palette_tiff_with_the_georeference(tmp_path):
    source = write(tmp_path / "a.tif", noise(700, 90, 3))
    labels = noise(700, 90) % 3
    with PaletteTiff(tmp_path / "b.tif", (700, 90), PALETTE, georeference(source, "a.tif")) as file:
        for top in range(0, 700, 33):
            file.write(labels[top : top + 33])
    with rasterio.open(tmp_path / "b.tif") as written, rasterio.open(source) as before:
        assert np.array_equal(written.read(1), labels)
        assert (written.crs, written.transform) == (before.crs, before.transform)
        assert written.nodata is None
        assert written.colormap(1)[1] == (200, 0, 0, 255)
        assert written.colorinterp[0].name == "palette"
        assert (written.block_shapes, written.compression.name) == ([(512, 512)], "deflate")


def test_a_tiff_without_a_place_on_earth_has_no_georeference(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", noise(9, 7, 3))
    assert georeference(tmp_path / "a.tif", "a.tif") is None
    with PaletteTiff(tmp_path / "b.tif", (2, 2), PALETTE * 100, None) as file:
        file.write(np.array([[0, 299], [1, 2]]))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "b.tif") as written:
        assert written.read(1).tolist() == [[0, 299], [1, 2]], "more classes than a palette holds take 16 bits"


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    code = f"""
import resource
from pathlib import Path
import numpy as np
from segfocal.data.rasters import PaletteTiff
from segfocal.writing import written_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
labels = np.random.default_rng(0).integers(0, 200, (1500, 600))
try:
    with written_whole(Path({str(tmp_path / "a.tif")!r})) as part:
        with PaletteTiff(part, (1500, 600), [(0, 0, 0)] * 200, None) as file:
            file.write(labels)
except OSError as error:
    print(error.errno)
"""
    words = [sys.executable, "-c", code]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(words, env=here, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.strip() == str(errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []
