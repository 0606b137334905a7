import os
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from segfocal.data import DataError, ShapesDataModule
from segfocal.data.transforms import PRESETS, AlbumentationsAugment

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
    with pytest.raises(DataError, match=r"uint8 images of \(3,\) channels.*normalises on the device"):
        AlbumentationsAugment([unwanted], IGNORE)(*sample, 0)


def test_a_transform_that_cannot_be_applied_says_why(sample):
    with pytest.raises(DataError, match="`augment` fails on an image of 48 x 64"):
        AlbumentationsAugment([A.RandomCrop(100, 100, p=1)], IGNORE)(*sample, 0)


def test_unknown_arguments_and_foreign_objects_are_refused():
    with pytest.warns(UserWarning, match="mask_value"):
        transform = A.PadIfNeeded(8, 8, mask_value=255)
    with pytest.raises(ValueError, match=r"`augment`.*mask_value"):
        AlbumentationsAugment([transform], IGNORE)
    with pytest.raises(ValueError, match=r"albumentations transforms and names of presets, got int.*class_path"):
        AlbumentationsAugment([3], IGNORE)


def test_a_transform_that_must_fill_with_a_class_is_refused():
    with pytest.raises(ValueError, match=r"GridElasticDeform.*class 0.*ElasticTransform"):
        AlbumentationsAugment([A.OneOf([A.GridElasticDeform((4, 4), 10)])], IGNORE)


def scene(size, channels=3, labels=np.uint8, dense=False):
    """Noise, and a mask of blocks of the labels 3 to 8."""
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (*size, channels), np.uint8)
    blocks = np.kron(random.integers(3, 9, (40, 40)), np.ones((5, 5)))[: size[0], : size[1]]
    mask = (blocks == np.arange(3, 9)[:, None, None]) if dense else blocks
    return image, mask.astype(labels)


@pytest.mark.parametrize("labels", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("dense", [False, True], ids=["flat", "dense"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 64), (61, 160)])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_size_and_gain_no_label_but_ignore_index(preset, size, dense, labels):
    image, mask = scene(size, labels=labels, dense=dense)
    ignore = IGNORE if labels == np.uint8 else 65535
    augment = AlbumentationsAugment(preset, ignore)
    for seed in range(12):
        new_image, new_mask = augment(image.copy(), mask.copy(), seed)
        assert new_image.shape == image.shape
        assert new_mask.shape == mask.shape
        assert new_mask.dtype == labels
        assert set(np.unique(new_mask)) <= set(np.unique(mask)) | {ignore}


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_images_of_any_number_of_channels(preset, channels):
    image, mask = scene((40, 40), channels)
    augment = AlbumentationsAugment(preset, IGNORE)
    results = [augment(image.copy(), mask.copy(), seed) for seed in range(20)]
    assert all(new.shape == image.shape and new.dtype == np.uint8 for new, _ in results)
    assert len({new.tobytes() for new, _ in results}) > 1


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_move_image_and_mask_together(preset):
    """The image shows its mask in two greys, and still does: a class's pixels are nearer to its own grey."""
    random = np.random.default_rng(0)
    blocks = np.kron(random.integers(0, 2, (5, 6)), np.ones((16, 16))).astype(np.uint8)
    image = np.repeat(60 + 130 * blocks[..., None], 3, -1)
    augment = AlbumentationsAugment(preset, IGNORE)
    for seed in range(30):
        new_image, new_mask = augment(image.copy(), blocks.copy(), seed)
        grey, known = new_image.astype(float).mean(-1), new_mask != IGNORE
        dark, bright = (np.median(grey[known & (new_mask == label)]) for label in (0, 1))
        right = (grey > (dark + bright) / 2) == (new_mask == 1)
        assert right[known].mean() > (0.8 if preset == "street" else 0.93), seed  # shadows darken bright blocks


@pytest.mark.parametrize("preset", ["street", "aerial", "medical"])
def test_what_a_preset_brings_in_is_ignored(preset):
    image, mask = scene((64, 64))
    image |= 1  # black comes from outside alone
    augment = AlbumentationsAugment([preset], IGNORE)
    shares = [(augment(image.copy(), mask.copy(), seed)[1] == IGNORE).mean() for seed in range(60)]
    assert max(shares) > 0.05
    assert max(shares) < 0.65
    assert np.median(shares) < 0.2, "most of the labels are kept"


def test_aerial_turns_square_images_in_all_directions():
    corner = np.zeros((64, 64), np.uint8)
    corner[4:24, 10:20] = 1
    tall = wide = 0
    for seed in range(60):
        rows, columns = np.nonzero(
            AlbumentationsAugment("aerial", IGNORE)(np.ones((64, 64, 3), np.uint8), corner, seed)[1] == 1
        )
        tall += np.ptp(rows) > np.ptp(columns)
        wide += np.ptp(rows) < np.ptp(columns)
    assert min(tall, wide) > 15


def test_a_fill_that_eight_bits_cannot_hold_widens_the_mask(sample):
    image, mask = sample
    new = AlbumentationsAugment([A.Affine(scale=0.5, p=1)], 65535)(image, mask, 0)[1]
    assert new.dtype == np.uint16
    assert set(np.unique(new)) == set(np.unique(mask)) | {65535}


def test_presets_and_transforms_stand_in_one_list(sample):
    names = [type(t).__name__ for t in AlbumentationsAugment(["light", A.Pad(3, p=1)], IGNORE).compose.transforms]
    assert names[0] == "HorizontalFlip"
    assert names[-1] == "Pad"
    first, second = AlbumentationsAugment("street", 7), AlbumentationsAugment("street", 9)
    assert (first.compose.transforms[1].fill_mask, second.compose.transforms[1].fill_mask) == (7, 9)


@pytest.mark.parametrize(
    ("name", "told"),
    [("steet", "got 'steet'. Did you mean 'street'"), ("Aerial", "'aerial'"), ("x", "got 'x'. Choose one")],
)
def test_a_wrong_preset_says_what_was_meant(name, told):
    for augment in (name, [name]):
        with pytest.raises(ValueError, match=f"one of the presets light, street, aerial, medical, .*{told}"):
            AlbumentationsAugment(augment, IGNORE)


def drawn(preset, num_workers):
    """Two epochs of batches of one image, twelve times over."""
    torch.manual_seed(3)
    data = ShapesDataModule(n_train=1, n_val=1, size=(32, 48), augment=preset, batch_size=3, num_workers=num_workers)
    data.setup("fit")
    data.datasets["train"].samples *= 12
    loader = data.train_dataloader()
    return [torch.cat([batch["image"], batch["mask"][:, None]], 1) for _ in range(2) for batch in loader]


@pytest.mark.filterwarnings("ignore:.*worker processes in total")  # more than this machine has cores
@pytest.mark.parametrize("preset", PRESETS)
def test_every_sample_worker_and_epoch_draws_its_own_numbers_whatever_the_number_of_workers(preset):
    alone = drawn(preset, 0)
    assert len(alone) == 8
    for num_workers in (2, 4):
        assert all(torch.equal(a, b) for a, b in zip(alone, drawn(preset, num_workers), strict=True)), num_workers
    # Some draws are equal by chance: the image as it was, or its mirror image. Two workers or epochs that drew the
    # same would leave half of them.
    assert len({draw.numpy().tobytes() for batch in alone for draw in batch}) >= 16


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
