"""`segfocal check`: every fault of a data set in one pass, and none where there is none."""

import json
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from segfocal.cli import main
from segfocal.data.shapes import write_tree

SIZE = (32, 48)


def png_header(width, height):
    """A PNG that ends after its first pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(20)))


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def noise(shape=(*SIZE, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def as_jpeg(path, **options):
    path.unlink()
    Image.fromarray(noise()).save(path.with_suffix(".jpg"), quality=95, **options)
    return path.with_suffix(".jpg")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def rotated(image):
    exif = Image.Exif()
    exif[274] = 6
    as_jpeg(image, exif=exif)


def save(array, path, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)


def mode(path, to):
    with Image.open(path) as picture:
        picture.convert(to).save(path)


def palette_mask(path):
    picture = Image.fromarray(np.full(SIZE, 9, np.uint8), "P")
    picture.putpalette([0, 0, 0] * 256)
    picture.save(path)


# What is wrong -> how to plant it on an image and its mask, and a word of the complaint.
FAULTS = {
    "mask missing": (lambda image, mask: mask.unlink(), "has no mask"),
    "image missing": (lambda image, mask: image.unlink(), "mask without an image"),
    "two images of one stem": (lambda image, mask: shutil.copy(image, image.with_suffix(".bmp")), "share one stem"),
    "two masks of one stem": (lambda image, mask: shutil.copy(mask, mask.with_suffix(".bmp")), "share one stem"),
    "image of no bytes": (lambda image, mask: image.write_bytes(b""), "is empty"),
    "mask of no bytes": (lambda image, mask: mask.write_bytes(b""), "is empty"),
    "text as an image": (lambda image, mask: image.write_text("hello"), "not a readable image"),
    "text as a mask": (lambda image, mask: mask.write_text("hello"), "not a readable image"),
    "JPEG cut in half": (lambda image, mask: cut(as_jpeg(image), 0.5), "truncated or corrupt"),
    "JPEG without its end": (lambda image, mask: cut(as_jpeg(image), 0.98), "truncated or corrupt"),
    "PNG image cut in half": (lambda image, mask: cut(image, 0.5), "truncated or corrupt"),
    "PNG image with a wrong bit": (lambda image, mask: flip_a_bit(image), "truncated or corrupt"),
    "PNG mask cut in half": (lambda image, mask: cut(mask, 0.5), "truncated or corrupt"),
    "header of a bomb, image": (lambda image, mask: image.write_bytes(png_header(60000, 60000)), "more than"),
    "header of a bomb, mask": (lambda image, mask: mask.write_bytes(png_header(60000, 60000)), "more than"),
    "header and a few pixels": (lambda image, mask: image.write_bytes(png_header(48, 32)), "truncated or corrupt"),
    "floating-point image": (
        lambda image, mask: (image.unlink(), save(np.ones(SIZE, np.float32), image.with_suffix(".tif"))),
        "holds float32 values",
    ),
    "label too high": (lambda image, mask: save(np.full(SIZE, 6, np.uint8), mask), "got 6"),
    "16-bit label too high": (lambda image, mask: save(np.full(SIZE, 300, np.uint16), mask), "got 300"),
    "palette index too high": (lambda image, mask: palette_mask(mask), "got 9"),
    "mask of colours": (lambda image, mask: mode(mask, "RGB"), "one label per pixel"),
    "mask of grey and alpha": (lambda image, mask: mode(mask, "LA"), "one label per pixel"),
    "mask as a JPEG": (
        lambda image, mask: (mask.unlink(), save(np.zeros(SIZE, np.uint8), mask.with_suffix(".jpg"))),
        "is a JPEG",
    ),
    "mask of another size": (lambda image, mask: save(np.zeros((16, 48), np.uint8), mask), "must have one size"),
    "image to be turned, mask not": (lambda image, mask: rotated(image), "must have one size"),
    "image link to nowhere": (
        lambda image, mask: (image.unlink(), image.symlink_to("nowhere.png")),
        "mask without an image",
    ),
    "image that is a folder": (lambda image, mask: (image.unlink(), image.mkdir()), "mask without an image"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A clean data set with an image for each fault."""
    return write_tree(tmp_path_factory.mktemp("clean") / "data", n_train=len(FAULTS) + 2, n_val=4, n_test=2, size=SIZE)


@pytest.fixture
def data(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "data")
    return tmp_path / "data"


def plant(data, number, fault):
    image, mask = (data / kind / "train" / f"{number:04d}.png" for kind in ("images", "masks"))
    FAULTS[fault][0](image, mask)


def check(data, capsys, *words):
    code = main(["check", "--data.root", str(data), *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out


def test_a_clean_tree_has_no_fault(data, capsys):
    code, out = check(data, capsys)
    assert code == 0, out
    assert f"train  {len(FAULTS) + 2:6} images\n" in out
    assert f"no faults in {len(FAULTS) + 8} images" in out


def test_every_fault_is_listed_in_one_pass(data, capsys, tmp_path):
    for number, fault in enumerate(FAULTS):
        plant(data, number, fault)
    shutil.copy(data / "images/train" / f"{len(FAULTS):04d}.png", data / "images/val/0000.png")
    code, out = check(data, capsys, "--json", str(tmp_path / "found.json"), "--data.size=[32, 48]")
    assert code == 3
    lines = [line for line in out.splitlines() if line.startswith("  ")]
    for number, (fault, (_, word)) in enumerate(FAULTS.items()):
        mine = [line for line in lines if f"/{number:04d}." in line.split(": ")[0] and word in line]
        assert len(mine) == 1, (fault, [line for line in lines if f"{number:04d}" in line])
    assert sum("is the same file as images/train/" in line for line in lines) == 1
    assert len(lines) == len(FAULTS) + 1, lines
    assert f"{len(FAULTS) + 1} faults in " in out
    written = json.loads((tmp_path / "found.json").read_text())
    assert [f"  {fault}" for faults in written["faults"].values() for fault in faults] == lines


TINY = [
    "--model.net=torch.nn.Conv2d", "--model.net.in_channels=3", "--model.net.out_channels=6",
    "--model.net.kernel_size=1", "--model.loss=segfocal.FocalDiceLoss", "--data.num_workers=0", "--data.batch_size=4",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_ends_a_fit_in_a_traceback(fault, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(data, 0, fault)
    code = main(["fit", "--data=segfocal.SegmentationDataModule", f"--data.root={data}", *TINY])
    err = capsys.readouterr().err
    assert code == 3
    assert "0000." in err
    assert FAULTS[fault][1] in err
    assert "Traceback" not in err


def test_what_the_images_of_the_splits_must_share(data, capsys):
    shutil.rmtree(data / "images/val")
    code, out = check(data, capsys)
    assert code == 3
    assert "images/val: this folder must exist" in out
    shutil.rmtree(data / "images/test")  # no split that must be
    assert "\ntest " not in check(data, capsys)[1]


def test_a_class_that_never_occurs_is_a_warning(data, capsys):
    for mask in (data / "masks/train").iterdir():
        mask.write_bytes(cv2.imencode(".png", np.zeros(SIZE, np.uint8))[1].tobytes())
    code, out = check(data, capsys)
    assert code == 0
    assert "warning: Classes that never occur in train and cannot be learnt: block (1), disc (2)" in out


def test_data_without_files_has_nothing_to_check(capsys):
    assert main(["check", "--data=segfocal.ShapesDataModule"]) == 2
    assert "check looks at images and masks in files, which ShapesDataModule has not" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["nowhere/x.json", ".", ""])
def test_a_list_that_cannot_be_written_is_refused_first(tree, where, capsys):
    assert main(["check", "--data.root", str(tree), "--json", where]) == 2
    assert "Expected `--json`" in capsys.readouterr().err
