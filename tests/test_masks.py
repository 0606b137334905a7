import contextlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segfocal.data.files import DataError
from segfocal.data.masks import read_mask


@pytest.fixture
def mask():
    return np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def test_grey_and_palette_files_give_their_values(tmp_path, mask):
    Image.fromarray(mask).save(tmp_path / "grey.png")
    indexed = Image.fromarray(mask).copy()
    indexed.putpalette([v for i in range(256) for v in (255 - i, i * 7 % 256, 3)])
    indexed.save(tmp_path / "palette.png")
    Image.fromarray(mask).save(tmp_path / "grey.tif")
    for name in ("grey.png", "palette.png", "grey.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name, name), mask)


def test_16_bit_files_are_narrowed_only_where_they_fit(tmp_path):
    cv2.imwrite(str(tmp_path / "low.png"), np.array([[3, 255]], np.uint16))
    cv2.imwrite(str(tmp_path / "high.png"), np.array([[3, 300]], np.uint16))
    low, high = (read_mask(tmp_path / name, name) for name in ("low.png", "high.png"))
    assert low.dtype == np.uint8
    assert low.tolist() == [[3, 255]]
    assert high.dtype == np.uint16
    assert high.tolist() == [[3, 300]]


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1, 1]), (2, [0, 1, 3]), (4, [0, 7, 15])])
def test_shallow_files_give_the_stored_values(tmp_path, bits, values):
    packed = "".join(f"{v:0{bits}b}" for v in values).ljust(16, "0")
    _write_png(tmp_path / "m.png", 3, 1, bits, int(packed, 2).to_bytes(2, "big")[: (3 * bits + 7) // 8])
    assert read_mask(tmp_path / "m.png", "m.png").tolist() == [values]


def _write_png(path, width, height, bits, row):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * height)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: Image.new("RGB", (3, 2)).save(p), "one label per pixel.*got mode RGB"),
        (lambda p: Image.new("L", (3, 2)).save(p, format="JPEG"), "is a JPEG"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("not a picture"), "not a readable image"),
        (lambda p: p.unlink(missing_ok=True), "cannot be read"),
        (lambda p: _truncate(p), "truncated or corrupt"),
        (lambda p: _write_png(p, 60000, 60000, 8, b""), "claims more than"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(tmp_path, spoil, message):
    path = tmp_path / "m.png"
    spoil(path)
    with pytest.raises(DataError, match=f"^masks/m.png: .*{message}"):
        read_mask(path, "masks/m.png")


def _truncate(path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def test_masks_are_writable_for_torch(tmp_path, mask):
    Image.fromarray(mask).save(tmp_path / "m.png")
    torch.from_numpy(read_mask(tmp_path / "m.png", "m.png")).add_(1)


@pytest.mark.parametrize("kind", ["palette", "1-bit", "16-bit"])
def test_no_flipped_bit_of_a_png_gives_other_labels(tmp_path, kind):
    random = np.random.default_rng(0)
    labels = np.repeat(np.repeat(random.integers(0, 2 if kind == "1-bit" else 20, (12, 16)), 8, 0), 8, 1)
    image = Image.fromarray(labels.astype(np.uint16 if kind == "16-bit" else np.uint8))
    if kind == "palette":
        image.putpalette(random.integers(0, 256, 768).tolist())
    elif kind == "1-bit":
        image = Image.fromarray(labels.astype(bool))
    path = tmp_path / "m.png"
    image.save(path)
    whole, want = path.read_bytes(), read_mask(path, "m")
    for place in random.integers(8 * whole.index(b"IDAT"), 8 * len(whole), 150):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            assert np.array_equal(read_mask(path, "m"), want)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_tiff_masks_hold_the_values_as_written(tmp_path, photometric):
    for values in (np.array([[True, False]]), np.array([[0, 1, 2, 3]], np.uint8), np.array([[0, 300]], np.uint16)):
        tifffile.imwrite(tmp_path / "m.tif", values, photometric=photometric)
        assert read_mask(tmp_path / "m.tif", "m").tolist() == values.astype(int).tolist()
    tifffile.imwrite(tmp_path / "m.tif", np.array([[-5, 0]], np.int8))
    with pytest.raises(DataError, match=r"labels must lie in 0..65535, got -5"):
        read_mask(tmp_path / "m.tif", "m")


@pytest.mark.parametrize("text", ["P2 5 1 4 0 1 2 3 4", "P2\n# a comment\n4 1 1000 0 1 2 3", "P1 3 1 0 1 0"])
def test_portable_maps_that_readers_stretch_are_refused(tmp_path, text):
    (tmp_path / "m.pgm").write_text(text + "\n")
    with pytest.raises(DataError, match=r"m: readers stretch or invert .* Store masks as PNG"):
        read_mask(tmp_path / "m.pgm", "m")
    (tmp_path / "m.pgm").write_text("P2 3 1 255 0 7 255\n")
    assert read_mask(tmp_path / "m.pgm", "m").tolist() == [[0, 7, 255]]
