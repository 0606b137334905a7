"""Files of predictions."""

import numpy as np
from PIL import Image

from segfocal.evaluation.writer import PredictionWriter

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0)]


def test_one_file_per_overlapping_class(tmp_path):
    writer = PredictionWriter(tmp_path, ["car", "street / lamp"], PALETTE[:2])
    labels = np.stack([np.eye(4, dtype=int), np.ones((4, 4), int)])
    writer.write("a/b.jpg", np.zeros((4, 4, 3), np.uint8), labels)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert written == ["masks/a/b.car.png", "masks/a/b.street___lamp.png", "overlays/a/b.jpg"]
    with Image.open(tmp_path / "masks/a/b.car.png") as picture:
        assert np.asarray(picture).tolist() == labels[0].tolist()


def test_no_prediction_overwrites_another(tmp_path):
    writer = PredictionWriter(tmp_path, ["a b", "a_b", "c"], [(9, 9, 9), (8, 8, 8), (7, 7, 7)])
    image, planes = np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.int64)
    writer.write("x.png", image, planes)
    writer.write("x.jpg", image, planes)
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert len(names) == 6
    assert {"x.0_a_b.png", "x.1_a_b.png", "x.c.png", "x.jpg.c.png"} <= set(names)
    assert len(list((tmp_path / "overlays").iterdir())) == 2
