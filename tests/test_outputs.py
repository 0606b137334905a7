"""The files of a prediction: their names, their contents, and that they are whole."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from segfocal.prediction.outputs import Outputs

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0)]


def test_one_file_per_overlapping_class(tmp_path):
    writer = Outputs(tmp_path, ["car", "street / lamp"], PALETTE[:2])
    labels = np.stack([np.eye(4, dtype=int), np.ones((4, 4), int)])
    writer.write("a/b.jpg", np.zeros((4, 4, 3), np.uint8), labels)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert written == ["masks/a/b.car.png", "masks/a/b.street___lamp.png", "overlays/a/b.jpg"]
    with Image.open(tmp_path / "masks/a/b.car.png") as picture:
        assert np.asarray(picture).tolist() == labels[0].tolist()


def test_no_prediction_overwrites_another(tmp_path):
    writer = Outputs(tmp_path, ["a b", "a_b", "c"], [(9, 9, 9), (8, 8, 8), (7, 7, 7)])
    image, planes = np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.int64)
    writer.write("x.png", image, planes)
    writer.write("x.jpg", image, planes)
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert len(names) == 6
    assert {"x.0_a_b.png", "x.1_a_b.png", "x.c.png", "x.jpg.c.png"} <= set(names)
    assert len(list((tmp_path / "overlays").iterdir())) == 2


def test_a_class_may_be_called_what_numbering_makes_of_others(tmp_path):
    writer = Outputs(tmp_path, ["a b", "a.b", "0_a_b"], PALETTE)
    writer.write("x.png", np.zeros((4, 4, 3), np.uint8), np.stack([np.full((4, 4), c % 2) for c in range(3)]))
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [
        "x.0_a_b.png",
        "x.1_a_b.png",
        "x.2_0_a_b.png",
    ]


def test_names_are_the_same_in_whatever_order_images_come(tmp_path):
    names = ["a/x.jpg", "a/x.png", "y.png"]
    written = []
    for order in (names, names[::-1]):
        outputs = Outputs(tmp_path / str(len(written)), ["a", "b"], PALETTE[:2], names)
        for name in order:
            outputs.write(name, np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), int))
        files = sorted(path.relative_to(outputs.folder).as_posix() for path in outputs.folder.rglob("*.png"))
        written.append(files)
    assert written[0] == written[1] == ["masks/a/x.png", "masks/a/x.png.png", "masks/y.png"]


@pytest.mark.parametrize("planes", [False, True])
def test_an_image_is_done_when_all_its_files_are_there(tmp_path, planes):
    outputs = Outputs(tmp_path, ["a", "b"], PALETTE[:2], probabilities=True)
    labels = np.zeros((2, 3, 4) if planes else (3, 4), int)
    assert not outputs.done("x.jpg", planes=planes)
    outputs.write("x.jpg", np.zeros((3, 4, 3), np.uint8), labels, probabilities=np.full((2, 3, 4), 0.25))
    assert outputs.done("x.jpg", planes=planes)
    for path in [path for path in tmp_path.rglob("*.*") if path.is_file()]:
        kept = path.read_bytes()
        path.unlink()
        assert not outputs.done("x.jpg", planes=planes), path
        path.write_bytes(kept)


@pytest.mark.parametrize("moved", [False, True])
def test_an_image_that_has_been_replaced_is_not_done(tmp_path, moved):
    source, other, later = tmp_path / "x.jpg", tmp_path / "older.jpg", time.time() + 5
    source.touch()
    other.touch()
    outputs = Outputs(tmp_path, ["a", "b"], PALETTE[:2])
    outputs.write("x.jpg", np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), int))
    assert outputs.done("x.jpg", source, planes=False)
    if moved:
        time.sleep(0.05)  # more than a tick of the file system's clock
        other.replace(source)
    else:
        os.utime(source, (later, later))
    assert not outputs.done("x.jpg", source, planes=False)


def test_probabilities_are_half_precision_in_a_compressed_archive(tmp_path):
    outputs = Outputs(tmp_path, ["a", "b"], PALETTE[:2], probabilities=True)
    shares = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    outputs.write("x.jpg", np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), int), probabilities=shares)
    with np.load(tmp_path / "probabilities/x.npz") as archive:
        assert archive["probabilities"].dtype == np.float16
        np.testing.assert_allclose(archive["probabilities"], shares, atol=5e-4)


def test_what_fails_leaves_nothing_behind(tmp_path):
    outputs = Outputs(tmp_path, ["a", "b"], PALETTE[:2])
    with pytest.raises(ValueError, match=r"0\.\.1, got 7 to 7"):
        outputs.write("x.jpg", np.zeros((3, 4, 3), np.uint8), np.full((3, 4), 7))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
