import albumentations
import cv2
import numpy as np
import pytest
from PIL import Image

from segfocal.data import DataError
from segfocal.data.datasets import SegmentationDataset, resize_image, resize_mask
from segfocal.data.labels import Labels
from segfocal.data.samples import FileSample
from segfocal.data.transforms import AlbumentationsAugment


@pytest.fixture
def colours():
    """Red, blue over black, green: every rotation looks different."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, 30:] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    return image


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


@pytest.mark.parametrize("bands", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("size", [(17, 25), (20, 30), (50, 70)])
def test_each_band_is_resized_as_if_it_were_alone(bands, size):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, bands), np.uint8)
    resized = resize_image(image, size)
    assert resized.shape == (*size, bands)
    for band in range(bands):
        alone = resize_image(image[..., band : band + 1], size)
        assert np.abs(resized[..., band : band + 1].astype(int) - alone).max() <= 1  # OpenCV rounds as it pleases


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
