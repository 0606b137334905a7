"""Counts of classes, and the alpha that follows from them."""

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from segfocal.cli import main
from segfocal.data import ClassStatistics, DataError, SegmentationDataModule, ShapesDataModule, class_statistics
from segfocal.data import statistics as module
from segfocal.data.labels import Labels
from segfocal.data.shapes import write_tree

THREE = ClassStatistics(["road", "car", "pole"], 4, [800, 190, 10], [1000] * 3, [4, 2, 1], [1000, 600, 250])


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "data", n_train=6, n_val=2, n_test=2, size=(32, 48))


def train_set(tree, **options):
    data = SegmentationDataModule(root=tree, num_workers=0, **options)
    data.setup("fit")
    return data


def test_counts_are_those_of_a_loop_over_the_masks(tree):
    mask = tree / "masks/train/0000.png"
    labels = np.array(Image.open(mask))
    labels[:5] = 255
    Image.fromarray(labels).save(mask)
    data = train_set(tree)
    got = class_statistics(data.datasets["train"].samples, data.labels, data.class_names)
    masks = [np.array(Image.open(path)) for path in (tree / "masks/train").iterdir()]
    for label in range(6):
        assert got.pixels[label] == sum((mask == label).sum() for mask in masks)
        assert got.images_with[label] == sum((mask == label).any() for mask in masks)
        assert got.labelled[label] == sum((mask != 255).sum() for mask in masks)
        assert got.labelled_there[label] == sum((mask != 255).sum() for mask in masks if (mask == label).any())
    assert got.images == 6
    assert got.shares.sum() == pytest.approx(1)


def test_overlapping_classes_are_counted_one_by_one():
    data = ShapesDataModule(n_train=3, n_val=1, n_test=1, size=(64, 64), multilabel=True)
    data.setup("fit")
    samples = data.datasets["train"].samples
    got = class_statistics(samples, data.labels, data.class_names)
    planes = np.stack([sample.mask(data.labels) for sample in samples])  # (images, C, H, W)
    assert got.pixels == (planes == 1).sum((0, 2, 3)).tolist()
    assert got.labelled == (planes != data.ignore_index).sum((0, 2, 3)).tolist()


def test_one_class_is_counted_against_the_background():
    class Half:
        name, path, size = "half", None, (2, 4)

        def mask(self, labels):
            return np.array([[1, 0, 0, 0], [1, 255, 255, 0]], np.uint8)

    got = class_statistics([Half()], Labels(1, 255), ["crack"])
    assert (got.pixels, got.labelled) == ([2], [6])
    assert got.alpha("inverse", 1.0, "sigmoid") == [0.6667]


def test_inverse_is_one_over_the_share():
    weights = 1 / np.array([0.8, 0.19, 0.01])
    np.testing.assert_allclose(THREE.alpha("inverse"), weights / 3, rtol=1e-3)


def test_median_goes_by_the_images_that_show_a_class():
    frequency = np.array([800 / 1000, 190 / 600, 10 / 250])
    weights = np.median(frequency) / frequency
    np.testing.assert_allclose(THREE.alpha("median"), weights / (weights * THREE.shares).sum(), rtol=1e-3)


def test_effective_weighs_common_classes_alike():
    n, volume = np.array([800, 190, 10]), 1000 / 3
    weights = 1 / (1 - (1 - 1 / volume) ** n)
    alpha = THREE.alpha("effective")
    np.testing.assert_allclose(alpha, weights / (weights * THREE.shares).sum(), rtol=1e-3)
    assert alpha[2] / alpha[1] > 10 > 3 > alpha[1] / alpha[0]


@pytest.mark.parametrize("method", ["inverse", "median", "effective"])
def test_the_mean_weight_of_a_pixel_is_one(method):
    for power in (0, 0.5, 1):
        assert (THREE.alpha(method, power) * THREE.shares).sum() == pytest.approx(1, rel=1e-3)
    assert THREE.alpha(method, 0) == [1, 1, 1]


@pytest.mark.parametrize("method", ["inverse", "median", "effective"])
def test_sigmoid_weighs_positives_against_negatives(method):
    alpha = THREE.alpha(method, 1.0, "sigmoid")
    assert alpha == sorted(alpha)
    assert all(0 <= value <= 1 for value in alpha)
    assert THREE.alpha(method, 0, "sigmoid") == [0.5, 0.5, 0.5]
    if method == "inverse":
        np.testing.assert_allclose(alpha, 1 - THREE.shares, rtol=1e-3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_class_that_never_occurs_gets_the_largest_weight(activation):
    statistics = ClassStatistics(["a", "b", "c"], 2, [90, 10, 0], [100] * 3, [2, 1, 0], [100, 50, 0])
    for method in ("inverse", "median", "effective"):
        alpha = statistics.alpha(method, 1.0, activation)
        assert alpha[2] == alpha[1] > alpha[0]


def test_what_alpha_refuses():
    with pytest.raises(ValueError, match="Expected `method` to be one of inverse, median, effective, got 'sqrt'"):
        THREE.alpha("sqrt")
    for power in (-0.1, 2, "1", True, float("nan")):
        with pytest.raises(ValueError, match=r"Expected `power` in \[0, 1\]"):
            THREE.alpha("inverse", power)
    with pytest.raises(ValueError, match="Expected masks with labelled pixels, got none"):
        ClassStatistics(["a", "b"], 1, [0, 0], [0, 0], [0, 0], [0, 0]).alpha()


def test_statistics_are_counted_again_only_when_a_mask_changes(tree, tmp_path, monkeypatch):
    data = train_set(tree)
    first = module.cached_statistics(data.datasets["train"], data.class_names, tmp_path / "runs")
    assert len(list((tmp_path / "runs").iterdir())) == 1
    monkeypatch.setattr(module, "class_statistics", lambda *_: "counted again")
    assert module.cached_statistics(data.datasets["train"], data.class_names, tmp_path / "runs") == first
    os.utime(tree / "masks/train/0000.png", ns=(0, 0))
    with pytest.raises(TypeError):  # what the stand-in returned is no statistics
        module.cached_statistics(data.datasets["train"], data.class_names, tmp_path / "runs")


TINY = [
    "--data=segfocal.SegmentationDataModule", "--data.num_workers=0", "--model.net=torch.nn.Conv2d",
    "--model.net.in_channels=3", "--model.net.out_channels=6", "--model.net.kernel_size=1",
    "--model.loss=segfocal.FocalDiceLoss", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--data.batch_size=2", "--name=auto",
]  # fmt: skip


def test_a_fit_settles_an_automatic_alpha_and_keeps_it(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *TINY, f"--data.root={tree}", "--model.loss.alpha=auto"]) == 0
    data = train_set(tree)
    want = class_statistics(data.datasets["train"].samples, data.labels, data.class_names).alpha("inverse", 0.5)
    assert f"alpha, inverse to the power of 0.5: background {want[0]:g}, block" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "runs/auto/000/config.yaml").read_text())
    assert config["model"]["loss"]["init_args"]["alpha"] == want
    assert main(["test", "--ckpt_path", "runs/auto/000"]) == 0
    assert main(["test", "--ckpt_path", "runs/auto/000", "--model.loss.alpha=auto"]) == 0


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        ("{method: sqrt}", "model.loss.alpha: Expected `method` to be one of inverse, median, effective, got 'sqrt'"),
        ("{power: 3}", "model.loss.alpha: Expected `power` in [0, 1], got 3"),
        ("{beta: 0.9}", "model.loss.alpha has the keys method and power, not beta"),
        ("automatic", "'auto'"),
    ],
)
def test_an_automatic_alpha_that_is_not_understood(alpha, words, tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *TINY, f"--data.root={tree}", f"--model.loss.alpha={alpha}"]) == 2
    assert words in capsys.readouterr().err


def test_a_mask_that_cannot_be_read_is_a_data_error(tree):
    data = train_set(tree)
    (tree / "masks/train/0001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"masks/train/0001\.png: is empty"):
        class_statistics(data.datasets["train"].samples, data.labels, data.class_names)
