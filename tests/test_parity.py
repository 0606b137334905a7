"""The same numbers, and the same gradients, as the losses people use today; and the worked examples.

Every test names the peer's call, our settings for it, and Z, what the peer divides the focal sum by where that is not
our `reduction`. The scenes have ignored pixels and, beyond two classes, an absent class.
"""

import pytest
import torch
from scenes import EXACT, dense, scene, value_and_grad
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from segfocal import functional as sf


def agree(theirs, ours, logits, single=False):
    """Value and gradient are equal: to float64, or where the peer computes in float32 to 1e-5 of the largest slope."""
    for got, want in zip(value_and_grad(ours, logits), value_and_grad(theirs, logits), strict=True):
        exact = {"rtol": 1e-5, "atol": 1e-5 * want.abs().max().item()} if single else EXACT
        torch.testing.assert_close(got, want, check_dtype=not single, **exact)


def no_ignored(*shape):
    logits, target = scene(*shape)
    return logits, target % shape[1]


# Focal


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "weighted"])
def test_cross_entropy(reduction, smoothing, wide_backend):
    logits, target = scene(2, 4, 7, 9)
    alpha = None if reduction == "mean" else torch.tensor([0.2, 0.3, 1.5, 2.0], dtype=torch.float64)
    theirs = {"weight": alpha, "ignore_index": 255, "label_smoothing": smoothing}
    theirs["reduction"] = "sum" if reduction == "sum" else "mean"
    ours = {"gamma": 0.0, "alpha": alpha, "label_smoothing": smoothing, "reduction": reduction}
    agree(
        lambda x: F.cross_entropy(x, target, **theirs),
        lambda x: sf.softmax_focal_loss(x, target, backend=wide_backend, **ours),
        logits,
    )


def test_cross_entropy_of_soft_targets_and_of_every_pixel(wide_backend):
    logits, target = scene(2, 4, 7, 9)
    soft = torch.rand(2, 4, 7, 9, dtype=torch.float64).softmax(1)
    ours = {"gamma": 0.0, "backend": wide_backend}
    agree(lambda x: F.cross_entropy(x, soft), lambda x: sf.softmax_focal_loss(x, soft, **ours), logits)
    agree(
        lambda x: F.cross_entropy(x, target, ignore_index=255, reduction="none"),
        lambda x: sf.softmax_focal_loss(x, target, gamma=0.0, reduction="none"),
        logits,
    )


@pytest.mark.parametrize("alpha", [0.25, -1])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_torchvision_sigmoid_focal_loss(alpha, gamma, wide_backend):
    logits, _ = scene(2, 3, 7, 9)
    target = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0)).round().double()
    ours = {"alpha": None if alpha < 0 else alpha, "gamma": gamma}
    for reduction in ("mean", "sum", "none"):
        name = "auto" if reduction == "none" else wide_backend
        agree(
            lambda x: torchvision_focal(x, target, alpha=alpha, gamma=gamma, reduction=reduction),  # noqa: B023
            lambda x: sf.sigmoid_focal_loss(x, target, reduction=reduction, backend=name, **ours),  # noqa: B023
            logits,
        )


def test_retinanet_and_fcos(wide_backend):
    """torchvision's detectors: the sum of the focal loss over max(1, number of positives)."""
    logits, target = scene(2, 3, 7, 9)
    for y in (dense(target, 3).double(), torch.zeros(2, 3, 7, 9, dtype=torch.float64)):
        agree(
            lambda x: torchvision_focal(x, y, alpha=0.25, reduction="sum") / max(1, y.sum().item()),  # noqa: B023
            lambda x: sf.sigmoid_focal_loss(x, y, alpha=0.25, reduction="positive", backend=wide_backend),  # noqa: B023
            logits,
        )


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel", "binary"])
def test_smp_focal_loss_is_one_against_the_rest(mode, alpha, smp, wide_backend):
    """Z: C * valid. Its "multilabel" cannot ignore: a mask of (B, C, H, W) does not fit a channel of (B, H, W)."""
    logits, target = scene(2, 1 if mode == "binary" else 3, 7, 9)
    target = dense(target, 3).long() if mode == "multilabel" else target
    peer = smp.FocalLoss(mode, alpha=alpha, ignore_index=None if mode == "multilabel" else 255)
    ours = {"alpha": alpha, "backend": wide_backend}
    agree(lambda x: peer(x, target), lambda x: sf.sigmoid_focal_loss(x, target, **ours), logits)


def test_smp_softmax_focal_loss_divides_by_all_pixels(smp, wide_backend):
    logits, target = scene(2, 3, 7, 9)
    target = torch.where(target == 255, -100, target)  # the label its nll_loss leaves out
    ours = {"gamma": 1.5, "ignore_index": -100, "reduction": "sum", "backend": wide_backend}
    agree(
        lambda x: smp._functional.softmax_focal_loss_with_logits(x, target, gamma=1.5),
        lambda x: sf.softmax_focal_loss(x, target, **ours) / target.numel(),
        logits,
    )


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_monai_softmax_focal_loss(alpha, monai, wide_backend):
    """Z: C * all pixels; but from the moment that its ignore_index is set, marked pixels or none, the valid pixels."""
    ours = {"alpha": None if alpha is None else [1 - alpha, alpha, alpha], "backend": wide_backend}
    options = {"use_softmax": True, "to_onehot_y": True, "alpha": alpha}
    logits, target = no_ignored(2, 3, 7, 9)
    agree(
        lambda x: monai.FocalLoss(**options)(x, target[:, None]),
        lambda x: sf.softmax_focal_loss(x, target, **ours) / 3,
        logits,
        single=True,
    )
    for logits, target in (scene(2, 3, 7, 9), no_ignored(2, 3, 7, 9)):
        agree(
            lambda x: monai.FocalLoss(**options, ignore_index=255)(x, target[:, None]),  # noqa: B023
            lambda x: sf.softmax_focal_loss(x, target, **ours),  # noqa: B023
            logits,
            single=True,
        )


def test_monai_sigmoid_focal_loss(monai, wide_backend):
    logits, target = no_ignored(2, 3, 7, 9)
    agree(
        lambda x: monai.FocalLoss(to_onehot_y=True, alpha=0.25)(x, target[:, None]),
        lambda x: sf.sigmoid_focal_loss(x, target, alpha=0.25, backend=wide_backend),
        logits,
        single=True,
    )


@pytest.mark.parametrize("class_weight", [None, [0.5, 1.0, 3.0]])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_kornia_focal_loss_divides_by_c_times_all_pixels(alpha, class_weight, kornia, wide_backend):
    logits, target = scene(2, 3, 7, 9)
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    alphas = torch.tensor([1.0, 1.0, 1.0] if alpha is None else [1 - alpha, alpha, alpha], dtype=torch.float64)
    ours = {"alpha": alphas if weight is None else alphas * weight, "reduction": "sum", "backend": wide_backend}
    agree(
        lambda x: kornia.focal_loss(x, target, alpha=alpha, reduction="mean", weight=weight, ignore_index=255),
        lambda x: sf.softmax_focal_loss(x, target, **ours) / logits.numel(),
        logits,
    )


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_kornia_binary_focal_loss_divides_by_all_elements(alpha, kornia, wide_backend):
    logits, target = scene(2, 3, 7, 9)
    y = dense(target, 3).double().masked_fill((target == 255)[:, None], 255)
    agree(
        lambda x: kornia.binary_focal_loss_with_logits(x, y, alpha=alpha, reduction="mean", ignore_index=255),
        lambda x: sf.sigmoid_focal_loss(x, y, alpha=alpha, reduction="sum", backend=wide_backend) / logits.numel(),
        logits,
    )


def mmseg_focal(logits, target, alpha, gamma=2.0):
    """mmseg's FocalLoss with one alpha per class, ignored pixels masked and left in the mean."""
    y = dense(target, logits.shape[1]).double()
    alpha = torch.tensor(alpha, dtype=torch.float64).view(-1, 1, 1)
    p = logits.sigmoid()
    modulator = torch.where(y == 1, alpha * (1 - p) ** gamma, (1 - alpha) * p**gamma)
    loss = modulator * F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (loss * (target != 255)[:, None]).mean()


def test_mmseg_focal_loss_divides_by_c_times_all_pixels(wide_backend):
    logits, target = scene(2, 3, 7, 9)
    alpha = [0.1, 0.5, 0.9]
    agree(
        lambda x: mmseg_focal(x, target, alpha),
        lambda x: sf.sigmoid_focal_loss(x, target, alpha=alpha, reduction="sum", backend=wide_backend) / logits.numel(),
        logits,
    )


# Regions

SMP_REGIONS = {
    "Dice": (sf.dice_loss, {"smooth": 1.4}, {}),
    "Jaccard": (sf.jaccard_loss, {"smooth": 0.7}, {}),
    "Tversky": (sf.tversky_loss, {"smooth": 0.7, "fp_weight": 0.3, "fn_weight": 0.7}, {"alpha": 0.3, "beta": 0.7}),
}


@pytest.mark.parametrize("options", [{}, {"log_loss": True}, {"classes": [2, 0]}], ids=str)
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("region", SMP_REGIONS)
def test_smp_region_losses(region, ignored, options, smp, wide_backend):
    """smooth: 2 s for Dice, else s. An absent class counts 0 and stays in the mean."""
    logits, target = scene(2, 3, 7, 9)
    target = target if ignored else target % 255
    loss, ours, theirs = SMP_REGIONS[region]
    ours = {**ours, "absent": "zero", "log": "log_loss" in options, "classes": options.get("classes")}
    theirs = {**theirs, "smooth": 0.7, "ignore_index": 255 if ignored else None, **options}
    peer = getattr(smp, f"{region}Loss")("multiclass", **theirs)
    agree(lambda x: peer(x, target), lambda x: loss(x, target, backend=wide_backend, **ours), logits)


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_smp_dice_of_sigmoids(mode, smp, wide_backend):
    logits, target = scene(2, 1 if mode == "binary" else 3, 7, 9)
    ignored = (target == 255)[:, None]
    y = target[:, None] if mode == "binary" else dense(target, 3).long().masked_fill(ignored, 255)
    ours = {"activation": "sigmoid", "smooth": 1.4, "absent": "zero", "backend": wide_backend}
    peer = smp.DiceLoss(mode, smooth=0.7, ignore_index=255)
    agree(lambda x: peer(x, y), lambda x: sf.dice_loss(x, y, **ours), logits)


def test_smp_tversky_gamma_is_ours_for_one_class(smp, wide_backend):
    """Its exponent acts on the mean over the classes, ours on each class."""
    logits, target = no_ignored(2, 3, 7, 9)
    theirs = smp.TverskyLoss("multiclass", classes=[1], smooth=0.7, alpha=0.3, beta=0.7, gamma=0.75)
    ours = {"classes": [1], "smooth": 0.7, "fp_weight": 0.3, "fn_weight": 0.7, "exponent": 0.75}
    agree(lambda x: theirs(x, target), lambda x: sf.tversky_loss(x, target, backend=wide_backend, **ours), logits)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("region", ["dice", "squared", "jaccard", "tversky"])
def test_monai_region_losses(region, batch, ignored, monai, wide_backend):
    """smooth: s, but s / 2 for Jaccard, whose fraction it writes with 2 |p y|. An absent class counts.

    Its squares of a float32 one-hot are float32.
    """
    s = 0.7
    logits, target = scene(2, 3, 7, 9)
    target = target if ignored else target % 255
    theirs = {"softmax": True, "to_onehot_y": True, "smooth_nr": s, "smooth_dr": s, "batch": batch}
    theirs["ignore_index"] = 255 if ignored else None
    ours = {"smooth": s, "absent": "keep", "per_image": not batch, "backend": wide_backend}
    match region:
        case "tversky":
            peer = monai.TverskyLoss(alpha=0.3, beta=0.7, **theirs)
            loss, ours = sf.tversky_loss, {**ours, "fp_weight": 0.3, "fn_weight": 0.7}
        case "jaccard":
            peer, loss, ours = monai.DiceLoss(jaccard=True, **theirs), sf.jaccard_loss, {**ours, "smooth": s / 2}
        case "squared":
            peer, loss, ours = monai.DiceLoss(squared_pred=True, **theirs), sf.dice_loss, {**ours, "squared": True}
        case _:
            peer, loss = monai.DiceLoss(**theirs), sf.dice_loss
    agree(lambda x: peer(x, target[:, None]), lambda x: loss(x, target, **ours), logits, single=region == "squared")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_monai_dice_focal_loss_always_takes_the_sigmoid_focal_loss(activation, monai, wide_backend):
    logits, target = no_ignored(2, 3, 7, 9)
    theirs = {activation: True, "smooth_nr": 0.7, "smooth_dr": 0.7, "lambda_focal": 0.3, "lambda_dice": 2.0}
    dice = {"activation": activation, "smooth": 0.7, "absent": "keep", "per_image": True, "backend": wide_backend}

    def ours(x):
        if activation == "sigmoid":
            return sf.focal_dice_loss(x, target, focal_weight=0.3, dice_weight=2.0, alpha=0.25, **dice)
        focal = sf.sigmoid_focal_loss(x, target, alpha=0.25, backend=wide_backend)
        return 0.3 * focal + 2.0 * sf.dice_loss(x, target, **dice)

    peer = monai.DiceFocalLoss(to_onehot_y=True, alpha=0.25, **theirs)
    agree(lambda x: peer(x, target[:, None]), ours, logits, single=True)


def test_kornia_dice_and_tversky(kornia, wide_backend):
    """average="macro" and eps 0: every image alone, absent classes left out, no smoothing."""
    logits, target = scene(2, 3, 7, 9)
    ours = {"smooth": 0.0, "per_image": True, "backend": wide_backend}
    agree(
        lambda x: kornia.dice_loss(x, target, average="macro", eps=0.0, ignore_index=255),
        lambda x: sf.dice_loss(x, target, **ours),
        logits,
    )
    agree(
        lambda x: kornia.tversky_loss(x, target, alpha=0.3, beta=0.7, eps=0.0, ignore_index=255),
        lambda x: sf.tversky_loss(x, target, fp_weight=0.3, fn_weight=0.7, **ours),
        logits,
    )


def test_an_image_without_a_valid_pixel_counts_elsewhere(monai, kornia):
    """We average over the images with a valid pixel; MONAI counts an empty one as loss 0, kornia as loss 1."""
    logits, target = scene(2, 3, 7, 9)
    target[1] = 255
    ours = sf.dice_loss(logits, target, smooth=0.7, absent="keep", per_image=True)
    options = {"softmax": True, "to_onehot_y": True, "smooth_nr": 0.7, "smooth_dr": 0.7, "ignore_index": 255}
    torch.testing.assert_close(monai.DiceLoss(**options)(logits, target[:, None]), ours / 2, **EXACT)
    ours = sf.dice_loss(logits, target, smooth=0.0, per_image=True)
    theirs = kornia.dice_loss(logits, target, average="macro", eps=0.0, ignore_index=255)
    torch.testing.assert_close(theirs, (ours + 1) / 2, **EXACT)


def nnunet_dice(logits, target, batch_dice, do_bg, smooth=1e-5):
    """nnU-Net's soft Dice: minus the mean score, its denominator at least 1e-8, background left out if asked."""
    mask = (target != 255)[:, None]
    p, y = logits.softmax(1) * mask, dense(target, logits.shape[1]) * mask
    if not do_bg:
        p, y = p[:, 1:], y[:, 1:]
    dims = (0, 2, 3) if batch_dice else (2, 3)
    size = (p.sum(dims) + y.sum(dims) + smooth).clamp(min=1e-8)
    return -((2 * (p * y).sum(dims) + smooth) / size).mean()


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("do_bg", [False, True])
def test_nnunet_dice_is_ours_less_one(batch_dice, do_bg, wide_backend):
    logits, target = scene(2, 3, 7, 9)
    ours = {"smooth": 1e-5, "absent": "keep", "per_image": not batch_dice, "classes": None if do_bg else [1, 2]}
    agree(
        lambda x: nnunet_dice(x, target, batch_dice, do_bg),
        lambda x: sf.dice_loss(x, target, backend=wide_backend, **ours) - 1,
        logits,
    )


# Worked examples, to four digits

SIGMOID_EXAMPLES = [(0.1, 0, 0.1539), (0.2, 0, 0.1810), (0.4, 0, 0.2454), (0.9, 1, 0.0071)]
SIGMOID_EXAMPLES += [(0.6, 0, 0.3244), (0.3, 0, 0.2114), (0.5, 0, 0.2831), (0.8, 0, 0.4181)]


def test_worked_sigmoid_examples(kernel):
    logits = torch.tensor([[logit] for logit, _, _ in SIGMOID_EXAMPLES])
    target = torch.tensor([label for _, label, _ in SIGMOID_EXAMPLES])
    want = [value for _, _, value in SIGMOID_EXAMPLES]
    got = sf.sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0, reduction="none")
    assert got.flatten().tolist() == pytest.approx(want, abs=5e-5)
    total = kernel.loss(sf.sigmoid_focal_loss, logits, target, alpha=0.25, gamma=2.0, reduction="sum")
    assert total.item() == pytest.approx(sum(want), abs=8 * 5e-5)


def test_no_positive_divides_by_one(kernel):
    logits = torch.tensor([[0.2, 0.4, 0.1, 0.8, 0.2]])
    got = kernel.loss(sf.sigmoid_focal_loss, logits, torch.zeros(1, 5), alpha=0.25, reduction="positive")
    assert got.item() == pytest.approx(1.1794, abs=5e-5)


def test_worked_softmax_examples(kernel):
    logits = torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.4, 0.1], [0.2, 0.6, 0.2]]).log()
    target, want = torch.tensor([2, 0, 1]), [0.2231, 0.6931, 0.5108]
    got = sf.softmax_focal_loss(logits, target, gamma=0.0, reduction="none")
    assert got.tolist() == pytest.approx(want, abs=5e-5)
    total = kernel.loss(sf.softmax_focal_loss, logits, target, gamma=0.0, reduction="sum")
    assert total.item() == pytest.approx(sum(want), abs=3 * 5e-5)


def test_anchor_states(kernel):
    logits, target = torch.tensor([[[0.1, 0.9, 5.0, 0.4]]]), torch.tensor([[0, 1, -1, 0]])
    options = {"alpha": 0.25, "ignore_index": -1, "reduction": "positive"}
    got = kernel.loss(sf.sigmoid_focal_loss, logits, target, **options)
    assert got.item() == pytest.approx(0.1539 + 0.0071 + 0.2454, abs=3 * 5e-5)


def test_a_background_alpha_is_that_of_class_0(kernel):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    alpha = sf.background_alpha(0.25, 3)
    torch.testing.assert_close(alpha, torch.tensor([0.25, 0.75, 0.75]))
    want = sf.softmax_focal_loss(logits, target, alpha=[0.25, 0.75, 0.75], backend="reference")
    torch.testing.assert_close(kernel.loss(sf.softmax_focal_loss, logits, target, alpha=alpha), want)
