import albumentations
import pytest
import torch
from torch.utils.data import SequentialSampler

from segfocal.data import DataError, ShapesDataModule
from segfocal.data.loading import EqualSizeBatches, SeededSampler, collate, default_workers


def epochs(num_workers, count=2, seed=5):
    torch.manual_seed(seed)
    augment = [albumentations.Affine(rotate=(-20, 20), p=1.0), albumentations.GaussNoise(p=0.5)]
    data = ShapesDataModule(n_train=10, n_val=1, batch_size=4, num_workers=num_workers, augment=augment)
    data.setup("fit")
    loader = data.train_dataloader()
    result = []
    for _ in range(count):
        result.append([(batch["name"], batch["image"], batch["mask"]) for batch in loader])
        torch.rand(3)  # a net that draws from the global generator changes nothing
    return result


def equal(a, b):
    return all(x[0] == y[0] and torch.equal(x[1], y[1]) and torch.equal(x[2], y[2]) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def without_workers():
    return epochs(0)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(without_workers, num_workers):
    for expected, got in zip(without_workers, epochs(num_workers), strict=True):
        assert equal(expected, got)


def test_epochs_and_seeds_differ(without_workers):
    first, second = without_workers
    assert [b[0] for b in first] != [b[0] for b in second]
    assert not equal(first, epochs(0, count=1, seed=6)[0])
    images = {name: image for names, batch, _ in first for name, image in zip(names, batch, strict=True)}
    again = {name: image for names, batch, _ in second for name, image in zip(names, batch, strict=True)}
    assert any(not torch.equal(images[name], again[name]) for name in images.keys() & again.keys())


def test_the_sampler_goes_through_every_index_and_back_to_an_epoch():
    sampler = SeededSampler(6, seed=3)
    first, second = list(sampler), list(sampler)
    assert sorted(index for index, _ in first) == list(range(6))
    assert len({seed for _, seed in first + second}) == 12
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert len(sampler) == 6


def test_batches_group_equal_sizes_in_order():
    sizes = [(1, 1), (2, 2), (1, 1), (1, 1), (2, 2), (3, 3)]
    batches = EqualSizeBatches(SequentialSampler(sizes), 2, False, sizes)
    assert list(batches) == [[0, 2], [1, 4], [3], [5]]
    assert len(batches) == 4


def test_images_of_several_sizes_cannot_be_stacked():
    items = [{"image": torch.zeros(3, 4, n), "mask": torch.zeros(4, n), "name": f"{n}.png"} for n in (5, 6)]
    with pytest.raises(DataError, match=r"one size, got 5.png 4 x 5, 6.png 4 x 6. Set `size`, or add RandomCrop"):
        collate(items)


def test_a_small_split_still_gives_a_batch_and_a_short_last_one_is_dropped():
    lengths = {}
    for count in (3, 5):
        data = ShapesDataModule(n_train=count, n_val=1, batch_size=4)
        data.setup("fit")
        lengths[count] = [len(batch["name"]) for batch in data.train_dataloader()]
    assert lengths == {3: [3], 5: [4]}


def test_default_workers_fit_the_machine():
    assert 0 <= default_workers() <= 4
    assert default_workers() != 1
