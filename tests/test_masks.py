import io
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

from segfocal.data.masks import DataError, Labels, default_palette, fault_report, present_labels, read_mask


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


def test_illegal_labels_are_named_with_a_remedy(mask):
    assert Labels(3, 255).illegal(mask) == []
    assert Labels(2, 255).illegal(mask) == [2]
    assert Labels(3, 254).illegal(mask) == [255]
    assert "got 2. " in Labels(2, 255).fault(mask, "a.png")
    assert Labels(1, 11).illegal(np.array([0, 1, 11], np.uint8)) == []
    assert "divide the mask by 255" in Labels(1, 11).fault(np.array([[0, 255]], np.uint8), "a.png")


def test_labels_above_255_need_a_wider_type():
    assert Labels(256, 65535).dtype == np.int32
    assert Labels(255, 255).dtype == np.uint8
    assert Labels(300, 65535).illegal(np.array([299, 300, 65535], np.uint16)) == [300]


def test_present_labels_of_any_shape_and_type(mask):
    assert present_labels(mask) == present_labels(mask.astype(np.uint16)) == present_labels(mask.T) == [0, 1, 2, 255]


def test_a_worker_error_keeps_its_own_text():
    for error in (DataError("a.png: is empty.\n  b.png: too"), fault_report(["a", "b"], "root")):
        with pytest.raises(DataError) as raised:
            _wrapped(error).reraise()
        assert str(raised.value) == str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def _wrapped(error):
    try:
        try:
            raise OSError("cause")
        except OSError as cause:
            raise error from cause
    except DataError:
        return ExceptionWrapper(where="in DataLoader worker process 0")


def test_a_report_counts_what_it_does_not_print_and_lists_a_fault_once():
    text = str(fault_report([f"{i}.png: bad" for i in range(25)] + ["3.png: bad"], "root"))
    assert text.startswith("25 faults in root:\n  0.png: bad\n")
    assert text.endswith("and 5 more")
    assert str(fault_report(["a: bad"] * 2, "root")) == "1 fault in root:\n  a: bad"


@pytest.mark.parametrize("count", [1, 7, 12, 150])
def test_palette_colours_differ_for_every_eye(count):
    palette = default_palette(count)
    assert len(set(palette)) == len(palette) == count
    assert not {(0, 0, 0), (255, 255, 255)} & set(palette)
    assert all(type(v) is int and 0 <= v <= 255 for colour in palette for v in colour)
    assert default_palette(count + 3)[:count] == palette


def test_masks_are_writable_for_torch(tmp_path, mask):
    Image.fromarray(mask).save(tmp_path / "m.png")
    torch.from_numpy(read_mask(tmp_path / "m.png", "m.png")).add_(1)


def test_header_of_bytes_and_path_agree(tmp_path, mask):
    from segfocal.data.masks import open_header

    Image.fromarray(mask).save(tmp_path / "m.png")
    with open_header(tmp_path / "m.png", "m") as on_disk:
        assert on_disk.size == open_header(io.BytesIO((tmp_path / "m.png").read_bytes()), "m").size == (3, 2)
