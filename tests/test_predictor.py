"""A run's net as a function, equal to the command."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_rasters import noise, write

from segfocal import Predictor
from segfocal.checkpoints import CheckpointError
from segfocal.cli import main
from segfocal.data import DataError
from segfocal.data.shapes import write_tree

CONFIG = """
trainer: {{max_epochs: 1, accelerator: cpu, enable_progress_bar: false{precision}}}
model:
  net:
    class_path: torch.nn.Conv2d
    init_args: {{in_channels: {bands}, out_channels: {classes}, kernel_size: 3, padding: 1}}
  loss: {{class_path: segfocal.FocalDiceLoss}}
  lr: 0.01
  activation: {activation}
data:
  class_path: segfocal.SegmentationDataModule
  init_args: {{root: data, batch_size: 4, num_workers: 0, {data}}}
"""
KINDS = {
    "softmax": {},
    "windows": {"words": ["--model.inference.window=[20, 24]", "--model.inference.flips=[left_right]"]},
    "resized": {"data": "size: [24, 40]"},
    "bfloat16": {"precision": ", precision: bf16-mixed"},
    "grey": {"bands": 1, "data": "in_channels: 1"},
    "range": {"data": "value_range: [20, 200]"},
}


def fitted(home, kind, **options):
    words = options.pop("words", [])
    given = {"precision": "", "classes": 6, "activation": "softmax", "data": "", "bands": 3} | options
    (home / f"{kind}.yaml").write_text(CONFIG.format(**given))
    assert main(["fit", "--config", f"{kind}.yaml", *words]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_tree(folder / "data", n_train=8, n_val=4, n_test=4, size=(32, 48))
        fitted(folder, "softmax")
        yield folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_what_the_command_writes(home, kind):
    if kind != "softmax":
        fitted(home, kind, **KINDS[kind])
    photo = home / f"{kind}.png"
    Image.fromarray(noise(45, 70, 3) if kind != "grey" else noise(45, 70)).save(photo)
    assert main(["predict", f"--ckpt_path=runs/{kind}/000", str(photo), "--probabilities"]) == 0
    with Image.open(home / f"runs/{kind}/latest/masks/{kind}.png") as picture:
        written = np.asarray(picture)
    (home / "data").rename(home / "away")
    try:
        state = torch.get_rng_state()
        predictor = Predictor.from_run(f"runs/{kind}/000", device="cpu")
        assert torch.equal(state, torch.get_rng_state())
        mask = predictor(photo)
    finally:
        (home / "away").rename(home / "data")
    assert (mask.dtype, mask.shape) == (np.uint8, (45, 70))
    assert len(np.unique(mask)) > 1
    assert np.array_equal(mask, written)
    with np.load(home / f"runs/{kind}/latest/probabilities/{kind}.npz") as archive:
        np.testing.assert_allclose(predictor.probabilities(photo), archive["probabilities"], atol=5e-4)
    if kind != "range":
        assert np.array_equal(predictor(np.asarray(Image.open(photo))), mask)


@pytest.mark.parametrize(("name", "option", "count"), [("planes", "multilabel=true", 5), ("binary", "only=wire", 1)])
def test_with_sigmoid_there_is_a_plane_per_class_or_one(home, name, option, count):
    words = ["--data=segfocal.ShapesDataModule", f"--data.{option}", "--data.n_train=4", "--data.n_val=2"]
    net = ["--model.net=torch.nn.Conv2d", "--model.net.in_channels=3", f"--model.net.out_channels={count}"]
    net += ["--model.net.kernel_size=1", "--model.loss=segfocal.FocalDiceLoss", "--model.activation=sigmoid"]
    quick = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert main(["fit", *words, *net, *quick, f"--name={name}"]) == 0
    Image.fromarray(noise(45, 70, 3)).save(home / "x.png")
    assert main(["predict", f"--ckpt_path=runs/{name}/000", "x.png"]) == 0
    predictor = Predictor.from_run(f"runs/{name}/000", device="cpu")
    mask = predictor("x.png")
    assert mask.shape == ((45, 70) if count == 1 else (5, 45, 70))
    files = [f"x.{each}.png" for each in predictor.class_names] if count > 1 else ["x.png"]
    for plane, file in zip(mask.reshape(count, 45, 70), files, strict=True):
        with Image.open(home / f"runs/{name}/latest/masks" / file) as picture:
            assert np.array_equal(np.asarray(picture), plane)


def test_best_or_last_and_a_run_that_has_neither(home, tmp_path):
    best, last = (Predictor.from_run("runs/softmax/000", checkpoint=kind) for kind in ("best", "last"))
    assert best.class_names == last.class_names
    with pytest.raises(CheckpointError, match="to exist"):
        Predictor.from_run(tmp_path / "nowhere")
    shutil.copy(home / "runs/softmax/000/checkpoints/best.ckpt", tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"Expected `run` to hold config.yaml and checkpoints/"):
        Predictor.from_run(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "image", [noise(4, 5, 4), noise(4, 5, 3).astype(float), noise(4, 5), np.zeros((0, 5, 3), "u1")]
)
def test_an_array_of_another_kind_is_refused(home, image):
    with pytest.raises(ValueError, match=r"Expected `image` of uint8 \(H, W, 3\), got "):
        Predictor.from_run("runs/softmax/000")(image)


@pytest.mark.parametrize("image", [[[0]], None, b"a.png", Image.new("RGB", (4, 5)), torch.zeros(3, 4, 5)])
def test_what_is_neither_a_path_nor_an_array_is_refused(home, image):
    predictor = Predictor.from_run("runs/softmax/000", device="cpu")
    for predict in (predictor, predictor.probabilities):
        with pytest.raises(ValueError, match=r"Expected `image` to be a path or a NumPy array .*, got .*\. Give "):
            predict(image)


@pytest.mark.parametrize("path", ["a\0b", "a\0b.tif", "x" * 5000, "x" * 5000 + ".tif"])
def test_what_cannot_be_a_path_is_refused(home, path):
    predictor = Predictor.from_run("runs/softmax/000", device="cpu")
    for predict in (predictor, predictor.probabilities):
        with pytest.raises(DataError, match=r"is not a path that can be read .* Correct `image`"):
            predict(path)


@pytest.mark.parametrize("device", ["nothing", "cuda:99", "meta", []])
def test_a_device_that_is_not_there_is_named(home, device):
    with pytest.raises(ValueError, match=r"Expected `device` to be one that torch has here, .*, got "):
        Predictor.from_run("runs/softmax/000", device=device)


def test_another_kind_of_checkpoint_is_refused(home):
    with pytest.raises(ValueError, match="Expected `checkpoint` to be best or last, got 'worst'"):
        Predictor.from_run("runs/softmax/000", checkpoint="worst")


def test_a_broken_file_is_named(home, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    write(tmp_path / "b.tif", noise(9, 9, 3))
    predictor = Predictor.from_run("runs/softmax/000")
    assert predictor(tmp_path / "b.tif").shape == (9, 9)
    for name in ("a.png", "nowhere.tif"):
        with pytest.raises(DataError, match=name):
            predictor(tmp_path / name)
