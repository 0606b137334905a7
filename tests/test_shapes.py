import numpy as np
import pytest
import torch

from segfocal.data import SegmentationDataModule, ShapesDataModule
from segfocal.data.shapes import write_tree


@pytest.fixture(scope="module")
def shapes():
    data = ShapesDataModule(n_train=60, n_val=5, n_test=3, batch_size=4, eval_batch_size=2)
    data.setup()
    return data


def test_batches(shapes):
    batch = next(iter(shapes.train_dataloader()))
    assert batch["image"].shape == (4, 3, 96, 128)
    assert batch["mask"].shape == (4, 96, 128)
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
    assert len(batch["name"]) == 4
    assert [name for b in shapes.val_dataloader() for name in b["name"]] == [f"val/{i:04d}" for i in range(5)]
    predict = list(shapes.predict_dataloader())
    assert predict[0]["size"] == [(96, 128)] * 2
    assert predict[0]["path"] == [None, None]
    assert [name for b in predict for name in b["name"]] == [f"test/{i:04d}" for i in range(3)]


def test_classes_are_strongly_imbalanced(shapes):
    masks = np.stack([sample.labels for sample in shapes.datasets["train"].samples])
    share = dict(
        zip(shapes.class_names, (np.bincount(masks.ravel(), minlength=256) / masks.size).tolist(), strict=False)
    )
    assert share["background"] > 0.6
    assert 0.002 < share["wire"] < 0.01
    assert 0.0005 < share["dot"] < 0.003
    assert 0.01 < (masks == 255).mean() < 0.08
    assert shapes.num_classes == len(shapes.palette) == 6


def test_a_seed_gives_the_same_pictures_whatever_the_count(shapes):
    one, other = (ShapesDataModule(n_train=60, seed=seed).scene("train", 3) for seed in (0, 1))
    same = shapes.datasets["train"].samples[3]
    assert (one.pixels == same.pixels).all()
    assert (one.labels == same.labels).all()
    assert (one.pixels != other.pixels).any()
    assert (one.pixels != shapes.scene("val", 3).pixels).any()


def test_multilabel_planes_hold_whole_objects():
    flat, dense = (ShapesDataModule(multilabel=multilabel, n_train=20) for multilabel in (False, True))
    assert dense.class_names == flat.class_names[1:]
    covered = 0
    for index in range(20):
        labels, planes = flat.scene("train", index).labels, dense.scene("train", index).labels
        assert planes.shape == (5, 96, 128)
        assert set(np.unique(planes)) <= {0, 1, 255}
        for label in range(1, 6):
            seen = (labels == label) & (planes[label - 1] != 255)
            assert (planes[label - 1][seen] == 1).all()
        covered += int(((planes == 1).sum(0) > 1).sum())
    assert covered > 100
    dense.setup("fit")
    assert next(iter(dense.train_dataloader()))["mask"].shape == (8, 5, 96, 128)


def test_one_class_is_a_binary_task():
    data = ShapesDataModule(only="wire", n_train=8, ignore_index=7)
    data.setup("fit")
    assert (data.class_names, data.num_classes, len(data.palette)) == (["wire"], 1, 1)
    mask = next(iter(data.train_dataloader()))["mask"]
    assert mask.unique().tolist() == [0, 1, 7]
    assert 0 < (mask == 1).float().mean() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_val": 0}, "`n_val` to be an integer of at least 1, got 0"),
        ({"size": (8, 8)}, "`size`.*at least 32"),
        ({"noise": -1.0}, "`noise`"),
        ({"only": "sky"}, "`only` to be one of block, disc"),
        ({"only": "wire", "multilabel": True}, "without `multilabel`"),
        ({"ignore_index": 5}, "`ignore_index`"),
        ({"palette": [(0, 0, 0)]}, "`palette` to hold 6 RGB triples"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataModule(**arguments)


def test_a_written_tree_reads_back(tmp_path):
    data = SegmentationDataModule(root=write_tree(tmp_path, n_train=3, n_val=2, n_test=1), num_workers=0, batch_size=3)
    data.setup("fit")
    data.setup("test")
    data.setup("predict")
    generated = ShapesDataModule(n_train=3, n_val=2, n_test=1)
    assert data.class_names == generated.class_names
    batch = next(iter(data.val_dataloader()))
    scene = generated.scene("val", 1)
    assert batch["name"] == ["images/val/0000.png", "images/val/0001.png"]
    assert (batch["mask"][1].numpy() == scene.labels).all()
    assert (batch["image"][1].numpy() == scene.pixels.transpose(2, 0, 1)).all()


def test_other_sizes_and_wide_ignore_index():
    data = ShapesDataModule(n_train=2, n_val=1, size=(65, 40), ignore_index=999, batch_size=1)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["mask"].shape == (1, 65, 40)
    assert batch["mask"].max() in (999, *range(6))
