"""EXIF orientation from the header: PNG has it before or after its pixels."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from segfocal.data.images import read_image, read_size
from segfocal.data.orientation import orientation

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)


def exif_chunk(value):
    exif = Image.Exif()
    exif[274] = value
    body = exif.tobytes()[6:]
    return struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))


def png(where, value=6):
    data = cv2.imencode(".png", PIXELS)[1].tobytes()
    if where == "none":
        return data
    cut = 33 if where == "before" else len(data) - 12  # after the header chunk, or before the end chunk
    return data[:cut] + exif_chunk(value) + data[cut:]


@pytest.mark.parametrize(("where", "expected"), [("none", 1), ("before", 6), ("after", 6)])
def test_a_png_tells_its_orientation_without_being_decoded(where, expected, monkeypatch):
    with Image.open(io.BytesIO(png(where))) as header:
        monkeypatch.setattr(header, "load", lambda: pytest.fail("decoded"))
        assert orientation(header) == expected
        monkeypatch.undo()
        assert np.asarray(header).shape == (30, 50, 3), "it can still be decoded"


@pytest.mark.parametrize("where", ["none", "before", "after"])
def test_header_and_pixels_agree(where, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(where))
    assert (
        read_size(path, "a.png") == read_image(path, "a.png").shape[:2] == ((30, 50) if where == "none" else (50, 30))
    )


@pytest.mark.parametrize("bytes_left", [200, -6, -14])
def test_a_png_that_ends_early_is_upright(bytes_left):
    with Image.open(io.BytesIO(png("after")[:bytes_left])) as header:
        assert orientation(header) in (1, 6)


def test_a_jpeg_tells_its_own():
    exif = Image.Exif()
    exif[274] = 8
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    with Image.open(file) as header:
        assert orientation(header) == 8
