import albumentations
import pytest
import torch
from torch.utils.data import SequentialSampler

from segfocal.data import DataError, ShapesDataModule
from segfocal.data.loading import collate, make_loader
from segfocal.data.parallel import default_workers
from segfocal.data.samplers import EqualSizeBatches, Filler, SeededSampler


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
    with pytest.raises(DataError, match=r"one size, got 5.png 4 x 5, 6.png 4 x 6. Set `size` or `crop`"):
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


@pytest.mark.parametrize(("count", "batch_size"), [(21, 4), (8, 4), (5, 4)])
def test_the_batches_of_all_processes_make_those_of_one(count, batch_size):
    one = list(SeededSampler(count, 3, 2 * batch_size))
    first, second = (list(SeededSampler(count, 3, batch_size, rank, 2)) for rank in (0, 1))
    whole = range(0, max(len(one) - 1, 1), 2 * batch_size)
    for start in whole:
        both = [part[start // 2 : start // 2 + batch_size] if count >= 8 else part for part in (first, second)]
        assert [*both[0], *both[1]] == one[start : start + 2 * batch_size]
    assert len(first) + len(second) == len(one) == (count - count % 8 if count >= 8 else count)


def test_a_process_goes_on_after_the_batches_it_has_seen():
    sampler, resumed = (SeededSampler(16, 3, 2, 1, 2) for _ in range(2))
    resumed.skip = 4
    assert list(resumed) == list(sampler)[4:]


def test_fewer_images_than_processes_are_refused():
    with pytest.raises(ValueError, match=r"an image for each process, got 1 to train on for 2 processes. Lower"):
        SeededSampler(1, 0, 4, 0, 2)


def test_every_index_is_in_one_batch_of_one_process_and_all_have_as_many():
    sizes = [(1, 1)] * 5 + [(2, 2)] + [(1, 1)] * 2
    ranks = [EqualSizeBatches(SequentialSampler(sizes), 2, False, sizes, rank, 3) for rank in range(3)]
    batches = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(listed) for listed in batches] == [3, 3, 3]
    indices = [key for listed in batches for batch in listed for key in batch if not isinstance(key, Filler)]
    assert sorted(indices) == list(range(8))


def test_a_filler_counts_nowhere_and_has_no_name():
    data = ShapesDataModule(n_train=2, n_val=1, n_test=1)
    data.setup(None)
    for split in ("val", "predict"):
        dataset = data.datasets[split]
        (rank, _) = (make_loader(dataset, 2, 0, seed=0, rank=rank, ranks=2) for rank in range(2))
        (batch,) = rank
        assert (batch["name"], len(batch["image"])) == ([], 1)
        assert "mask" not in batch or batch["mask"].unique().tolist() == [255]
