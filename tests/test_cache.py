"""A cache gives what its samples give, decodes each once, whoever asks, and says so when it does not fit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import albumentations
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from segfocal.data import SegmentationDataModule, cache
from segfocal.data.cache import Cache
from segfocal.data.masks import Labels
from segfocal.data.shapes import write_tree


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree"), n_train=6, n_val=2, n_test=1, size=(33, 45))


def module(root, **options):
    torch.manual_seed(5)
    augment = [albumentations.Affine(rotate=(-20, 20), p=1.0), albumentations.RandomBrightnessContrast()]
    data = SegmentationDataModule(root=root, batch_size=2, augment=augment, **options)
    data.setup("fit")
    return data


def batches(data, epochs=2):
    loader = data.train_dataloader()
    return [batch for _ in range(epochs) for batch in loader] + list(data.val_dataloader())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_batches_are_the_same_in_every_epoch(root, num_workers):
    without, within = (batches(module(root, num_workers=num_workers, cache=cache)) for cache in (False, True))
    for plain, kept in zip(without, within, strict=True):
        assert plain["name"] == kept["name"]
        assert torch.equal(plain["image"], kept["image"])
        assert torch.equal(plain["mask"], kept["mask"])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_one_worker_has_decoded_all_have(root, tmp_path, start):
    data = module(write_tree(tmp_path, n_train=4, n_val=1, n_test=1), cache=True)
    dataset = data.datasets["train"]
    first = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start)
    want = [batch["mask"] for batch in first]
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    assert all(torch.equal(dataset[index]["mask"], mask) for index, mask in enumerate(want))


class Wide:
    """A sample of labels that take two bytes, at an odd size; the second mask is dense and does not fit."""

    name, path, size = "wide", None, (3, 5)

    def __init__(self, dense):
        self.dense, self.reads = dense, 0

    def image(self):
        return np.full((*self.size, 3), 7, np.uint8)

    def mask(self, labels):
        self.reads += 1
        return np.full((2, *self.size), 1, np.uint8) if self.dense else np.full(self.size, 300, np.uint16)


def test_masks_of_two_bytes_are_kept_and_those_of_another_shape_are_not():
    labels = Labels(400, 65535)
    wide, dense = Wide(False), Wide(True)
    kept = Cache([wide, dense, wide], labels)
    for index, sample in ((0, wide), (1, dense), (2, wide)):
        masks = [kept[index].mask(labels) for _ in range(2)]
        assert all(
            np.array_equal(mask, sample.mask(labels)) and mask.dtype == sample.mask(labels).dtype for mask in masks
        )
    reads = dense.reads
    kept[1].mask(labels)
    assert dense.reads == reads + 1


def test_what_is_returned_may_be_written_to(root):
    sample = module(root, cache=True).datasets["train"].decoded[0]
    want = sample.image().copy()
    for _ in range(2):
        sample.image()[:] = 0
    assert np.array_equal(sample.image(), want)


def test_a_cache_that_does_not_fit_is_refused_with_figures(root, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 8 * 33 * 45 * 4)  # of 8 samples at 4 bytes a pixel, but no more
    with pytest.raises(ValueError, match=r"`cache` to fit into memory: 8 images and masks take 0.00 GiB .* are free"):
        module(root, cache=True)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks where Linux keeps shared memory")
def test_nothing_is_left_behind_when_the_process_is_killed(root):
    before = {path.name for path in Path("/dev/shm").iterdir()}
    code = (
        "import os, signal\nfrom segfocal.data import SegmentationDataModule\n"
        f"data = SegmentationDataModule(root={str(root)!r}, cache=True, size=(32, 32), num_workers=0)\n"
        "data.setup('fit')\nnext(iter(data.train_dataloader()))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=here, check=False).returncode == -signal.SIGKILL
    assert {path.name for path in Path("/dev/shm").iterdir()} <= before
