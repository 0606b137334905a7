from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfocal.data.layouts import Source
from segfocal.data.listing import samples_from_file
from segfocal.data.unlabelled import find_images

WHITE = Image.fromarray(np.zeros((4, 6), np.uint8))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        WHITE.save(root / name)


def names(samples):
    return [(s.name, s.mask_name) for s in samples]


def find(root, split="train", layout="auto", split_files=None, *, masks=True, **options):
    return Source(root, layout, split_files, **options).samples(split, masks=masks)


def test_folders_pair_by_stem_whatever_the_extension(tmp_path):
    touch(tmp_path, "images/train/b.JPG", "images/train/a.b.png", "images/train/deep/b.tif")
    touch(tmp_path, "masks/train/b.png", "masks/train/a.b.png", "masks/train/deep/b.bmp")
    (tmp_path / "images/train/Thumbs.db").write_text("x")
    (tmp_path / "images/train/._b.png").write_text("x")
    samples, faults = find(tmp_path)
    assert faults == []
    assert names(samples) == [
        ("images/train/a.b.png", "masks/train/a.b.png"),
        ("images/train/b.JPG", "masks/train/b.png"),
        ("images/train/deep/b.tif", "masks/train/deep/b.bmp"),
    ]


def test_camvid_is_recognised(tmp_path):
    touch(tmp_path, "val/x.jpg", "valannot/x.png", "train/y.jpg", "trainannot/y.png")
    assert names(find(tmp_path, "val")[0]) == [("val/x.jpg", "valannot/x.png")]
    assert names(find(tmp_path, layout="camvid")[0]) == [("train/y.jpg", "trainannot/y.png")]


def test_all_faults_of_folders_are_found_at_once(tmp_path):
    touch(tmp_path, "images/train/lone.png", "images/train/two.png", "images/train/two.jpg", "masks/train/orphan.png")
    touch(tmp_path, "masks/train/two.png")
    _, faults = find(tmp_path)
    text = "\n".join(faults)
    assert len(faults) == 3
    assert "images/train/two.jpg, images/train/two.png: share one stem" in text
    assert "images/train/lone.png: has no mask. Add masks/train/lone.png" in text
    assert "masks/train/orphan.png: is a mask without an image" in text


def test_missing_and_empty_folders(tmp_path):
    assert "`root` must be an existing folder" in find(tmp_path / "nowhere")[1][0]
    assert "holds neither images/ and masks/ nor train/" in find(tmp_path)[1][0]
    touch(tmp_path, "images/train/a.png", "masks/train/a.png")
    (tmp_path / "images/test").mkdir()
    assert find(tmp_path, "val")[1] == [
        f"{folder}/val: this folder must exist. Create or rename it, or choose another `root` or `layout`, or list "
        "the files in `split_files`."
        for folder in ("images", "masks")
    ]
    assert any(fault.startswith("images/test: holds no images") for fault in find(tmp_path, "test")[1])


def test_split_files_are_read_exactly(tmp_path):
    touch(tmp_path, "a.png", "a.png.png", "m/a.png", "with blank.png", "m/with blank.png")
    text = "\ufeff# pairs\r\n\r\na.png  m/a.png\r\n  # more\r\nwith blank.png\tm/with blank.png\r\n"
    (tmp_path / "train.txt").write_bytes(text.encode())
    samples, faults = find(tmp_path, split_files={"train": "train.txt"})
    assert faults == []
    assert names(samples) == [("a.png", "m/a.png"), ("with blank.png", "m/with blank.png")]


def test_split_files_cannot_leave_the_root(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "outside.png", "root/m.png", "root/a.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    lines = [f"{p} m.png" for p in ("../outside.png", str(tmp_path / "outside.png"), "link.png", "x/../../outside.png")]
    (root / "train.txt").write_text("\n".join([*lines, "a.png m.png"]))
    samples, faults = find(root, split_files={"train": "train.txt"})
    assert names(samples) == [("a.png", "m.png")]
    assert len(faults) == 4
    assert all("leads out of the data root" in fault and f"line {i}" in fault for i, fault in enumerate(faults, 1))


def test_a_root_that_is_a_link_is_fine(tmp_path):
    touch(tmp_path, "real/a.png", "real/m.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real/train.txt").write_text("a.png m.png")
    assert find(tmp_path / "link", split_files={"train": "train.txt"})[1] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a.png m.png\na.png m.png", "line 2: a.png is listed twice"),
        ("a.png m.png c.png", "line 1: a line is `image mask`, got 3 words"),
        ("a.png", "a.png: its line names no mask"),
        ("# nothing\n\n", "lists no images"),
        (b"\xff\xfe\x00", "must be readable UTF-8 text"),
        (None, "must be readable UTF-8 text"),
    ],
)
def test_faulty_split_files(tmp_path, text, fault):
    file = tmp_path / "train.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    faults = find(tmp_path, split_files={"train": "train.txt"})[1]
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_split_without_a_file(tmp_path):
    assert "`split_files` has no val" in find(tmp_path, "val", split_files={"train": "train.txt"})[1][0]


def test_prediction_needs_no_masks(tmp_path):
    touch(tmp_path, "images/test/b.png", "images/test/a.png")
    samples, faults = find(tmp_path, "test", masks=False)
    assert faults == []
    assert [(s.name, s.mask_path) for s in samples] == [("images/test/a.png", None), ("images/test/b.png", None)]
    (tmp_path / "test.txt").write_text("images/test/a.png\n")
    assert find(tmp_path, "test", split_files={"test": "test.txt"}, masks=False)[1] == []


def test_images_to_predict_on(tmp_path):
    touch(tmp_path, "x/a.png", "x/deep/b.png", "y/a.jpg", "z.png")
    assert [s.name for s in find_images([tmp_path / "x", str(tmp_path / "z.png")])[0]] == [
        "a.png",
        "deep/b.png",
        "z.png",
    ]
    assert find_images([tmp_path / "x", tmp_path / "y"])[1] == ["a.*: two of `images` have this name. Rename one."]
    assert "must name existing images or folders" in find_images([Path("nowhere")])[1][0]


def test_a_line_that_is_no_path_is_a_fault_beside_the_others(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "split.txt").write_text(f"a\0.png m.png\n{'x' * 5000}.png m.png\na.png m.png\n./a.png m.png\n")
    samples, faults = samples_from_file(tmp_path, tmp_path / "split.txt")
    assert [sample.name for sample in samples] == ["a.png"]
    assert ["line 1" in fault for fault in faults] == [True] + [False] * (len(faults) - 1)
    assert any("line 4: a.png is listed twice" in fault for fault in faults)


def test_masks_with_a_suffix(tmp_path):
    touch(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "masks/train/a_mask.png", "masks/train/b_mask.gif.png")
    samples, faults = find(tmp_path, mask_suffix="_mask")
    assert names(samples) == [("images/train/a.jpg", "masks/train/a_mask.png")]
    assert faults == ["images/train/b.jpg: has no mask. Add masks/train/b_mask.png or remove the image."]


def test_holdout_splits_a_folder_by_its_names(tmp_path):
    touch(tmp_path, *(f"{kind}/{i:02d}.png" for kind in ("images", "masks") for i in range(20)))
    shares = {"val": 0.2, "test": 0.1}
    parts = {
        split: [n for n, _ in names(find(tmp_path, split, holdout=shares)[0])] for split in ("train", "val", "test")
    }
    assert [len(part) for part in parts.values()] == [14, 4, 2]
    assert len(set().union(*parts.values())) == 20
    assert parts["val"] == sorted(parts["val"])
    touch(tmp_path, "images/new.png", "masks/new.png")
    after = [name for name, _ in names(find(tmp_path, "val", holdout=shares)[0])]
    assert len(set(after) - set(parts["val"])) <= 1, "a new file moves at most one other"
    assert Source(tmp_path, holdout={"val": 0.2}).has("test") is False


def test_holdout_of_a_folder_that_has_splits_is_a_fault(tmp_path):
    touch(tmp_path, "images/train/a.png", "masks/train/a.png")
    assert find(tmp_path, holdout={"val": 0.2})[1] == [
        "images/train: a folder per split and `holdout` exclude each other. Take one away."
    ]
    (tmp_path / "flat/images").mkdir(parents=True)
    assert "set `holdout: {val: 0.2, test: 0.1}`" in find(tmp_path / "flat")[1][0]


def test_a_folder_of_masks_per_class(tmp_path):
    touch(tmp_path, "images/train/a.png", "images/train/b.png", "images/train/c.png")
    touch(tmp_path, "masks/train/car/a.png", "masks/train/tree/a.png", "masks/train/tree/b.png")
    touch(tmp_path, "masks/train/car/lone.png", "masks/train/bus/a.png")
    samples, faults = find(tmp_path, class_folders=("car", "tree"))
    assert [[plane and plane[1] for plane in s.planes] for s in samples] == [
        ["masks/train/car/a.png", "masks/train/tree/a.png"],
        [None, "masks/train/tree/b.png"],
    ]
    assert faults == [
        "masks/train/bus: is no class's folder. The classes are car, tree: rename or remove it.",
        "images/train/c.png: has no mask of any class. Add masks/train/car/c.png, all 0, if nothing occurs.",
        "masks/train/car/lone.png: is a mask without an image. Add images/train/lone.* or remove the mask.",
    ]


def test_a_split_file_lists_a_mask_per_class(tmp_path):
    touch(tmp_path, "a.png", "car.png", "tree.png")
    (tmp_path / "train.txt").write_text("a.png car.png -\na.png car.png\n")
    samples, faults = find(tmp_path, split_files={"train": "train.txt"}, class_folders=("car", "tree"))
    assert [s.planes for s in samples] == [((tmp_path / "car.png", "car.png"), None)]
    assert faults == [
        "train.txt, line 2: a line is an image and 2 masks, one per class or -, got 2 words. Use a tab if names have "
        "blanks."
    ]


def test_a_suffix_of_all_masks_is_recognised(tmp_path):
    for index in range(5):
        touch(tmp_path, f"images/train/{index}.png", f"masks/train/{index}_mask.png")
    assert find(tmp_path)[1] == [
        "masks/train: no mask has the name of an image. The masks' names end in _mask, the images' do not. Set "
        "`mask_suffix: _mask`."
    ]
    assert find(tmp_path, mask_suffix="_mask")[1] == []
