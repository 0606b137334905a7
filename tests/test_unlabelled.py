"""What a person may write for the images to predict on."""

import numpy as np
import pytest
from PIL import Image

from segfocal.data import unlabelled
from segfocal.data.unlabelled import find_images, look_at


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/b.png", "photos/deep/c.png", "more/d.tif", "e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    (tmp_path / "photos/notes.md").touch()
    return tmp_path


def names(*sources):
    samples, faults = find_images(sources)
    return [sample.name for sample in samples], faults


def test_folders_files_and_patterns(home):
    assert names("photos", "e.png") == (["a.jpg", "b.png", "deep/c.png", "e.png"], [])
    assert names("photos/*.png", "more/*") == (["b.png", "d.tif"], [])
    assert names("photos/**/*.png") == (["b.png", "deep/c.png"], [])
    assert names(f"{home}/ph*/[ab].*") == (["photos/a.jpg", "photos/b.png"], [])


def test_an_image_that_is_named_twice_is_predicted_once(home):
    assert names("photos/a.jpg", "photos/*.jpg", "./photos/a.jpg") == (["a.jpg"], [])


def test_a_list_names_images_relative_to_itself(home):
    (home / "photos/list.txt").write_text("\ufeff# mine\r\na.jpg\r\n\r\ndeep/c.png\n../e.png\n")
    samples, faults = find_images(["photos/list.txt"])
    assert [sample.name for sample in samples] == ["a.jpg", "deep/c.png", "e.png"]
    assert all(sample.image_path.is_file() for sample in samples)
    assert faults == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: `images` must name existing"),
        ("photos/*.bmp", "photos/*.bmp: no image has such a name"),
        ("gone/*.png", "no image has such a name"),
        ("**x/*.png", "is no pattern|no image has such a name"),
        ("empty.txt", "empty.txt: lists no images"),
        ("binary.txt", "must be readable UTF-8"),
        ("nul.txt", "nul.txt: a list of images must be text with a path in each line, got NUL bytes"),
        ("~nobody-of-this-name/a.png", "`images` must name what can be read"),
        ("home.txt", "`images` must name what can be read"),
        ("x" * 5000, "`images` must name what can be read"),
        ("a\0b", "`images` must name existing"),
    ],
)
def test_what_is_not_there_is_named(home, source, message):
    (home / "empty.txt").write_text("# nothing\n")
    (home / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (home / "nul.txt").write_bytes(b"e.png\nphotos\0a.jpg\n")
    (home / "home.txt").write_text("~nobody-of-this-name/a.png\n")
    (fault,) = names(source)[1]
    assert any(words in fault for words in message.split("|")), fault


def test_two_images_of_one_name_are_refused(home):
    assert names("photos/a.jpg", "e.png", "photos/deep/c.png")[1] == []
    Image.new("RGB", (3, 3)).save(home / "more/a.png")
    assert names("photos", "more")[1] == ["a.*: two of `images` have this name. Rename one."]


def test_broken_headers_are_told_by_name_and_the_rest_is_kept(home):
    (home / "photos/b.png").write_bytes(b"nothing")
    found = look_at(find_images(["photos"])[0], by_windows=True)
    assert [sample.name for sample in found.samples] == ["a.jpg", "deep/c.png"]
    assert [sample.size for sample in found.samples] == [(4, 5)] * 2
    assert list(found.faults) == ["b.png"]
    assert "b.png: is not a readable image" in found.faults["b.png"]


def test_a_line_that_is_too_long_for_a_path_does_not_stop_the_rest(home):
    (home / "list.txt").write_text(f"e.png\n{'x' * 5000}\n")
    found = look_at(find_images(["list.txt"])[0], by_windows=True)
    assert [sample.name for sample in found.samples] == ["e.png"]
    (fault,) = found.faults.values()
    assert fault.startswith("x" * 80 + ": cannot be read (")


def test_large_tiffs_alone_are_read_by_windows(home, monkeypatch):
    monkeypatch.setattr(unlabelled, "LARGE", 19)  # pixels
    samples = find_images(["photos", "more"])[0]
    found = look_at(samples, by_windows=True)
    assert [sample.name for sample in found.large] == ["d.tif"]
    assert found.large[0].size == (4, 5)
    assert not look_at(samples, by_windows=False).large
    monkeypatch.setattr(unlabelled, "LARGE", 20)
    assert not look_at(samples, by_windows=True).large
