import numpy as np
import pytest
from PIL import Image

from segfocal.data import checks
from segfocal.data.labels import Labels
from segfocal.data.samples import FileSample


@pytest.fixture
def samples(tmp_path):
    result = []
    for index in range(3):
        image, mask = tmp_path / f"{index}.jpg", tmp_path / f"{index}.png"
        Image.fromarray(np.zeros((4 + index, 6, 3), np.uint8)).save(image)
        Image.fromarray(np.full((4 + index, 6), index, np.uint8)).save(mask)
        result.append(FileSample(image.name, image, mask, mask.name))
    return result


def test_sizes_and_labels_are_collected(samples):
    checked, faults, counts = checks.check_samples(samples, Labels(3, 255), "masks")
    assert faults == []
    assert counts.tolist() == [[24, 0, 0], [0, 30, 0], [0, 0, 36]]
    assert [sample.size for sample in checked] == [(4, 6), (5, 6), (6, 6)]


def test_headers_alone_tell_sizes_but_no_labels(samples):
    checked, faults, counts = checks.check_samples(samples, Labels(2, 255), "headers")
    assert faults == []
    assert not counts.any()
    assert [sample.size for sample in checked] == [(4, 6), (5, 6), (6, 6)]


def test_a_rotated_image_is_compared_upright(samples):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(samples[0].image_path, exif=exif)
    for depth in ("masks", "headers", "pixels"):
        _, faults, _ = checks.check_samples(samples, Labels(3, 255), depth)
        assert len(faults) == 1
        assert "0.png: image and mask must have one size, got 4 x 6 for the mask and 6 x 4 for 0.jpg" in faults[0]


def test_a_file_that_claims_too_many_pixels_is_refused_unread(samples, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    _, faults, _ = checks.check_samples(samples, Labels(3, 255), "masks")
    assert [fault.split(":")[0] for fault in faults] == ["2.jpg", "2.png"]
    assert "claims more than 30 pixels" in faults[0]


def test_a_progress_bar_comes_only_when_it_takes_long(samples, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes stderr a terminal for rich
    checks.check_samples(samples, Labels(3, 255), "masks")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("segfocal.data.parallel._PATIENCE", -1.0)
    checks.check_samples(samples, Labels(3, 255), "masks")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Checking masks" in err


def test_unequal_sizes_name_an_image_of_each(samples):
    checked, _, _ = checks.check_samples(samples, Labels(3, 255), "headers")
    assert checks.unequal_sizes(checked[:1]) == []
    assert "got 3: 4 x 6 (0.jpg), 5 x 6 (1.jpg), 6 x 6 (2.jpg)" in checks.unequal_sizes(checked)[0]
