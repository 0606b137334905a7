"""`segfocal stats`, as people call it."""

import json

import numpy as np
import pytest
from PIL import Image

from segfocal.cli import main
from segfocal.data.shapes import write_tree


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_tree(tmp_path / "data", n_train=5, n_val=2, n_test=2, size=(32, 48))


def statistics(tmp_path, number=0):
    return json.loads((tmp_path / f"runs/default/{number:03d}-stats/statistics.json").read_text())


def test_a_folder_is_enough(tree, tmp_path, capsys):
    assert main(["stats", "--data.root", "data"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("background", "wire", "dot", "alpha", "mean: ["))
    found = statistics(tmp_path)
    masks = np.stack([np.array(Image.open(path)) for path in (tree / "masks/train").iterdir()])
    assert found["pixels"] == [int((masks == label).sum()) for label in range(6)]
    assert found["share"] == pytest.approx([(masks == label).sum() / (masks != 255).sum() for label in range(6)])
    images = np.stack([np.array(Image.open(path)) for path in (tree / "images/train").iterdir()]) / 255
    assert found["mean"] == pytest.approx(images.mean((0, 1, 2)).tolist(), abs=1e-4)
    assert found["std"] == pytest.approx(images.std((0, 1, 2)).tolist(), abs=1e-4)
    assert set(found["alpha"]) == {"inverse", "median", "effective", "auto"}
    with Image.open(tmp_path / "runs/default/000-stats/classes.png") as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(2**24)) > 6, "a bar per class in its colour"


def test_auto_is_what_a_fit_takes(tree, tmp_path, capsys):
    assert main(["stats", "--data.root", "data"]) == 0
    auto = statistics(tmp_path)["alpha"]["auto"]
    text = ", ".join(f"{name} {value:g}" for name, value in zip(statistics(tmp_path)["class_names"], auto, strict=True))
    (tmp_path / "fit.yaml").write_text(
        "data: {class_path: segfocal.SegmentationDataModule, init_args: {root: data, batch_size: 2, num_workers: 0}}\n"
        "model:\n  loss: {class_path: segfocal.FocalLoss, init_args: {alpha: auto}}\n"
        "  net: {class_path: segfocal.smp_net, init_args: {encoder_name: tu-mobilenetv3_small_050, options: "
        "{decoder_channels: [8, 8, 8, 8, 8]}}}\n"
        "trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, accelerator: cpu}\n"
    )
    capsys.readouterr()
    assert main(["fit", "--config", "fit.yaml"]) == 0
    assert text in capsys.readouterr().out


def test_nothing_is_read_twice(tree, tmp_path, monkeypatch):
    assert main(["stats", "--data.root", "data", "--data.verify", "false"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("segfocal.data.samples.read_image", lambda *given: pytest.fail("images are read again"))
        patch.setattr("segfocal.data.samples.read_mask", lambda *given, **more: pytest.fail("masks are read again"))
        assert main(["stats", "--data.root", "data", "--data.verify", "false"]) == 0
    assert statistics(tmp_path, 1) == statistics(tmp_path, 0)
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(tree / "masks/train/0000.png")
    assert main(["stats", "--data.root", "data"]) == 0
    assert statistics(tmp_path, 2)["pixels"] != statistics(tmp_path, 0)["pixels"]


def test_another_label_map_is_counted_again(tree, tmp_path):
    (tree / "classes.txt").unlink()
    for number, classes in enumerate(("{things: [1, 2, 3], thin: [4, 5]}", "{things: [1, 2], thin: [3, 4, 5]}")):
        words = ["--data.root", "data", f"--data.classes={classes}", "--data.unlisted=[0]"]
        assert main(["stats", *words]) == 0
        masks = np.stack([np.array(Image.open(path)) for path in (tree / "masks/train").iterdir()])
        thin = masks >= (4 if number == 0 else 3)
        assert statistics(tmp_path, number)["pixels"][1] == (thin & (masks < 6)).sum()


@pytest.mark.parametrize("words", [["--data", "segfocal.ShapesDataModule", "--data.multilabel", "true"], []])
def test_every_kind_of_data(tree, words):
    for mask in (tree / "masks").rglob("*.png"):
        Image.fromarray(np.minimum(np.array(Image.open(mask)), 1)).save(mask)
    (tree / "classes.txt").write_text("thing\n")
    assert main(["stats", *(words or ["--data.root", "data"])]) == 0


def test_faults_of_the_data_come_first(tree, capsys):
    (tree / "masks/train/0001.png").unlink()
    assert main(["stats", "--data.root", "data"]) == 3
    assert "0001.png: has no mask" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", "null", "[1]", '{"pixels": 3}'])
def test_a_spoilt_cache_is_counted_again(tree, tmp_path, content):
    assert main(["stats", "--data.root", "data"]) == 0
    for kept in (tmp_path / "runs/default").glob("*.json"):
        kept.write_text(content)
    assert main(["stats", "--data.root", "data"]) == 0
    assert statistics(tmp_path, 1) == statistics(tmp_path, 0)


def test_nothing_is_written_beside_the_runs(tree, tmp_path, capsys):
    assert main(["stats", "--data.root", "data", "--name", "../evil"]) == 2
    assert "Expected `name`" in capsys.readouterr().err
    assert not (tmp_path / "evil").exists()
    (tmp_path / "file").write_text("")
    assert main(["stats", "--data.root", "data", "--runs", "file"]) == 2
    assert "Expected `runs` to be a folder" in capsys.readouterr().err
