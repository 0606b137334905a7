import albumentations
import cv2
import numpy as np
import pytest
from PIL import Image

from segfocal.data import DataError
from segfocal.data.datasets import FileSample, SegmentationDataset, read_image, read_size, resize_image, resize_mask
from segfocal.data.masks import Labels
from segfocal.data.transforms import AlbumentationsAugment


@pytest.fixture
def colours():
    """Red, blue over black, green: every rotation looks different."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, 30:] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    return image


def close(a, b):
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "ppm"])
def test_every_format_gives_rgb(tmp_path, colours, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours).save(path)
    image = read_image(path, "a")
    assert image.dtype == np.uint8
    assert close(image, colours)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("png", "RGB"), ("tif", "RGB"), ("tif", "RGBA")])
def test_exif_rotation_is_applied_and_the_header_agrees(tmp_path, colours, orientation, suffix, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours).convert(mode).save(path, exif=exif)
    image = read_image(path, "a")
    upright = {2: colours[:, ::-1], 3: colours[::-1, ::-1], 6: np.rot90(colours, -1), 8: np.rot90(colours)}[orientation]
    assert close(image, upright)
    assert read_size(path, "a") == image.shape[:2]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_every_mode_becomes_8_bit_rgb(tmp_path, mode, suffix):
    grey = np.full((4, 6), 255 if mode == "1" else 153, np.uint8)
    if mode == "I;16":
        source = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        source = Image.fromarray(np.stack([grey] * 3, -1)).convert(mode)
    if mode in ("LA", "RGBA"):
        source.putalpha(3)
    path = tmp_path / f"a.{suffix}"
    try:
        source.save(path)
    except OSError:
        pytest.skip(f"{suffix} has no {mode}")
    assert close(read_image(path, "a"), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "jp2"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for share in (0.3, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"^train/a: is "):
            read_image(path, "train/a")


def test_floating_point_and_missing_images_are_refused(tmp_path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="floating point"):
        read_image(tmp_path / "a.tif", "a.tif")
    with pytest.raises(DataError, match=r"b.tif: cannot be read"):
        read_image(tmp_path / "b.tif", "b.tif")


def test_resizing_keeps_labels_and_averages_pixels():
    image = np.zeros((4, 4, 3), np.uint8)
    image[::2] = 200
    assert (resize_image(image, (2, 2)) == 100).all()
    assert resize_image(image, None) is image
    assert resize_image(image, (8, 6)).shape == (8, 6, 3)
    mask = np.array([[0, 9], [255, 3]], np.uint8)
    np.testing.assert_array_equal(resize_mask(mask, (4, 4)), np.kron(mask, np.ones((2, 2), np.uint8)))
    dense = np.stack([mask] * 7)
    np.testing.assert_array_equal(resize_mask(dense, (6, 5)), np.stack([resize_mask(mask, (6, 5))] * 7))


@pytest.fixture
def sample(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray((colours[..., 1] > 0).astype(np.uint8)).save(tmp_path / "m.png")
    return FileSample("images/a.png", tmp_path / "a.png", tmp_path / "m.png", "masks/m.png", (40, 60))


def test_augmentation_sees_the_stored_resolution_and_its_result_is_resized(sample):
    seen = []

    def crop(image, mask, seed):
        seen.append((image.shape, mask.shape, seed))
        return image[:20, :30], mask[:20, :30]

    item = SegmentationDataset([sample], Labels(2, 255), size=(10, 15), train=True, augment=crop)[0, 7]
    assert seen == [((40, 60, 3), (40, 60), 7)]
    assert item["image"].shape == (3, 10, 15)
    assert item["mask"].shape == (10, 15)


def test_masks_are_resized_in_training_only(sample):
    labels = Labels(2, 255)
    train = SegmentationDataset([sample], labels, size=(20, 30), train=True)[0]
    val = SegmentationDataset([sample], labels, size=(20, 30))[0]
    predict = SegmentationDataset([sample], labels, size=(20, 30), with_masks=False)[0]
    assert train["image"].shape == val["image"].shape == predict["image"].shape == (3, 20, 30)
    assert train["mask"].shape == (20, 30)
    assert val["mask"].shape == (40, 60)
    assert val["mask"].float().mean() == 0.25
    assert predict["size"] == (40, 60)
    assert predict["path"] == str(sample.image_path)
    assert "mask" not in predict


def test_one_image_with_two_seeds_gives_two_samples(sample):
    augment = AlbumentationsAugment([albumentations.Affine(translate_percent=(-0.3, 0.3), p=1)], 255)
    dataset = SegmentationDataset([sample], Labels(2, 255), train=True, augment=augment)
    first, second, again = dataset[0, 1], dataset[0, 2], dataset[0, 1]
    assert (first["image"] == again["image"]).all()
    assert (first["mask"] == again["mask"]).all()
    assert (first["image"] != second["image"]).any()


def test_wide_labels_travel_as_int32(tmp_path, sample):
    cv2.imwrite(str(tmp_path / "m.png"), np.full((40, 60), 299, np.uint16))
    mask = SegmentationDataset([sample], Labels(300, 65535))[0]["mask"]
    assert mask.dtype.is_signed
    assert mask.unique().tolist() == [299]


def test_faults_that_arise_after_the_check_are_named(tmp_path, sample):
    dataset = SegmentationDataset([sample], Labels(2, 255), train=True)
    Image.fromarray(np.full((40, 60), 7, np.uint8)).save(sample.mask_path)
    with pytest.raises(DataError, match=r"masks/m.png: labels must be 0..1 or 255 \(ignored\), got 7"):
        dataset[0]
    Image.fromarray(np.zeros((40, 61), np.uint8)).save(sample.mask_path)
    with pytest.raises(DataError, match=r"masks/m.png: image and mask must have one size, got 40 x 61.*40 x 60"):
        dataset[0]


def test_a_failing_augmentation_names_the_image(sample):
    augment = AlbumentationsAugment([albumentations.RandomCrop(100, 100, p=1)], 255)
    with pytest.raises(DataError, match=r"images/a.png: `augment` fails on an image of 40 x 60"):
        SegmentationDataset([sample], Labels(2, 255), train=True, augment=augment)[0]
