"""Data sets in the layout in which they are published, small: found, paired, and their labels understood."""

from zlib import crc32

import numpy as np
import pytest
import yaml
from PIL import Image

from segfocal.cli import main
from segfocal.data import DataError, SegmentationDataModule

SIZE = (48, 64)


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(crc32(path.name.encode())).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(path)


def mask(path, values, palette=None):
    """Columns of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.resize(np.repeat(values, SIZE[1] // len(values)), SIZE[1])
    picture = Image.fromarray(np.broadcast_to(columns, SIZE).astype(np.uint8).copy())
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def voc(root):
    for split, stems in {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}.items():
        for stem in stems:
            image(root / f"JPEGImages/{stem}.jpg")
            mask(root / f"SegmentationClass/{stem}.png", [0, 1, 15, 255], [value % 256 for value in range(768)])
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(stems) + "\n")
    image(root / "JPEGImages/2007_000001.jpg")  # most of VOC's images are not segmented
    mask(root / "SegmentationObject/2007_000032.png", [0, 1])


def cityscapes(root):
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "frankfurt")):
        stem = f"{city}/{city}_000000_000019"
        image(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
        mask(root / f"gtFine/{split}/{stem}_gtFine_labelIds.png", [7, 26, 33, 3])
        mask(root / f"gtFine/{split}/{stem}_gtFine_instanceIds.png", [7, 26])
        mask(root / f"gtFine/{split}/{stem}_gtFine_color.png", [1, 2])
        (root / f"gtFine/{split}/{stem}_gtFine_polygons.json").write_text("{}")


def ade20k(root):
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        image(root / f"images/{split}/{stem}.jpg")
        mask(root / f"annotations/{split}/{stem}.png", [0, 1, 3, 150])
    rows = [f"{label}\t0.1\t1\t1\t1\tthing {label}, synonym" for label in range(4, 151)]
    first = ["1\t0.1\t1\t1\t1\twall", "2\t0.1\t1\t1\t1\tscreen, silver screen", "3\t0.1\t1\t1\t1\tscreen, crt screen"]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *first, *rows]) + "\n")


WANTED = {
    voc: ("aeroplane", 1, 21, [0, 1, 15, 255]),
    cityscapes: ("car", 13, 19, [0, 13, 18, 255]),
    ade20k: ("wall", 0, 150, [0, 2, 149, 255]),
}


@pytest.mark.parametrize("write", WANTED, ids=lambda write: write.__name__)
@pytest.mark.parametrize("auto", [True, False])
def test_a_published_tree_needs_no_description(tmp_path, write, auto):
    write(tmp_path)
    name, index, count, labels = WANTED[write]
    data = SegmentationDataModule(root=tmp_path, layout="auto" if auto else write.__name__, batch_size=1, num_workers=0)
    data.setup("fit")
    assert data.num_classes == count
    assert data.class_names[index] == name
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert all(batch["mask"].unique().tolist() == labels for batch in loader)
    assert data.inspect().count == 0
    train = {sample.name for sample in data.datasets["train"].samples}
    assert len(train) == (1 if write is ade20k else 2)


@pytest.mark.parametrize("write", WANTED, ids=lambda write: write.__name__)
def test_a_published_tree_trains(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    net = {"encoder_name": "tu-mobilenetv3_small_050", "options": {"decoder_channels": [8, 8, 8, 8, 8]}}
    config = {
        "data": {"class_path": "segfocal.SegmentationDataModule"},
        "model": {"net": {"class_path": "segfocal.smp_net", "init_args": net}, "loss": "segfocal.FocalDiceLoss"},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
    }
    config["data"]["init_args"] = {"root": "data", "batch_size": 1, "num_workers": 0}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "c.yaml"]) == 0


def test_ade20k_ignores_0_and_nothing_else(tmp_path):
    ade20k(tmp_path)
    mask(tmp_path / "annotations/validation/ADE_val_00000001.png", [0, 1, 151])
    with pytest.raises(DataError, match=r"ADE_val_00000001.png: labels must be listed.*got 151\."):
        SegmentationDataModule(root=tmp_path, num_workers=0).setup("fit")


def test_names_of_ade20k_are_distinct(tmp_path):
    ade20k(tmp_path)
    names = SegmentationDataModule(root=tmp_path, num_workers=0).class_names
    assert names[:4] == ["wall", "screen, silver screen", "screen, crt screen", "thing 4"]


def test_ade20k_without_its_table_says_what_is_missing(tmp_path):
    ade20k(tmp_path)
    (tmp_path / "objectInfo150.txt").unlink()
    with pytest.raises(DataError, match=r"objectInfo150.txt: must be the table of classes.*or give `classes`"):
        SegmentationDataModule(root=tmp_path)


def test_own_classes_win_over_the_published_ones(tmp_path):
    cityscapes(tmp_path)
    classes = {"flat": [7, 8], "vehicle": [26, 27, 28, 33]}
    data = SegmentationDataModule(root=tmp_path, classes=classes, unlisted="ignore", batch_size=2, num_workers=0)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["mask"].unique().tolist() == [0, 1, 255]
    with pytest.raises(DataError, match=r"got 3\. List it there, or, if it means nothing, set `unlisted: \[3\]`"):
        SegmentationDataModule(root=tmp_path, classes=classes, num_workers=0).setup("fit")


def test_a_voc_list_may_not_leave_the_root(tmp_path):
    voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("../../secret\n2007_000033\n2007_000033\nmissing\n")
    with pytest.raises(DataError) as raised:
        SegmentationDataModule(root=tmp_path, num_workers=0).setup("fit")
    for said in ("val.txt, line 1: JPEGImages/../../secret.jpg leads out", "is listed twice", "missing.jpg: does not"):
        assert said in str(raised.value)


def test_the_colours_of_voc_are_those_that_its_masks_have():
    from segfocal.data.published import voc as label_set

    assert label_set().palette[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert label_set().palette[20] == (0, 64, 128)
