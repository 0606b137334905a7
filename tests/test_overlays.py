"""Sample overlays: one picture for every kind of mask."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_task import batch_of, loader, quiet_trainer
from torch import nn

from segfocal import FocalDiceLoss, SampleOverlays, SegmentationTask, ShapesDataModule


def sheet_of(tmp_path, names, batch, channels=None, activation="softmax", data=None, **options):
    """The only picture of a fit of two epochs, one row of it."""
    task = SegmentationTask(
        nn.Conv2d(batch["image"].shape[1] if batch else 3, channels or len(names), 1),
        FocalDiceLoss(activation),
        names,
        activation=activation,
        **options,
    )
    overlays = SampleOverlays(every_n_epochs=2, count=3)
    trainer = quiet_trainer(max_epochs=2, callbacks=[overlays], default_root_dir=tmp_path)
    if data is None:
        trainer.fit(task, loader([batch]), loader([batch]))
    else:
        trainer.fit(task, datamodule=data)
    (path,) = tmp_path.rglob("*.png")
    assert path == tmp_path / "samples" / "epoch_002.png"
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("kind", ["softmax", "binary", "binary, dense", "overlapping", "one against the rest"])
def test_every_kind_of_mask_makes_a_picture(tmp_path, kind):
    names = {"softmax": ["background", "a", "b"], "binary": ["a"], "binary, dense": ["a"]}.get(kind, ["a", "b", "c"])
    batch = batch_of(classes=2 if "binary" in kind else 3)
    if kind == "binary, dense":
        batch["mask"] = batch["mask"][:, None]
    elif kind == "overlapping":
        batch["mask"] = torch.randint(0, 2, (4, 3, 32, 32), dtype=torch.uint8)
    sheet = sheet_of(tmp_path, names, batch, activation="softmax" if kind == "softmax" else "sigmoid")
    rows = [region(sheet, row, column) for row in range(3) for column in range(3)]
    assert all((picture < 250).any() for picture in rows)
    assert all((rows[3 * row] != rows[3 * row + 1]).any() for row in range(3))


def region(sheet, row, column):
    """A picture of a sheet of square images, each 320 wide below a line of text."""
    top = 26 + row * (320 + 26 + 8) + 26
    return sheet[top : top + 320, 8 + column * 328 :][:, :320]


def test_the_truth_has_the_colours_of_the_data(tmp_path):
    palette = [(0, 0, 0), *[(250, 10 * index, 10) for index in range(5)]]
    data = ShapesDataModule(n_train=4, n_val=2, n_test=1, size=(32, 32), palette=palette)
    sheet = sheet_of(tmp_path, data.class_names, None, data=data)
    truth = region(sheet, 0, 1).reshape(-1, 3)
    borders = {tuple(colour) for colour in truth.tolist()} & {tuple(colour) for colour in palette[1:]}
    assert borders
    assert not {tuple(colour) for colour in region(sheet, 0, 0).reshape(-1, 3).tolist()} & borders


def test_grey_images_with_floats(tmp_path):
    batch = {"image": torch.rand(2, 1, 32, 32), "mask": torch.randint(0, 2, (2, 32, 32))}
    sheet = sheet_of(tmp_path, ["a", "b"], batch, mean=[0.5], std=[0.5])
    image = region(sheet, 0, 0)
    assert (image[..., 0] == image[..., 1]).all()
    assert image.std() > 30


def test_a_batch_that_counts_nowhere_is_not_shown(tmp_path):
    """Of several processes one may be given such a batch to keep up with the others: it names no sample."""
    real, filler = batch_of(), batch_of() | {"name": []}
    filler["mask"] = torch.full_like(filler["mask"], 255)
    real["name"] = [f"{i}.png" for i in range(len(real["image"]))]
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss(), ["background", "a", "b"])
    trainer = quiet_trainer(max_epochs=1, callbacks=[SampleOverlays(1, 2)], default_root_dir=tmp_path)
    trainer.fit(task, loader([real]), loader([filler, real]))
    with Image.open(tmp_path / "samples" / "epoch_001.png") as picture:
        assert picture.height > 2 * 320, "two rows, of the second batch"
