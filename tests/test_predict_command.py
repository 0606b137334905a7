"""`segfocal predict` as a person meets it, and its Python twin."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from PIL import Image
from test_rasters import WHERE, noise, write

from segfocal import Predictor
from segfocal.cli import main
from segfocal.data import unlabelled
from segfocal.data.shapes import write_tree

NETS = """
import time

from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes, seconds=0.0):
        super().__init__(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, classes, 1))
        self.seconds = seconds

    def forward(self, images):
        time.sleep(self.seconds)
        return super().forward(images)
"""
CONFIG = """
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}
model:
  net: {class_path: predict_nets.Net}
  loss: {class_path: segfocal.FocalDiceLoss}
  lr: 0.01
data:
  class_path: segfocal.SegmentationDataModule
  init_args: {root: data, batch_size: 4, num_workers: 0}
"""
SHAPES = ["--data", "segfocal.ShapesDataModule", "--data.n_train=4", "--data.n_val=2", "--data.n_test=2"]
RUN = "--ckpt_path=runs/c/000"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos and a finished fit, whose data are gone but for the names of the classes."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "predict_nets.py").write_text(NETS)
    (folder / "c.yaml").write_text(CONFIG)
    write_tree(folder / "data", n_train=8, n_val=4, n_test=4, size=(32, 48))
    (folder / "photos").mkdir()
    for index, size in enumerate([(40, 30), (33, 65), (90, 70)]):
        Image.fromarray(noise(size[1], size[0], 3)).save(folder / f"photos/p{index}.png")
    write(folder / "geo.tif", noise(70, 90, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert main(["fit", "--config", "c.yaml"]) == 0
        yield folder


@pytest.fixture
def predict(home, capsys):
    """Types the command, and returns exit code, output, error output and the run's folder."""

    def typed(*words):
        capsys.readouterr()
        code = main(["predict", RUN, *words])
        return code, *capsys.readouterr(), (home / "runs/c/latest").resolve()

    return typed


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_words_are_images_and_what_lies_on_earth_stays_there(predict):
    code, out, err, run = predict("photos/p0.png", "geo.t*", "--probabilities")
    assert code == 0, err
    assert "2 images" in out
    kinds = ["masks/geo.tif", "masks/p0.png", "overlays/geo.jpg", "overlays/p0.jpg"]
    assert files(run) == ["config.yaml", *kinds, "probabilities/geo.npz", "probabilities/p0.npz"]
    with rasterio.open(run / "masks/geo.tif") as file:
        assert (file.crs, file.transform) == (rasterio.CRS.from_string(WHERE["crs"]), WHERE["transform"])
        mask = file.read(1)
    with np.load(run / "probabilities/geo.npz") as archive:
        shares = archive["probabilities"].astype(np.float32)
    assert shares.shape == (6, 70, 90)
    assert np.abs(shares.sum(0) - 1).max() < 0.01
    assert (shares.argmax(0) == mask).mean() > 0.99


def test_words_and_the_option_exclude_each_other(predict):
    code, _, err, _ = predict("photos", "--data.images=geo.tif")
    assert code == 2
    assert "as words or as --data.images, got both" in err


def test_help_and_a_template_go_with_words(home, capsys):
    assert main(["predict", "photos", "--probabilities", "--help"]) == 0
    assert "[--probabilities] [IMAGES ...]" in capsys.readouterr().out
    assert main(["predict", "--config", "c.yaml", "photos", "--print_config"]) == 0
    assert "- photos" in capsys.readouterr().out


def test_broken_images_do_not_stop_the_rest_and_are_listed(predict, tmp_path):
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "sound.png")
    (tmp_path / "header.png").write_bytes(b"nothing")
    whole = (tmp_path / "sound.png").read_bytes()
    (tmp_path / "pixels.png").write_bytes(whole[: len(whole) // 2])
    code, out, err, run = predict(str(tmp_path))
    assert code == 3
    assert "1 image:" in out
    assert "2 faults in 3 images, of which the others are written" in err
    listed = (run / "broken.txt").read_text()
    for said in (err, listed):
        assert "header.png: is not a readable image" in said
        assert "pixels.png: is truncated or corrupt" in said
    assert files(run) == ["broken.txt", "config.yaml", "masks/sound.png", "overlays/sound.jpg"]
    assert "goes on" not in predict(str(tmp_path))[1], "the run is finished"


def test_images_may_be_of_another_data_set_than_the_embedded_one(home, capsys):
    assert main(["fit", "--config", "c.yaml", *SHAPES, "--name", "shapes"]) == 0
    assert main(["predict", "--ckpt_path", "runs/shapes", "photos"]) == 0
    assert len(list((home / "runs/shapes/latest/masks").iterdir())) == 3


def test_windows_and_flips_are_typed_and_change_the_mask(home, predict):
    plain = predict("photos")[3]
    how = ["--model.inference.window=[16, 16]", "--model.inference.overlap=0.5", "--model.inference.flips=[up_down]"]
    code, out, err, run = predict("photos", *how)
    assert code == 0, err
    assert "model.inference.flips: " in out, "which the checkpoint was trained without"
    for name in ("p0.png", "p1.png"):
        assert pixels(run / "masks" / name).shape == pixels(plain / "masks" / name).shape
        assert (pixels(run / "masks" / name) != pixels(plain / "masks" / name)).any()


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(unlabelled, "LARGE", 1000)  # pixels


def test_large_tiffs_are_predicted_by_windows_and_said_so(home, predict, all_are_large):
    code, out, err, run = predict("geo.tif", "photos")
    assert code == 0, err
    assert "geo.tif: by windows of 512x512, the default; model.inference.window sets another" in out
    assert "4 images" in out
    code, out, err, _ = predict("geo.tif", "--probabilities")
    assert (code, "are not written" in out, "probabilities in" in out) == (0, True, False), err
    with rasterio.open(run / "masks/geo.tif") as file:
        got = file.read(1)
    assert np.array_equal(Predictor.from_run("runs/c/000")("geo.tif"), got)
    assert "by windows" not in predict("geo.tif", "--data.size=[32, 48]")[1], "size is that of whole images"


def test_a_broken_large_image_does_not_stop_the_rest(home, predict, all_are_large, tmp_path):
    for name in ("broken", "sound"):
        write(tmp_path / f"{name}.tif", noise(60, 70, 3), compress="deflate", blockysize=8)
    data = bytearray((tmp_path / "broken.tif").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    (tmp_path / "broken.tif").write_bytes(data)
    code, _, err, run = predict(str(tmp_path))
    assert code == 3
    assert "broken.tif: is truncated or corrupt in the rows" in err
    assert files(run) == ["broken.txt", "config.yaml", "masks/sound.tif", "overlays/sound.jpg"]


WORDS = ["photos", "--model.net.seconds=0.3", "--data.eval_batch_size=1", "--probabilities"]


def test_a_killed_predict_goes_on_where_it_was(home, predict, monkeypatch):
    for index in range(3, 9):
        Image.fromarray(noise(30, 40, 3)).save(home / f"photos/p{index}.png")
    words = [sys.executable, "-m", "segfocal", "predict", RUN, *WORDS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    before = set((home / "runs/c").iterdir())
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while len(list((home / "runs/c").glob("*/probabilities/p[0-9].npz"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (run,) = set((home / "runs/c").iterdir()) - before - {home / "runs/c/latest"}
    assert (run / "unfinished.json").is_file()
    (run / "masks/.0123456789abcdef.1.segfocal-part").write_text("half")
    there = {path: path.stat().st_mtime_ns for path in (run / "probabilities").iterdir() if path.suffix == ".npz"}
    code, out, err, again = predict(*WORDS)
    assert code == 0, err
    assert f"goes on in runs/c/{run.name}, which the same command has not finished" in out
    assert f"{len(there)} of 9 images are there already" in out or len(there) < 3
    assert "9 images: masks" in out
    assert again == run.resolve()
    wanted = [f"{kind}/p{index}.{end}" for kind, end in KINDS for index in range(9)]
    assert files(run) == sorted(["config.yaml", *wanted])
    done = [path for path in there if path != max(there, key=there.get)]
    assert all(path.stat().st_mtime_ns == there[path] for path in done), "what was whole is not written again"
    state = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert predict(*WORDS)[3] != run.resolve(), "a finished run is not touched again"
    assert state == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for path in (home / "photos").glob("p[3-9].png"):
        path.unlink()


KINDS = [("masks", "png"), ("overlays", "jpg"), ("probabilities", "npz")]


@pytest.mark.parametrize("changed", [["--model.threshold=0.4"], ["--data.images=geo.tif"]])
def test_another_command_makes_a_run_of_its_own(home, predict, monkeypatch, changed):
    from segfocal.prediction.outputs import Outputs

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "write", full)
        code, _, err, run = predict("--data.images=photos")
        assert code == 6, err
    other = predict(*changed, *(["--data.images=photos"] if "images" not in changed[0] else []))
    assert "goes on" not in other[1]
    assert other[3] != run
    same = predict("--data.images=photos")
    assert f"goes on in runs/c/{run.name}" in same[1]
