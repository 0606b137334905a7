"""Images counted one by one while a trainer scores: the same matrix, in every kind of task."""

import numpy as np
import pytest
import torch
from test_task import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

from segfocal import FocalLoss, SegmentationTask
from segfocal.training.counting import CountImages


def batches(count, dense):
    """Three batches of two images, with void."""
    random = torch.Generator().manual_seed(0)
    for batch in range(3):
        shape = (2, count, 16, 24) if dense else (2, 16, 24)
        mask = torch.randint(0, 2 if dense or count == 1 else count, shape, generator=random, dtype=torch.uint8)
        mask[torch.rand(shape, generator=random) < 0.1] = 255
        image = torch.randint(0, 256, (2, 3, 16, 24), generator=random, dtype=torch.uint8)
        yield {"image": image, "mask": mask, "name": [f"{batch}a", f"{batch}b"]}


@pytest.mark.parametrize(
    ("count", "activation", "dense"),
    [(3, "softmax", False), (3, "sigmoid", True), (3, "sigmoid", False), (1, "sigmoid", False), (1, "sigmoid", True)],
    ids=["softmax", "overlapping", "one against the rest", "binary", "dense binary"],
)
def test_the_sum_over_images_is_the_matrix_of_the_task(count, activation, dense):
    torch.manual_seed(0)
    names = ["road", "car", "pole"][:count]
    loss = FocalLoss(activation=activation)
    task = SegmentationTask(nn.Conv2d(3, count, 1), loss, names, activation=activation, size_divisor=1)
    images = CountImages(names, 255)
    loader = DataLoader(list(batches(count, dense)), batch_size=None)
    trainer = quiet_trainer(callbacks=[images])
    for score, split in ((trainer.validate, "val"), (trainer.test, "test")):
        score(task, loader, verbose=False)
        np.testing.assert_array_equal(images.tally.scores.matrix, task.scores[split].matrix)
        assert images.tally.names == ["0a", "0b", "1a", "1b", "2a", "2b"]
        assert np.isfinite(images.tally.per_image).all()
        ranked = sorted(zip(images.tally.per_image.tolist(), images.tally.names, strict=True))
        assert [kept.key for kept in images.gallery.kept] == ranked
        assert all(kept.image.shape == (16, 24, 3) for kept in images.gallery.kept)
