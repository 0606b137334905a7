"""Images that are predicted window by window: the same labels as in memory, whole files, memory of a row of windows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from pytorch_lightning.plugins.precision import Precision
from test_rasters import PALETTE, WHERE, noise, write
from torch import nn

from segfocal import FocalDiceLoss, SegmentationTask
from segfocal.data import DataError
from segfocal.data.samples import FileSample
from segfocal.inference import Inference
from segfocal.prediction.large import predict_large
from segfocal.prediction.outputs import Outputs

HOW = Inference((128, 160), 0.3, "gaussian", 3)
NAMES = ["a", "b", "c"]


def task_of(how, activation="softmax", names=NAMES):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.ReLU(), nn.Conv2d(8, len(names), 1))
    loss = FocalDiceLoss(activation)
    return SegmentationTask(net, loss, names, activation=activation, inference=how, std=[0.01] * 3).eval()


def predicted(task, path, folder):
    names = task.class_names
    outputs = Outputs(folder, names, PALETTE[: len(names)])
    predict_large(task, Precision(), FileSample(path.name, path, None), outputs)
    return outputs


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize("how", [HOW, Inference((512, 512), flips=["left_right"])])
def test_a_streamed_image_is_that_of_the_sliding_window_in_memory(tmp_path, how):
    pixels = noise(2000, 2000, 3)
    path = write(tmp_path / "a.tif", pixels, compress="deflate", tiled=True, blockxsize=256, blockysize=256)
    task = task_of(how)
    predicted(task, path, tmp_path / "out")
    got = read(tmp_path / "out/masks/a.tif")
    want = task.predict_labels(torch.from_numpy(pixels.transpose(2, 0, 1))[None])[0].numpy()
    assert len(np.unique(want)) == 3
    assert np.array_equal(got, want)


def test_classes_that_overlap_get_a_file_each(tmp_path):
    pixels = noise(300, 400, 3)
    path = write(tmp_path / "a.tif", pixels)
    task = task_of(HOW, "sigmoid")
    predicted(task, path, tmp_path / "out")
    want = task.predict_labels(torch.from_numpy(pixels.transpose(2, 0, 1))[None])[0].numpy()
    for index, name in enumerate(NAMES):
        assert np.array_equal(read(tmp_path / f"out/masks/a.{name}.tif"), want[index])


def test_the_mask_lies_where_the_image_does_and_the_overlay_is_small(tmp_path):
    path = write(tmp_path / "a.tif", noise(100, 4100, 3))
    predicted(task_of(HOW), path, tmp_path / "out")
    with rasterio.open(tmp_path / "out/masks/a.tif") as file:
        assert (file.crs, file.transform) == (rasterio.CRS.from_string(WHERE["crs"]), WHERE["transform"])
        assert file.shape == (100, 4100)
    with Image.open(tmp_path / "out/overlays/a.jpg") as picture:
        assert picture.size == (2048, 50)


@pytest.mark.parametrize(("bias", "white"), [(-1e4, 255), (1e4, (255 + 10) / 2)])
def test_an_overlay_shows_its_own_image_and_labels(tmp_path, bias, white):
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:30, :40] = 255
    task = task_of(HOW, "sigmoid", ["one"])
    with torch.no_grad():
        task.net[2].bias.fill_(bias)  # nothing is found, or everything
    predicted(task, write(tmp_path / "a.tif", pixels), tmp_path / "out")
    with Image.open(tmp_path / "out/overlays/a.jpg") as picture:
        red = np.asarray(picture)[..., 0].astype(float)
    assert red[5:25, 5:35].mean() == pytest.approx(white, abs=3)
    assert red[35:, 45:].mean() < 10


def test_a_broken_image_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "a.tif", noise(900, 200, 3), compress="deflate", blockysize=8)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 3000] = bytes(3000)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"a.tif: is truncated or corrupt in the rows"):
        predicted(task_of(HOW), path, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_memory_is_measured_by_a_script_that_runs():
    script = Path(__file__).parent.parent / "scripts/measure_streaming.py"
    words = [sys.executable, str(script), "--side=600", "--classes=3", "--window=64", "--layout=strip"]
    here = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(words, env=here, capture_output=True, text=True, check=True, timeout=120).stdout
    above = float(re.search(r"^strip +3 +[\d.]+ +[\d.]+ +([\d.]+)", out, re.MULTILINE)[1])
    assert above < 0.5, out
