import logging
from pathlib import Path

import albumentations
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentError, ArgumentParser
from PIL import Image
from pytorch_lightning.cli import LightningCLI

import segfocal
from segfocal.data import DataError, SegmentationDataModule
from segfocal.data.shapes import CLASSES, write_tree

CAMVID = Path(segfocal.__file__).parents[2] / "shared" / "data" / "camvid"
CAMVID_CLASSES = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist",
]  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "data", n_train=4, n_val=3, n_test=2, size=(32, 48))


def module(root, **arguments):
    return SegmentationDataModule(root=root, **{"num_workers": 0, "batch_size": 2, **arguments})


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def test_batches_of_every_stage(tree):
    data = module(tree, size=(16, 24), eval_batch_size=3)
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert train["image"].shape == (2, 3, 16, 24)
    assert train["mask"].shape == (2, 16, 24)
    assert val["image"].shape == (3, 3, 16, 24)
    assert val["mask"].shape == (3, 32, 48)
    assert {t.dtype for b in (train, val) for t in (b["image"], b["mask"])} == {torch.uint8}
    assert val["name"] == [f"images/val/000{i}.png" for i in range(3)]
    assert [b["name"] for b in data.test_dataloader()] == [["images/test/0000.png", "images/test/0001.png"]]
    predict = next(iter(data.predict_dataloader()))
    assert predict["size"] == [(32, 48)] * 2
    assert [Path(path).is_file() for path in predict["path"]] == [True, True]


def test_classes_come_from_the_file_or_the_argument(tree):
    names = ["background", "block", "disc", "triangle", "wire", "dot"]
    assert module(tree).class_names == module(tree, classes=names).class_names == names
    (tree / "classes.txt").write_bytes("\ufeff# mine\r\nsky\r\n\r\nroad\r\n".encode())
    assert module(tree).class_names == ["sky", "road"]
    with pytest.raises(ValueError, match=r"`classes` to equal .*classes.txt.*got 3.*Leave `classes` out"):
        module(tree, classes=["a", "b", "c"])
    (tree / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"Expected `classes`, for there is no .*classes.txt. List the names"):
        module(tree)
    with pytest.raises(DataError, match="`root` must be an existing folder"):
        module(tree / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` to be an integer of at least 1, got 0"),
        ({"eval_batch_size": 0}, "`eval_batch_size`"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"ignore_index": -100}, "`ignore_index`"),
        ({"ignore_index": 5}, "`ignore_index` above the classes' labels 0..5"),
        ({"size": (0, 8)}, "`size`"),
        ({"size": (8,)}, "`size`"),
        ({"layout": "coco"}, "`layout`"),
        ({"split_files": {"training": "a.txt"}}, "`split_files`"),
        ({"palette": [(0, 0, 300)] * 6}, "`palette`"),
        ({"classes": []}, "`classes`"),
        ({"classes": ["a", "a"]}, "`classes`"),
    ],
)
def test_arguments_are_checked_at_construction(tree, arguments, message):
    if "classes" in arguments:
        (tree / "classes.txt").unlink()
    with pytest.raises(ValueError, match=message):
        module(tree, **arguments)


def test_all_faults_of_both_splits_come_in_one_error(tree):
    train, val = tree / "masks/train", tree / "masks/val"
    (train / "0000.png").unlink()
    save(train / "0001.png", np.full((32, 48), 9))
    save(train / "0002.png", np.zeros((32, 40)))
    save(train / "orphan.png", np.zeros((32, 48)))
    save(val / "0000.png", np.zeros((32, 48, 3)))
    (val / "0001.png").write_bytes(b"")
    (tree / "images/val/0002.png").write_text("no image")
    save(tree / "images/val/0001.jpg", np.zeros((32, 48, 3)))
    with pytest.raises(DataError) as raised:
        module(tree).setup("fit")
    text = str(raised.value)
    assert text.startswith(f"8 faults in {tree}:\n")
    for fault in (
        "images/train/0000.png: has no mask",
        "masks/train/0001.png: labels must be 0..5 or 255 (ignored), got 9",
        "masks/train/0002.png: image and mask must have one size, got 32 x 40",
        "masks/train/orphan.png: is a mask without an image",
        "masks/val/0000.png: a mask holds one label per pixel",
        "masks/val/0001.png: is empty",
        "images/val/0002.png: is not a readable image",
        "images/val/0001.jpg, images/val/0001.png: share one stem",
    ):
        assert fault in text
    assert "Traceback" not in text


def test_only_the_splits_of_the_stage_are_checked(tree):
    save(tree / "masks/train/0000.png", np.full((32, 48), 9))
    module(tree).setup("validate")
    module(tree).setup("predict")
    with pytest.raises(DataError, match=r"^1 fault in "):
        module(tree).setup("fit")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unverified_fault_is_named_when_it_is_read(tree, num_workers):
    for mask in (tree / "masks/train").iterdir():
        save(mask, np.full((32, 48), 9))
    data = module(tree, verify=False, num_workers=num_workers)
    data.setup("fit")
    with pytest.raises(DataError) as raised:
        next(iter(data.train_dataloader()))
    assert str(raised.value).startswith("masks/train/000")
    assert "got 9" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_decoding_sizes_are_still_checked(tree):
    save(tree / "masks/val/0000.png", np.zeros((30, 48)))
    with pytest.raises(DataError, match=r"masks/val/0000.png: image and mask must have one size"):
        module(tree, verify=False).setup("validate")


def test_a_class_that_never_occurs_is_warned_of(tree, caplog):
    for mask in (tree / "masks/train").iterdir():
        save(mask, np.repeat([[0, 1, 2, 3, 5, 255]], 32, 0).repeat(8, 1))
    with caplog.at_level(logging.WARNING):
        module(tree).setup("fit")
    assert [record.getMessage() for record in caplog.records] == [
        "warning: Classes that never occur in train and cannot be learnt: wire (4)."
    ]


def test_binary_masks_hold_0_and_1(tree, caplog):
    (tree / "classes.txt").write_text("wire\n")
    for mask in (tree / "masks").rglob("*.png"):
        save(mask, np.array(Image.open(mask)) == 4)
    module(tree).setup("fit")
    assert module(tree).num_classes == 1
    assert not caplog.records
    save(tree / "masks/val/0000.png", np.full((32, 48), 255))
    save(tree / "masks/val/0001.png", np.full((32, 48), 2))
    with pytest.raises(DataError, match=r"0001.png: labels must be 0..1"):
        module(tree).setup("fit")
    with pytest.raises(DataError, match=r"If 255 means the class, say so: `classes: \{NAME: 255\}`"):
        module(tree, ignore_index=7).setup("fit")


def test_images_of_several_sizes(tree):
    for kind, shape in (("images", (20, 30, 3)), ("masks", (20, 30))):
        for split in ("train", "val", "test"):
            save(tree / kind / split / "0001.png", np.zeros(shape))
    with pytest.raises(DataError, match=r"train: images of a batch must have one size, got 2: .*Set `size`, or `crop`"):
        module(tree).setup("fit")
    with pytest.raises(DataError, match=r"train: images of a batch must have one size"):
        module(tree, augment="light").setup("fit")  # a preset keeps the size
    cropped = module(tree, crop=(16, 16), batch_size=4)
    cropped.setup("fit")
    assert next(iter(cropped.train_dataloader()))["image"].shape == (4, 3, 16, 16)
    for size, count in (((16, 16), 2), (None, 2)):
        data = module(tree, size=size)
        data.setup("validate")
        batches = list(data.val_dataloader())
        assert [b["mask"].shape[1:] for b in batches] == [(32, 48), (20, 30)]
        assert len(data.val_dataloader()) == count
    data = module(tree, size=(16, 16))
    data.setup("predict")
    assert [batch["size"] for batch in data.predict_dataloader()] == [[(32, 48)], [(20, 30)]]


def test_an_image_in_two_splits_is_an_error(tree):
    pairs = [f"images/train/000{i}.png masks/train/000{i}.png" for i in range(4)]
    (tree / "train.txt").write_text("\n".join(pairs[:3]))
    (tree / "val.txt").write_text(pairs[3])
    (tree / "test.txt").write_text(pairs[3])
    module(tree, split_files={"train": "train.txt", "val": "val.txt"}).setup("fit")
    data = module(tree, split_files={"train": "train.txt", "val": "val.txt", "test": "test.txt"})
    with pytest.raises(DataError, match=r"images/train/0003.png: is in the splits val and test"):
        data.setup("fit")


def test_prediction_on_a_folder_a_file_and_a_list(tree):
    val = tree / "images/val"
    for images, names in (
        (str(val), ["0000.png", "0001.png", "0002.png"]),
        (val / "0001.png", ["0001.png"]),
        ([str(val / "0000.png"), str(val / "0002.png")], ["0000.png", "0002.png"]),
    ):
        data = module(tree, images=images, eval_batch_size=5)
        data.setup("predict")
        assert next(iter(data.predict_dataloader()))["name"] == names
    data = module(tree, images="nowhere")
    with pytest.raises(DataError, match="nowhere: `images` must name existing"):
        data.setup("predict")


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 6, 1)
        self.seen = []

    def training_step(self, batch):
        return self.layer(batch["image"].float()).mean()

    def validation_step(self, batch):
        self.seen += batch["name"]

    def predict_step(self, batch):
        return batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_takes_it(tree):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    net = Net()
    data = module(tree, size=(16, 24))
    trainer.fit(net, datamodule=data)
    assert set(net.seen) == {f"images/val/000{i}.png" for i in range(3)}
    names = trainer.predict(net, datamodule=data)
    assert names == [["images/test/0000.png", "images/test/0001.png"]]


YAML = """
data:
  class_path: segfocal.data.SegmentationDataModule
  init_args:
    root: {root}
    size: [16, 24]
    batch_size: 2
    num_workers: 0
    palette: [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0], [5, 0, 0]]
    augment:
      - class_path: albumentations.HorizontalFlip
        init_args: {{p: 0.5}}
      - class_path: albumentations.OneOf
        init_args:
          transforms:
            - class_path: albumentations.Rotate
              init_args: {{limit: 30, p: 1.0}}
            - class_path: albumentations.GaussNoise
          p: 0.5
"""


@pytest.mark.filterwarnings("ignore")
def test_lightning_cli_builds_it_from_yaml(tree, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML.format(root=tree))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--trainer.accelerator=cpu"]
    cli = LightningCLI(Net, pl.LightningDataModule, subclass_mode_data=True, run=False, args=arguments)
    assert isinstance(cli.datamodule, SegmentationDataModule)
    assert cli.datamodule.size == (16, 24)
    assert cli.datamodule.palette[5] == (5, 0, 0)
    cli.datamodule.setup("fit")
    assert next(iter(cli.datamodule.train_dataloader()))["image"].shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("limit: 30", "limitt: 30", "limitt"),
        ("{p: 0.5}", "{p: 0.5, mask_value: 255}", "mask_value"),
        ("albumentations.GaussNoise", "albumentations.GausNoise", "GausNoise"),
        ("batch_size: 2", "batch_size: two", "batch_size"),
        ("size: [16, 24]", "size: [16]", "size"),
    ],
)
def test_yaml_with_unknown_or_wrong_values_is_refused(tree, old, new, message):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    text = YAML.format(root=tree)
    assert old in text
    with pytest.raises(ArgumentError, match=message):
        parser.parse_string(text.replace(old, new))


def test_the_command_line_sets_what_people_set():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SegmentationDataModule, "data")
    parsed = parser.parse_args(
        ["--data.root=x", "--data.images=[a.png, b.png]", "--data.size=[8, 9]", "--data.split_files={train: t.txt}"]
    ).data
    assert parsed.images == ["a.png", "b.png"]
    assert tuple(parsed.size) == (8, 9)
    assert parsed.split_files == {"train": "t.txt"}
    assert parser.parse_args(["--data.root=x", "--data.images=photos"]).data.images == "photos"


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs CamVid beside the repository")
@pytest.mark.parametrize("split_files", [None, {"train": "train.txt", "val": "val.txt", "test": "test.txt"}])
def test_camvid(split_files):
    data = module(CAMVID, classes=CAMVID_CLASSES, ignore_index=11, size=(90, 120), split_files=split_files)
    data.setup("fit")
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (367, 101)
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (2, 3, 90, 120)
    assert batch["mask"].shape == (2, 360, 480)
    assert batch["mask"].max() <= 11


def as_planes(tree, form, value=1):
    """Write the masks of a tree again, a file or a channel per class; classes are those but the background."""
    for mask in sorted((tree / "masks").rglob("*.png")):
        labels = np.array(Image.open(mask))
        mask.unlink()
        planes = np.stack([labels == label for label in range(1, 6)]).astype(np.uint8) * np.uint8(value)
        if form == "channels":
            np.save(mask.with_suffix(".npy"), planes)
            continue
        for name, plane in zip(CLASSES[1:], planes, strict=True):
            (mask.parent / name).mkdir(exist_ok=True)
            if plane.any() or name == "block":
                save(mask.parent / name / mask.name, plane)
    (tree / "classes.txt").write_text("\n".join(CLASSES[1:]) + "\n")


@pytest.mark.parametrize("form", ["per_class", "channels"])
@pytest.mark.parametrize("value", [1, 255])
def test_overlapping_classes_from_files(tree, form, value):
    plain = module(tree)
    plain.setup("fit")
    flat = {name: mask for b in plain.val_dataloader() for name, mask in zip(b["name"], b["mask"], strict=True)}
    as_planes(tree, form, value)
    if value == 255:
        (tree / "classes.txt").unlink()
    data = module(tree, masks=form, classes=None if value == 1 else dict.fromkeys(CLASSES[1:], 255))
    data.setup("fit")
    assert data.multilabel
    for batch in data.val_dataloader():
        for name, mask in zip(batch["name"], batch["mask"], strict=True):
            assert torch.equal(mask, torch.stack([flat[name] == label for label in range(1, 6)]).to(torch.uint8))
    assert next(iter(data.train_dataloader()))["mask"].shape == (2, 5, 32, 48)
    assert data.inspect().count == 0


@pytest.mark.parametrize("form", ["per_class", "channels"])
def test_a_stray_value_in_one_class_is_named(tree, form):
    as_planes(tree, form)
    if form == "channels":
        planes = np.load(tree / "masks/val/0001.npy")
        planes[3, 0, 0] = 9
        np.save(tree / "masks/val/0001.npy", planes)
    else:
        save(tree / "masks/val/wire/0001.png", np.full((32, 48), 9))
    with pytest.raises(DataError, match=r"masks/val/(wire/)?0001.\w+: labels must be 0..1 or 255 \(ignored\), got 9\."):
        module(tree, masks=form).setup("fit")


def test_masks_of_0_and_255_are_declared(tree):
    (tree / "classes.txt").unlink()
    for mask in (tree / "masks").rglob("*.png"):
        save(mask, (np.array(Image.open(mask)) > 0) * 255)
    with pytest.raises(DataError, match=r"no mask holds a single pixel of thing.*`classes: {thing: 255}`"):
        module(tree, classes=["thing"], ignore_index=255).setup("fit")
    data = module(tree, classes={"thing": 255})
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["mask"].unique().tolist() == [0, 1]


def test_colour_masks_by_their_colours(tree):
    plain = module(tree)
    plain.setup("fit")
    want = next(iter(plain.val_dataloader()))["mask"]
    (tree / "classes.txt").unlink()
    colours = np.array([(0, 0, 0), (9, 8, 7), (7, 8, 9), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    for mask in (tree / "masks").rglob("*.png"):
        labels = np.array(Image.open(mask))
        save(mask, np.where((labels < 6)[..., None], colours[labels % 6], np.uint8(200)))
    classes = {name: [colour] for name, colour in zip(CLASSES, colours.tolist(), strict=True)}
    data = module(tree, classes=classes, unlisted=[[200, 200, 200]])
    data.setup("fit")
    assert torch.equal(next(iter(data.val_dataloader()))["mask"], want)
    assert data.palette == [tuple(colour) for colour in colours.tolist()]
    with pytest.raises(DataError, match=r"got \[200, 200, 200\]\. List it there"):
        module(tree, classes=classes).setup("fit")
    with pytest.raises(DataError, match=r"If its colours are the labels, list them: `classes: {road"):
        module(tree, classes=list(CLASSES)).setup("fit")


@pytest.mark.parametrize(("count", "suffix"), [(1, "png"), (4, "png"), (6, "tif"), (2, "npy")])
def test_images_of_other_bands_are_augmented_resized_and_batched(tree, count, suffix):
    import tifffile

    random = np.random.default_rng(0)
    for image in (tree / "images").rglob("*.png"):
        pixels = random.integers(0, 256, (32, 48, count), np.uint8)
        image.unlink()
        if suffix == "png":
            Image.fromarray(pixels.squeeze()).save(image)
        elif suffix == "tif":
            tifffile.imwrite(image.with_suffix(".tif"), pixels, photometric="minisblack", planarconfig="contig")
        else:
            np.save(image.with_suffix(".npy"), pixels)
    flip = albumentations.HorizontalFlip(p=1.0)
    data = module(tree, in_channels=count, size=(16, 24), augment=[flip], num_workers=0)
    for stage in ("fit", "predict"):
        data.setup(stage)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.predict_dataloader()):
        assert next(iter(loader))["image"].shape[1:] == (count, 16, 24)
    assert data.inspect().count == 0
    with pytest.raises(DataError, match=r"(has \d bands, expected 5|must be \(H, W, 5\))"):
        module(tree, in_channels=5).setup("fit")


@pytest.mark.parametrize("form", ["per_class", "channels"])
def test_dense_masks_of_0_and_255_that_are_not_declared_are_a_fault(tree, form):
    """All 255 would be void, and a fit would train on nothing."""
    as_planes(tree, form, 255)
    with pytest.raises(
        DataError, match=r"no mask holds a single pixel of block, disc, triangle, .*`classes: {block: 255"
    ):
        module(tree, masks=form).setup("fit")
