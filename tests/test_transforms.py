import os
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest

from segfocal.data import DataError
from segfocal.data.transforms import AlbumentationsAugment

IGNORE = 200

GEOMETRIC = [
    A.HorizontalFlip(p=1),
    A.VerticalFlip(p=1),
    A.RandomRotate90(p=1),
    A.D4(p=1),
    A.Transpose(p=1),
    A.Rotate((30, 60), p=1),
    A.Rotate((30, 60), border_mode=cv2.BORDER_REFLECT_101, p=1),
    A.Rotate((30, 60), fill_mask=1, p=1),
    A.SafeRotate((30, 60), p=1),
    A.Affine(scale=(0.5, 0.7), rotate=(20, 40), shear=(-10, 10), translate_percent=0.1, p=1),
    A.Affine(rotate=30, mask_interpolation=cv2.INTER_LINEAR, p=1),
    A.Perspective(scale=0.2, p=1),
    A.Perspective(scale=0.2, fit_output=True, p=1),
    A.ElasticTransform(alpha=80, p=1),
    A.GridDistortion(p=1),
    A.OpticalDistortion((-0.8, 0.8), p=1),
    A.ThinPlateSpline(p=1),
    A.Pad(9, p=1),
    A.PadIfNeeded(80, 90, p=1),
    A.RandomCrop(30, 30, p=1),
    A.RandomCrop(70, 90, pad_if_needed=True, p=1),
    A.CenterCrop(70, 90, pad_if_needed=True, p=1),
    A.CropAndPad(px=(5, 9), p=1),
    A.CropAndPad(px=(-9, -5), keep_size=True, p=1),
    A.CropNonEmptyMaskIfExists(20, 20, p=1),
    A.RandomResizedCrop((40, 40), p=1),
    A.RandomScale(0.4, p=1),
    A.LongestMaxSize(80, p=1),
    A.SmallestMaxSize(80, p=1),
    A.Resize(30, 50, p=1),
    A.RandomSizedCrop((20, 30), (40, 40), p=1),
    A.RandomGridShuffle(p=1),
    A.SquareSymmetry(p=1),
]
ERASING = [
    A.CoarseDropout(fill_mask=None, p=1),
    A.CoarseDropout(fill_mask=0, p=1),
    A.GridDropout(fill_mask=1, p=1),
    A.Erasing(fill_mask=1, p=1),
    A.XYMasking((1, 3), (1, 3), (5, 9), (5, 9), fill_mask=0, p=1),
    A.PixelDropout(0.1, mask_drop_value=0, p=1),
    A.OneOf([A.Rotate((30, 60), p=1), A.Sequential([A.Pad(4, p=1)], p=1)], p=1),
    A.SomeOf([A.Rotate((30, 60), p=1), A.Pad(4, p=1), A.Perspective(p=1)], n=2, p=1),
    A.ColorJitter(p=1),
    A.GaussNoise(p=1),
    A.RandomBrightnessContrast(p=1),
    A.RandomShadow(p=1),
    A.GaussianBlur(p=1),
    A.CLAHE(p=1),
]


@pytest.fixture
def sample():
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (48, 64, 3), np.uint8)
    mask = np.kron(random.integers(3, 9, (6, 8)), np.ones((8, 8))).astype(np.uint8)
    return image, mask


@pytest.mark.parametrize("transform", GEOMETRIC + ERASING, ids=lambda t: f"{type(t).__name__}")
@pytest.mark.parametrize("dense", [False, True], ids=["flat", "dense"])
def test_masks_gain_no_value_but_ignore_index(sample, transform, dense):
    image, mask = sample
    labels = (mask == np.arange(3, 9)[:, None, None]).astype(np.uint8) if dense else mask
    augment = AlbumentationsAugment([transform], IGNORE)
    for seed in range(4):
        new_image, new_mask = augment(image.copy(), labels.copy(), seed)
        assert set(np.unique(new_mask)) <= set(np.unique(labels)) | {IGNORE}
        assert new_image.dtype == new_mask.dtype == np.uint8
        assert new_mask.shape[-2:] == new_image.shape[:2]
        assert new_mask.ndim == labels.ndim


@pytest.mark.parametrize(
    "transform",
    [A.Rotate((40, 50), p=1), A.Affine(scale=0.5, p=1), A.PadIfNeeded(80, 90, p=1), A.Rotate(45, fill_mask=1)],
)
def test_what_comes_from_outside_is_ignored(sample, transform):
    image, mask = sample
    _, new = AlbumentationsAugment([A.OneOf([transform], p=1)], IGNORE)(np.full_like(image, 9), mask, 3)
    assert (new == IGNORE).mean() > 0.08


def test_one_seed_one_result_and_the_transforms_draw_independently(sample):
    augment = AlbumentationsAugment([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], IGNORE)
    first, again = ([augment(*sample, seed)[1] for seed in range(40)] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    mask = sample[1]
    variants = [mask, mask[:, ::-1], mask[::-1], mask[::-1, ::-1]]
    counts = [sum(np.array_equal(out, v) for out in first) for v in variants]
    assert sum(counts) == 40
    assert min(counts) >= 2, "both flips would go together if each drew the same numbers"


@pytest.mark.parametrize("unwanted", [A.Normalize(p=1), A.ToFloat(p=1), A.ToTensorV2(p=1)])
def test_images_must_stay_bytes(sample, unwanted):
    with pytest.raises(DataError, match=r"uint8 RGB.*normalises on the device"):
        AlbumentationsAugment([unwanted], IGNORE)(*sample, 0)


def test_a_transform_that_cannot_be_applied_says_why(sample):
    with pytest.raises(DataError, match="`augment` fails on an image of 48 x 64"):
        AlbumentationsAugment([A.RandomCrop(100, 100, p=1)], IGNORE)(*sample, 0)


def test_unknown_arguments_and_foreign_objects_are_refused():
    with pytest.warns(UserWarning, match="mask_value"):
        transform = A.PadIfNeeded(8, 8, mask_value=255)
    with pytest.raises(ValueError, match=r"`augment`.*mask_value"):
        AlbumentationsAugment([transform], IGNORE)
    with pytest.raises(ValueError, match=r"albumentations transforms, got str.*class_path"):
        AlbumentationsAugment(["HorizontalFlip"], IGNORE)


def test_a_transform_that_must_fill_with_a_class_is_refused():
    with pytest.raises(ValueError, match=r"GridElasticDeform.*class 0.*ElasticTransform"):
        AlbumentationsAugment([A.OneOf([A.GridElasticDeform((4, 4), 10)])], IGNORE)


def test_importing_touches_no_network():
    code = (
        "import socket, urllib.request\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "urllib.request.urlopen = refuse\n"
        "import segfocal.data.transforms"
    )
    env = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
