"""Rare classes are shown more often, by as much as was asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from segfocal.data import SegmentationDataModule
from segfocal.data.labels import Labels
from segfocal.data.sampling import Crop, RareImages, class_probabilities

LABELS = Labels(2, 255)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Forty images of 64 x 64; every tenth has a dot of 4 x 4 of class 1."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((64, 64), np.uint8)
            if index % 10 == 0:
                row, column = random.integers(0, 60, 2)
                mask[row : row + 4, column : column + 4] = 1
            Image.fromarray(np.stack([mask * 200] * 3, -1)).save(root / f"images/{split}/{index:02d}.png")
            Image.fromarray(mask).save(root / f"masks/{split}/{index:02d}.png")
    (root / "classes.txt").write_text("ground\ndot\n")
    return root


def shares(tree, epochs=20, **options):
    """Of the dot, in the pixels and in the images that training shows."""
    torch.manual_seed(0)
    data = SegmentationDataModule(root=tree, batch_size=8, num_workers=0, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    masks = torch.cat([batch["mask"] for _ in range(epochs) for batch in loader])
    assert len(masks) == 40 * epochs, "an epoch keeps its length"
    dots = (masks == 1).flatten(1)
    return dots.float().mean().item(), dots.any(1).float().mean().item()


def test_rare_images_and_crops_raise_the_rare_class_as_stated(tree):
    plain, shown = shares(tree, crop=(16, 16))
    images, _ = shares(tree, crop=(16, 16), rare_images=0.5)
    crops, _ = shares(tree, crop=(16, 16), rare_crops=0.5)
    both, shown_both = shares(tree, crop=(16, 16), rare_images=0.5, rare_crops=0.5)
    assert images > 3 * plain
    assert crops > 3 * plain
    assert both > 15 * plain
    assert shown < 0.02
    assert shown_both > 0.25


def test_images_are_drawn_by_their_classes():
    counts = np.array([[90, 10], [100, 0], [100, 0], [60, 40]])
    rare = RareImages.of(0.5, counts)
    ground, dot = class_probabilities(counts.sum(0))
    assert dot / ground == pytest.approx(np.sqrt(350 / 50))
    wanted = [
        ground * 90 / 350 + dot * 10 / 50,
        ground * 100 / 350,
        ground * 100 / 350,
        ground * 60 / 350 + dot * 40 / 50,
    ]
    np.testing.assert_allclose(rare.probabilities, wanted)


def test_a_share_of_the_places_is_given_away():
    counts = np.zeros((1000, 2), int)
    counts[:, 0], counts[7, 1] = 100, 1
    order = RareImages.of(0.5, counts).replaced(np.arange(1000), np.random.default_rng(0))
    kept = (order == np.arange(1000)).mean()
    assert 0.45 < kept < 0.55
    assert (order == 7).sum() > 400, "the only image of the rare class"
    every = RareImages.of(1.0, counts).replaced(np.arange(1000), np.random.default_rng(0))
    assert (every == np.arange(1000)).mean() < 0.02


def test_a_window_around_a_rare_pixel_holds_it_anywhere():
    mask = np.zeros((40, 50), np.uint8)
    mask[20, 30] = 1
    image = np.dstack([mask] * 3)
    crop = Crop((8, 10), LABELS, 1.0, np.array([0.0, 1.0]))
    places = []
    for seed in range(300):
        cut, labels = crop(image, mask, seed)
        assert cut.shape == (8, 10, 3)
        assert labels.sum() == 1
        assert (cut[..., 0] == labels).all()
        places.append(int(labels.argmax()))
    assert len(set(places)) > 70, "all over the window"


@pytest.mark.parametrize("place", [(0, 0), (39, 49), (0, 49)])
def test_a_rare_pixel_in_a_corner(place):
    mask = np.zeros((40, 50), np.uint8)
    mask[place] = 1
    for seed in range(20):
        assert Crop((8, 10), LABELS, 1.0, np.array([0.0, 1.0]))(np.dstack([mask] * 3), mask, seed)[1].sum() == 1


def test_small_images_are_padded_with_ignored_pixels():
    image, mask = np.full((5, 20, 2), 9, np.uint8), np.ones((5, 20), np.uint8)
    cut, labels = Crop((8, 10), LABELS, 0.5, np.array([0.5, 0.5]))(image, mask, 0)
    assert cut.shape == (8, 10, 2)
    assert (cut == 9).all()
    assert (labels[:5] == 1).all()
    assert (labels[5:] == 255).all()
    wide = Crop((8, 20), Labels(2, 65535), 0.0, np.array([0.5, 0.5]))(image, mask, 0)[1]
    assert (wide[5:] == 65535).all()


def test_dense_and_binary_masks_are_cropped_around_their_classes():
    dense = np.zeros((3, 40, 40), np.uint8)
    dense[2, 3, 3], dense[:, 39, 39] = 1, 255
    labels = Labels(3, 255, form="channels")
    _, cut = Crop((4, 4), labels, 1.0, np.array([0.1, 0.1, 0.8]))(np.zeros((40, 40, 3), np.uint8), dense, 1)
    assert cut.shape == (3, 4, 4)
    assert (cut[2] == 1).sum() == 1
    binary = (np.arange(1600).reshape(40, 40) == 777).astype(np.uint8)
    _, cut = Crop((4, 4), Labels(1, 255), 1.0, np.array([1.0]))(np.zeros((40, 40, 3), np.uint8), binary, 1)
    assert cut.sum() == 1


def test_an_image_without_any_class_is_cropped_at_random():
    mask = np.full((20, 20), 255, np.uint8)
    assert Crop((4, 4), LABELS, 1.0, np.array([0.5, 0.5]))(np.zeros((20, 20, 3), np.uint8), mask, 0)[1].shape == (4, 4)


def test_the_order_and_the_windows_are_the_same_for_any_number_of_workers(tree):
    def batches(workers):
        torch.manual_seed(3)
        options = {"crop": (16, 16), "rare_crops": 0.5, "rare_images": 0.5}
        data = SegmentationDataModule(root=tree, batch_size=8, num_workers=workers, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        return [(batch["name"], batch["image"], batch["mask"]) for _ in range(2) for batch in loader]

    alone, with_two = batches(0), batches(2)
    for one, other in zip(alone, with_two, strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[2], other[2])
    assert [name for names, *_ in alone[:5] for name in names] != [name for names, *_ in alone[5:] for name in names]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rare_crops": 0.5}, "Expected `crop`"),
        ({"crop": (0, 4)}, "Expected `crop`"),
        ({"rare_images": 1.5}, "Expected `rare_images` to be a share"),
        ({"crop": (4, 4), "rare_crops": -0.1}, "Expected `rare_crops`"),
        ({"rare_images": float("nan")}, "Expected `rare_images`"),
    ],
)
def test_shares_outside_their_range_are_refused(tree, options, message):
    with pytest.raises(ValueError, match=message):
        SegmentationDataModule(root=tree, **options)


def test_nothing_but_ignored_pixels_is_drawn_evenly():
    assert RareImages.of(0.5, np.zeros((4, 3))).probabilities.tolist() == [0.25] * 4
