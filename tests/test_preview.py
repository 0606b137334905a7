"""`segfocal preview`: the sheet shows what training sees, and bad input ends in a message."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, IterableDataset

from segfocal import SegmentationDataModule
from segfocal.cli import main
from segfocal.data.shapes import write_tree
from segfocal.evaluation.samples import LabelPainter, as_picture

SIZE = (32, 64)  # enlarged five times on the sheet, pixel by pixel
GAP, LINE, ZOOM = 8, 26, 5


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree") / "data", n_train=9, n_val=2, n_test=1, size=SIZE)


@pytest.fixture
def data(tree, tmp_path, monkeypatch):
    shutil.copytree(tree, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def run(data, capsys):
    """Runs the command, and returns its exit code, output and error output."""

    def runner(*words):
        capsys.readouterr()
        code = main(["preview", *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return runner


def sheet(out):
    path = out.rsplit("training images: ", 1)[1].strip()
    assert path.endswith("preview.png")
    with Image.open(path) as picture:
        return np.asarray(picture)


def cell(sheet, row, column, size=SIZE):
    """A picture of the sheet at its own size."""
    height, width = size
    top = LINE + row * (LINE + ZOOM * height + GAP) + LINE
    left = GAP + column * (ZOOM * width + GAP)
    return sheet[top : top + ZOOM * height : ZOOM, left : left + ZOOM * width : ZOOM]


def rows_of(out):
    return [line.split(maxsplit=1)[1] for line in out.splitlines()[:-1]]


def test_the_sheet_shows_the_items_of_the_first_epochs(run, data):
    words = ["--data.root", str(data), "--data.augment", "street", "--data.num_workers=0", "--seed_everything=5"]
    code, out, _ = run(*words, "--count=2", "--draws=2")
    assert code == 0
    picture, names = sheet(out), rows_of(out)
    assert picture.shape[1] == GAP + 4 * (ZOOM * 64 + GAP)
    assert (len(names), out.splitlines()[-1][:24]) == (2, "2 of 9 training images: ")

    torch.manual_seed(5)
    module = SegmentationDataModule(root=data, augment="street", batch_size=9, num_workers=0)
    module.setup("fit")
    painter = LabelPainter(module.class_names, module.palette, 255)
    loader = module.train_dataloader()
    for column in (2, 3):
        (batch,) = loader
        for row, name in enumerate(names):
            place = batch["name"].index(name)
            image, mask = batch["image"][place].permute(1, 2, 0).numpy(), batch["mask"][place].numpy()
            assert np.array_equal(cell(picture, row, column), painter.paint(image, mask)), (row, column)
    for row, name in enumerate(names):
        with Image.open(data / name) as stored, Image.open(data / name.replace("images", "masks")) as mask:
            assert np.array_equal(cell(picture, row, 0), as_picture(np.asarray(stored)))
            assert np.array_equal(cell(picture, row, 1), painter.paint(np.asarray(stored), np.asarray(mask)))


def test_another_seed_draws_something_else_from_the_same_images(run, data):
    words = ["--data.root", str(data), "--data.augment=aerial", "--count=2", "--draws=1"]
    results = [run(*words, f"--seed_everything={seed}")[1] for seed in (1, 1, 2)]
    first, again, other = map(sheet, results)
    assert np.array_equal(first, again)
    assert np.array_equal(cell(first, 0, 1), cell(other, 0, 1))
    assert not np.array_equal(cell(first, 0, 2), cell(other, 0, 2))
    assert "runs/default/002-preview" in results[2]


def test_without_augmentation_every_epoch_is_alike_and_said_to_be(run, data):
    code, out, _ = run("--data.root", str(data), "--count=1")
    assert code == 0
    assert "data.augment is empty" in out
    assert np.array_equal(cell(sheet(out), 0, 1), cell(sheet(out), 0, 4))


@pytest.mark.parametrize("kind", ["--data.multilabel=true", "--data.only=wire", "--data.ignore_index=65535"])
@pytest.mark.parametrize(
    "augment", ["medical", "[aerial, {class_path: albumentations.RandomCrop, init_args: {height: 32, width: 32}}]"]
)
def test_masks_of_all_kinds_are_shown(run, kind, augment):
    small = ["--data=segfocal.ShapesDataModule", "--data.size=[32,64]", "--data.n_train=6", "--data.n_val=1"]
    code, out, err = run(*small, kind, f"--data.augment={augment}", "--count=100", "--name", "shapes")
    assert code == 0, err
    assert "6 of 6 training images: runs/shapes/000-preview/preview.png" in out
    assert "--count=100" in Path("runs/shapes/000-preview/config.yaml").read_text(), "how it was called"
    assert sheet(out).std() > 10


def test_odd_and_long_names_are_shown(run, data):
    for number, name in enumerate(["a\nb", "é日本" * 20, "x" * 200, "\udcff"]):
        for kind in ("images", "masks"):
            path = data / kind / "train" / f"{number:04d}.png"
            path.rename(path.with_name(f"{name}.png"))
    code, out, err = run("--data.root", str(data), "--count=9", "--draws=1")
    assert code == 0, err
    assert len(out.splitlines()) == 11  # nine names, the note, the file


def test_only_the_masks_that_are_looked_at_are_read(run, data, monkeypatch):
    read = []
    from segfocal.data import samples

    usual = samples.read_mask
    monkeypatch.setattr(samples, "read_mask", lambda path, name, **how: read.append(name) or usual(path, name, **how))
    monkeypatch.setattr("segfocal.data.choice.LOOKED_AT", 4)
    assert run("--data.root", str(data), "--count=1", "--draws=1")[0] == 0
    assert len(set(read)) == 4


@pytest.mark.parametrize(
    "words", [["--count=0"], ["--count=-3"], ["--count=x"], ["--count"], ["--count=101"], ["--draws=0"]]
)
def test_a_count_out_of_range_is_refused(run, data, words):
    code, _, err = run("--data.root", str(data), *words)
    assert code == 2
    assert f"Expected `{words[0].split('=')[0]}` to be a whole number from 1 to" in err


def test_faults_of_data_and_options_end_in_a_message(run, data):
    code, _, err = run("--data.root", str(data), "--data.augment=steet")
    assert (code, "Did you mean 'street'?" in err) == (2, True)
    code, _, err = run(
        "--data.root",
        str(data),
        "--data.augment=[street, {class_path: albumentations.RandomCrop, init_args: {height: 99, width: 9}}]",
    )
    assert (code, "`augment` fails on an image of 32 x 64" in err) == (3, True)
    code, _, err = run("--data.root", "nowhere")
    assert (code, "nowhere" in err) == (3, True)
    (data / "masks/train/0003.png").write_bytes(b"")
    code, _, err = run("--data.root", str(data))
    assert (code, "masks/train/0003.png: is empty" in err) == (3, True)
    for folder in ("images", "masks"):
        for path in (data / folder / "train").iterdir():
            path.unlink()
    code, _, err = run("--data.root", str(data))
    assert (code, "images/train" in err) == (3, True)
    assert not list(data.parent.glob("runs/*/*")), "a preview that fails leaves no run"


def test_a_damaged_image_that_would_be_shown_is_named(run, data):
    for path in (data / "images/train").iterdir():
        path.write_bytes(path.read_bytes()[:-400])
    code, _, err = run("--data.root", str(data))
    assert (code, "is truncated or corrupt" in err) == (3, True)


class Items(Dataset):
    def __init__(self, length, item):
        self.length, self.item = length, item

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.item(index)


class Endless(IterableDataset):
    def __iter__(self):
        yield {}


def normalised(index):
    mask = torch.ones(SIZE, dtype=torch.int64)
    mask[:9] = -100
    return {"image": torch.randn(3, *SIZE), "mask": mask, "name": f"mine {index}"}


class Foreign(LightningDataModule):
    """A data module of somebody else."""

    class_names = ("road", "car")
    ignore_index = -100  # as torch has it
    dataset = Items(8, normalised)

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=2)


class ForeignEmpty(Foreign):
    dataset = Items(0, normalised)

    def train_dataloader(self):
        return type("Loader", (), {"dataset": self.dataset})()


class ForeignEndless(Foreign):
    dataset = Endless()


class ForeignPairs(Foreign):
    dataset = Items(8, lambda index: (torch.zeros(3, *SIZE), torch.zeros(SIZE)))


class ForeignFlat(Foreign):
    dataset = Items(8, lambda index: {"image": torch.zeros(SIZE), "mask": torch.zeros(SIZE)})


class ForeignNameless(Foreign):
    class_names = None


def test_a_data_module_of_somebody_else_is_shown_as_far_as_it_is_known(run):
    code, out, err = run(f"--data={__name__}.Foreign", "--count=3", "--draws=2")
    assert code == 0, err
    assert rows_of(out) == ["mine 0", "mine 4", "mine 7"]
    assert sheet(out).shape[1] == GAP + 2 * (ZOOM * 64 + GAP)
    assert not np.array_equal(cell(sheet(out), 0, 0), cell(sheet(out), 0, 1))


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("Empty", 3, "there are no training images"),
        ("Endless", 2, "preview needs a training data set with a length and indices, which ForeignEndless has not"),
        ("Flat", 2, 'items with an "image" (N, H, W)'),
        (
            "Pairs",
            2,
            'preview needs items with an "image" (N, H, W) and a "mask" (H, W) or (C, H, W), which Items does',
        ),
        ("Nameless", 2, "ForeignNameless lacks class_names or ignore_index"),
    ],
)
def test_what_cannot_be_shown_says_why(run, kind, code, told):
    got, _, err = run(f"--data={__name__}.Foreign{kind}")
    assert got == code, err
    assert told in err
