"""`sync_dist`: two processes with 3 images and 1 give the loss and the gradients of one process with all 4."""

from itertools import product

import pytest
import torch
from scenes import scene, value_and_grad
from torch import distributed, multiprocessing, nn

from segfocal import functional as sf
from segfocal.losses import FocalDiceLoss

SPLITS = {"the one image void": [3], "an image of each void": [0, 3], "all void": [0, 1, 2, 3], "none void": []}
ALPHA = [1.0, 2.0, 3.0]
LOSSES = [
    (sf.softmax_focal_loss, {"reduction": "mean"}),
    (sf.softmax_focal_loss, {"reduction": "sum", "alpha": ALPHA}),
    (sf.softmax_focal_loss, {"reduction": "weighted", "alpha": ALPHA, "label_smoothing": 0.1}),
    (sf.sigmoid_focal_loss, {"reduction": "mean"}),
    (sf.sigmoid_focal_loss, {"reduction": "positive", "alpha": 0.25}),
]
for per_image, activation in product([False, True], ["softmax", "sigmoid"]):
    region = {"activation": activation, "per_image": per_image}
    last = {"reduction": "weighted", "alpha": ALPHA} if activation == "softmax" else {"reduction": "positive"}
    LOSSES += [(sf.dice_loss, region), (sf.dice_loss, {**region, "log": True, "absent": "keep", "squared": True})]
    LOSSES += [(sf.jaccard_loss, region), (sf.tversky_loss, {**region, "exponent": 0.75, "absent": "zero"})]
    LOSSES += [(sf.focal_dice_loss, {**region, **last})]
CASES = list(product(LOSSES, [torch.float32, torch.float64], SPLITS))


def batch(dtype, void):
    logits, target = scene(4, 3, 5, 4, dtype=dtype)
    target[void] = 255
    return logits, target, torch.rand(4, 5, 4, dtype=dtype, generator=torch.Generator().manual_seed(3))


def net(dtype):
    conv = nn.Conv2d(3, 3, 1, dtype=dtype)
    with torch.no_grad():
        conv.weight.copy_(torch.linspace(-1, 1, 9).view(3, 3, 1, 1))
        conv.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return conv


def step(model, loss, images, target, weight, **options):
    """The loss and the gradients of one training step."""
    model.zero_grad()
    value = loss(model(images), target, weight, **options)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters())]


def rank_main(rank, folder, cases):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = [[0, 1, 2], [3]][rank]
    models = {dtype: nn.parallel.DistributedDataParallel(net(dtype)) for dtype in (torch.float32, torch.float64)}
    results = []
    for (loss, options), dtype, split in cases:
        tensors = [t[mine] for t in batch(dtype, SPLITS[split])]
        results.append(step(models[dtype], loss, *tensors, sync_dist=True, **options))
    tensors = [t[mine] for t in batch(torch.float64, [3])]
    parts = [FocalDiceLoss(sync_dist=True, per_image=per_image).breakdown(*tensors) for per_image in (False, True)]
    torch.save((results, parts), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank got: its steps, one for each of CASES, and its breakdowns."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(rank_main, args=(str(folder), CASES), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][0][0].__name__}-{i}")
def test_two_ranks_give_the_loss_and_gradients_of_one_process(index, ranks):
    (loss, options), dtype, split = CASES[index]
    want = step(net(dtype), loss, *batch(dtype, SPLITS[split]), **options)
    digits = 1e-6 if dtype == torch.float32 else 1e-12
    for steps, _ in ranks:
        for a, b in zip(steps[index], want, strict=True):
            torch.testing.assert_close(a, b, rtol=digits, atol=digits * b.abs().max().item())


@pytest.mark.parametrize("per_image", [False, True])
def test_the_breakdown_is_that_of_all_ranks(per_image, ranks):
    want = FocalDiceLoss(per_image=per_image).breakdown(*batch(torch.float64, [3]))
    for _, parts in ranks:
        torch.testing.assert_close(parts[per_image], want, equal_nan=True)


def test_sync_dist_without_a_process_group_does_nothing():
    tensors = batch(torch.float64, [3])
    for loss, options in LOSSES:
        got = value_and_grad(loss, *tensors, sync_dist=True, **options)
        assert all(torch.equal(a, b) for a, b in zip(got, value_and_grad(loss, *tensors, **options), strict=True))
