"""Image files of every kind become the pixels that the net is told of."""

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from segfocal.data import DataError
from segfocal.data.images import Bands, read_image, read_size


@pytest.fixture
def colours():
    """Red, blue over black, green: every rotation looks different."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, 30:] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    return image


def close(a, b):
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "ppm"])
def test_every_format_gives_rgb(tmp_path, colours, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours).save(path)
    image = read_image(path, "a")
    assert image.dtype == np.uint8
    assert close(image, colours)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("png", "RGB"), ("tif", "RGB"), ("tif", "RGBA")])
def test_exif_rotation_is_applied_and_the_header_agrees(tmp_path, colours, orientation, suffix, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours).convert(mode).save(path, exif=exif)
    image = read_image(path, "a")
    upright = {2: colours[:, ::-1], 3: colours[::-1, ::-1], 6: np.rot90(colours, -1), 8: np.rot90(colours)}[orientation]
    assert close(image, upright)
    assert read_size(path, "a") == image.shape[:2]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_every_mode_becomes_8_bit_rgb(tmp_path, mode, suffix):
    grey = np.full((4, 6), 255 if mode == "1" else 153, np.uint8)
    if mode == "I;16":
        source = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        source = Image.fromarray(np.stack([grey] * 3, -1)).convert(mode)
    if mode in ("LA", "RGBA"):
        source.putalpha(3)
    path = tmp_path / f"a.{suffix}"
    try:
        source.save(path)
    except OSError:
        pytest.skip(f"{suffix} has no {mode}")
    assert close(read_image(path, "a"), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "jp2"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for share in (0.3, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"^train/a: is "):
            read_image(path, "train/a")


def test_floating_point_and_missing_images_are_refused(tmp_path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"holds float32 values.*`value_range`"):
        read_image(tmp_path / "a.tif", "a.tif")
    with pytest.raises(DataError, match=r"b.tif: does not exist"):
        read_image(tmp_path / "b.tif", "b.tif")


@pytest.fixture
def bands():
    return np.random.default_rng(0).integers(0, 256, (12, 17, 6), np.uint8)


def write(path, array, **options):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        tifffile.imwrite(path, array, **{"photometric": "minisblack", "planarconfig": "contig", **options})


@pytest.mark.parametrize("suffix", ["tif", "npy"])
@pytest.mark.parametrize("first", [True, False])
def test_many_bands_are_read_as_stored(tmp_path, bands, suffix, first):
    path = tmp_path / f"a.{suffix}"
    options = (
        {"planarconfig": "separate" if first else "contig", "photometric": "minisblack"} if suffix == "tif" else {}
    )
    write(path, np.moveaxis(bands, -1, 0) if first else bands, **options)
    np.testing.assert_array_equal(read_image(path, "a", Bands(6)), bands)
    assert read_size(path, "a", Bands(6)) == (12, 17)


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "packbits"])
def test_tiffs_may_be_compressed_tiled_and_paged(tmp_path, bands, compression):
    write(tmp_path / "tiled.tif", bands, compression=compression, tile=(16, 16))
    np.testing.assert_array_equal(read_image(tmp_path / "tiled.tif", "a", Bands(6)), bands)
    pages = np.ascontiguousarray(np.moveaxis(bands, -1, 0))
    tifffile.imwrite(tmp_path / "pages.tif", pages, compression=compression, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "pages.tif", "a", Bands(6)), bands)


def test_rgba_keeps_its_fourth_band_and_the_order_of_the_rest(tmp_path, bands):
    Image.fromarray(bands[..., :4]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", "a", Bands(4)), bands[..., :4])
    write(tmp_path / "a.tif", bands[..., :4], photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", "a", Bands(4)), bands[..., :4])


def test_one_band_is_grey_whatever_the_file_holds(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(colours).convert("RGBA").save(tmp_path / "a.tif")
    Image.fromarray(colours).convert("L").save(tmp_path / "grey.png")
    wanted = np.array(Image.fromarray(colours).convert("L"))[..., None]
    for name in ("a.png", "a.tif", "grey.png"):
        image = read_image(tmp_path / name, "a", Bands(1))
        assert image.shape == (40, 60, 1)
        assert np.abs(image.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "tif"), (np.uint16, "png"), (np.float32, "npy")])
def test_a_value_range_says_what_is_black_and_white(tmp_path, dtype, suffix):
    stored = np.array([[0, 100, 1600], [3100, 5000, 100]], dtype)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), stored) if suffix == "png" else write(path, stored)
    image = read_image(path, "a", Bands(1, (100, 3100)))
    assert image[..., 0].tolist() == [[0, 0, 128], [255, 255, 0]]


def test_missing_values_become_0(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[np.nan, 1.0], [np.inf, -np.inf]]))
    assert read_image(tmp_path / "a.npy", "a", Bands(1, (0, 1)))[..., 0].tolist() == [[0, 255], [255, 0]]


def test_without_a_range_values_of_unknown_scale_are_refused_from_the_header(tmp_path):
    write(tmp_path / "a.tif", np.full((3, 4, 2), 0x1234, np.uint16))
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"holds uint16 values.*`value_range`"):
            read(tmp_path / "a.tif", "a", Bands(2))
    write(tmp_path / "ct.tif", np.full((3, 4), -1000, np.int16))
    with pytest.raises(DataError, match=r"holds int16 values.*`value_range`"):
        read_size(tmp_path / "ct.tif", "a")
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 2)))
    with pytest.raises(DataError, match=r"holds float64 values.*`value_range`"):
        read_image(tmp_path / "a.npy", "a", Bands(2))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_other_numbers_of_bands_are_refused(tmp_path, bands, name):
    path = tmp_path / name
    Image.fromarray(bands[..., :4]).save(path) if name == "a.png" else write(path, bands)
    with pytest.raises(DataError, match=r"^a: (has \d bands, expected 5|an array must be \(H, W, 5\))"):
        read_image(path, "a", Bands(5))


@pytest.mark.parametrize("suffix", ["tif", "npy"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_truncated_rasters_are_refused(tmp_path, bands, suffix, share):
    path = tmp_path / f"a.{suffix}"
    write(path, np.tile(bands, (9, 9, 1)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"^train/a: "):
        read_image(path, "train/a", Bands(6))


def test_arrays_that_are_no_pixels_are_refused(tmp_path):
    for number, array in enumerate(
        [np.array([{}]), np.array(["a"]), np.zeros((0, 3)), np.zeros(4), np.zeros((1, 1, 1, 1))]
    ):
        np.save(tmp_path / f"{number}.npy", array)
        with pytest.raises(DataError, match=r"^a: "):
            read_image(tmp_path / f"{number}.npy", "a", Bands(1, (0, 1)))


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_no_damaged_tiff_photo_is_shown(tmp_path, compression):
    random = np.random.default_rng(0)
    photo = np.repeat(np.repeat(random.integers(0, 256, (10, 12, 3), np.uint8), 8, 0), 8, 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, photo, compression=compression, photometric="rgb")
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        start, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    refused = 0
    for place in random.integers(8 * start, 8 * (start + length), 40):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            image = read_image(path, "a")
        except DataError:
            refused += 1
        else:
            assert compression == "lzw" or np.array_equal(image, photo), "LZW has no checksum"
    assert refused > (35 if compression == "zlib" else 0)


def test_pages_that_are_missing_are_noticed(tmp_path):
    pages = np.random.default_rng(0).integers(0, 2, (5, 40, 40), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pages, compression="zlib", rowsperstrip=8, photometric="minisblack")
    whole = path.read_bytes()
    for cut in range(len(whole) - 300, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="truncated or corrupt"):
            read_image(path, "a", Bands(5))


def test_values_of_few_bits_are_not_stretched_in_silence(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0\x03\x7f")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    with pytest.raises(DataError, match="has 4 bits per value"):
        read_image(tmp_path / "a.png", "a", Bands(1, (0, 15)))


@pytest.mark.parametrize(("bands", "photometric"), [(7, "minisblack"), (5, "rgb")])
def test_a_tiff_of_more_bands_than_colours_says_so(tmp_path, capfd, bands, photometric):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 9, bands), np.uint8), photometric=photometric, planarconfig="contig")
    for read in (read_size, read_image):
        with pytest.raises(DataError, match=rf"^a: has {bands} bands, expected 3\. Correct `in_channels`"):
            read(path, "a")
    assert capfd.readouterr() == ("", "")


def test_a_tiff_with_bands_that_it_does_not_call_colours_is_read_as_stored(tmp_path):
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 3000, (8, 9, 3), np.uint16)
    options = {"driver": "GTiff", "height": 8, "width": 9, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", transform=rasterio.Affine(1, 0, 5, 0, -1, 5), **options) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    for read in (read_size, read_image):
        with pytest.raises(DataError, match=r"^a: holds uint16 values, .* Give `value_range`"):
            read(path, "a")
    scaled = Bands(3, (0, 3000))
    assert read_size(path, "a", scaled) == (8, 9)
    assert np.abs(read_image(path, "a", scaled) - pixels / 3000 * 255).max() < 0.51
    tifffile.imwrite(path, pixels.astype(np.uint8), photometric="minisblack", planarconfig="contig")
    assert np.array_equal(read_image(path, "a"), pixels.astype(np.uint8))
