"""What other losses fall into and ours must not: each trap on every backend, and beside it who falls into it today.

The assertions about peers document why a test of ours exists. One that fails after an upgrade is good news for the
peer: delete it.
"""

import math
from functools import partial

import pytest
import torch
from scenes import SINGLE, activations, dense, scene, value_and_grad
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from segfocal import functional as sf

LOSSES = [
    (sf.softmax_focal_loss, {}),
    (sf.softmax_focal_loss, {"reduction": "weighted", "alpha": [1.0, 2.0, 3.0], "label_smoothing": 0.1}),
    (sf.sigmoid_focal_loss, {"reduction": "positive"}),
    (sf.dice_loss, {"per_image": True}),
    (sf.jaccard_loss, {"smooth": 0.0}),
    (sf.tversky_loss, {"smooth": 0.0, "exponent": 0.75}),
    (sf.focal_dice_loss, {"activation": "sigmoid"}),
]
every_loss = pytest.mark.parametrize(("loss", "options"), LOSSES, ids=lambda v: getattr(v, "__name__", str(v)))


def peers(smp, monai, kornia):
    """Losses of logits and class indices in which 255 is ignored, by name."""
    of_monai = {"to_onehot_y": True, "ignore_index": 255}
    return {
        "cross_entropy": partial(F.cross_entropy, ignore_index=255),
        "smp focal": smp.FocalLoss("multiclass", ignore_index=255),
        "smp dice": smp.DiceLoss("multiclass", ignore_index=255),
        "monai focal": lambda x, y: monai.FocalLoss(use_softmax=True, **of_monai)(x, y[:, None]),
        "monai dice": lambda x, y: monai.DiceLoss(softmax=True, **of_monai)(x, y[:, None]),
        "kornia focal": partial(kornia.focal_loss, alpha=None, reduction="mean", ignore_index=255),
        "kornia dice": partial(kornia.dice_loss, average="macro", ignore_index=255),
    }


def broken(losses, *args):
    """The names of the losses with a value or gradient that is not finite."""
    results = {name: value_and_grad(loss, *args) for name, loss in losses.items()}
    return {name for name, (value, slope) in results.items() if not (value.isfinite() and slope.isfinite().all())}


# Everything ignored


@pytest.mark.interpreted(4)
@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [0.0, math.nan])
def test_everything_ignored_is_zero(loss, options, dtype, poison, kernel):
    logits, target = torch.full((2, 3, 2, 3), poison, dtype=dtype), torch.full((2, 2, 3), 255, dtype=torch.uint8)
    value, slope = value_and_grad(partial(kernel.loss, loss), logits, target, **options)
    assert value.item() == 0
    assert value.dtype == (torch.float64 if dtype == torch.float64 and kernel.wide else torch.float32)
    assert slope.dtype == dtype
    assert (slope == 0).all()


def test_everything_ignored_elsewhere(smp, monai, kornia):
    logits, target = torch.zeros(2, 3, 7, 9), torch.full((2, 7, 9), 255)
    losses = peers(smp, monai, kornia)
    assert broken(losses, logits, target) == {"cross_entropy", "smp focal"}
    assert losses["kornia dice"](logits, target) == 1


# Logits of ignored pixels


@pytest.mark.interpreted(4)
@activations
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["index", "dense", "weight"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_of_ignored_pixels_do_not_matter(activation, smoothing, kind, poison, kernel):
    logits, target = scene(2, 3, 3, 4)
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    weight = None
    if kind == "dense":
        target = dense(target, 3).double().masked_fill(ignored, 255)
    if kind == "weight":
        weight, target = (target != 255).double(), target.clamp(max=2)
    options = {"weight": weight, "squared": True, "label_smoothing": smoothing}
    results = []
    for fill in (0.0, poison):
        x = logits.masked_fill(ignored, fill).requires_grad_()
        got = torch.stack(list(kernel.sums(x, target, activation, 0.5, **options)))
        results.append((got.detach(), torch.autograd.grad(got.sum(), x)[0]))
    torch.testing.assert_close(results[1], results[0], **kernel.close)
    assert (results[1][1][ignored] == 0).all()


@activations
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy, in Triton's interpreter
def test_a_nan_that_counts_is_not_hidden(activation, kernel):
    logits, target = scene(2, 3, 3, 4, dtype=torch.float32)
    logits[0, 1, 0, 0], target[0, 0, 0] = math.nan, 0
    value, slope = value_and_grad(partial(kernel.loss, sf.focal_dice_loss), logits, target, activation=activation)
    assert value.isnan()
    assert slope.isnan().any()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_of_ignored_pixels_elsewhere(poison, smp, monai, kornia):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    logits.masked_fill_((target == 255)[:, None], poison)
    wrong = {"cross_entropy", "smp dice", "monai focal", "monai dice", "kornia dice"}
    assert broken(peers(smp, monai, kornia), logits, target) == wrong


# A logit of minus infinity: a class that is ruled out


@pytest.mark.interpreted(3)
@activations
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_minus_infinity_on_another_class_is_finite(activation, classes, is_dense, gamma, kernel):
    x = torch.randn(1, classes, 5, generator=torch.Generator().manual_seed(0))
    x[:, 1] = -math.inf
    x.requires_grad_()
    target = torch.zeros(1, 5, dtype=torch.int64)
    got = kernel.sums(x, dense(target, classes).float() if is_dense else target, activation, gamma, squared=True)
    loss = sum(field.sum() for field in got)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert slope.isfinite().all()
    assert (slope[:, 1] == 0).all()


def test_minus_infinity_elsewhere(smp, monai, kornia):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    logits[:, 2] = -math.inf  # no pixel is of class 2
    losses = peers(smp, monai, kornia)
    losses["torchvision"] = lambda x, y: torchvision_focal(x, dense(y, 3).float(), reduction="mean")
    losses["kornia binary"] = lambda x, y: kornia.binary_focal_loss_with_logits(
        x, dense(y, 3).float(), reduction="mean"
    )
    assert broken(losses, logits, target) == {"smp focal", "monai focal", "torchvision", "kornia binary"}


# Confident pixels: 1 - p by subtraction loses every digit


DIGITS = 2.2e-6  # of float32, what the formula is known to keep
MARGINS = [0.5, 4.0, 8.0, 16.0, 18.0, 24.0, 28.0, 50.0, 80.0, 1000.0, 1e4]


def exact_focal(margin, gamma):
    """The focal loss of a pixel that is right by this margin, and its slope, in float64; 0 below its range."""
    small = math.exp(-abs(margin))
    p, q = 1 / (1 + small), small / (1 + small)
    p, q = (p, q) if margin > 0 else (q, p)
    surprise = max(-margin, 0.0) + math.log1p(small)
    return q**gamma * surprise, -(q**gamma) * (gamma * p * surprise + q)


def confident(activation, dtype):
    """One image of one pixel for each margin, and its dense target."""
    logits = torch.zeros(len(MARGINS), 2 if activation == "softmax" else 1, 1, dtype=dtype)
    logits[:, 0, 0] = torch.tensor(MARGINS)
    target = torch.zeros_like(logits, dtype=torch.float32)
    target[:, 0] = 1
    return logits, target


def digits_are_kept(got, want, tolerance, dtype):
    """Relative to what is wanted, down to the smallest number of the dtype."""
    want = torch.tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=2 * torch.finfo(dtype).tiny)


@pytest.mark.interpreted(3)
@activations
@pytest.mark.parametrize("kind", ["index", "dense", "smooth"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_confident_pixels_keep_their_digits(activation, kind, gamma, dtype, kernel):
    if dtype == torch.float64 and not kernel.wide:
        pytest.skip("it has no float64")
    logits, target = confident(activation, dtype)
    if kind != "dense":
        target = target[:, 0].long() if activation == "sigmoid" else torch.zeros(len(MARGINS), 1, dtype=torch.int64)
    smoothing = 1e-30 if kind == "smooth" else 0.0  # too small to be seen, but not to be let in
    x = logits.requires_grad_()
    loss = kernel.sums(x, target, activation, gamma, label_smoothing=smoothing).positive_focal[:, 0]
    (slope,) = torch.autograd.grad(loss.sum(), x)
    values, slopes = zip(*(exact_focal(margin, gamma) for margin in MARGINS), strict=True)
    digits_are_kept(loss, values, DIGITS, loss.dtype)
    assert slope.isfinite().all()
    digits_are_kept(slope[:, 0, 0], slopes, max(DIGITS, torch.finfo(dtype).eps), dtype)


@pytest.mark.interpreted(3)
@activations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_gradients_are_finite_where_p_is_one_or_zero(dtype, activation, gamma, kernel):
    margins = torch.tensor([17.0, 60.0, 1000.0, 60000.0])
    x = torch.zeros(1, 3, 8, dtype=dtype)
    x[0, 0] = torch.cat([margins, -margins])
    x.requires_grad_()
    index = torch.zeros(1, 8, dtype=torch.int64)
    for target in (index, dense(index, 3).float()):
        got = kernel.sums(x, target, activation, gamma)
        loss = got.positive_focal.sum() + got.negative_focal.sum()
        (slope,) = torch.autograd.grad(loss, x)
        assert slope.dtype == dtype
        assert loss.isfinite()
        assert slope.isfinite().all()


@activations
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_surprising_pixels_keep_their_digits(activation, gamma, kernel):
    logits, target = confident(activation, torch.float64 if kernel.wide else torch.float32)
    x = (-logits).requires_grad_()
    target = target[:, 0].long() if activation == "sigmoid" else torch.zeros(len(MARGINS), 1, dtype=torch.int64)
    loss = kernel.sums(x, target, activation, gamma).positive_focal[:, 0]
    (slope,) = torch.autograd.grad(loss.sum(), x)
    values, slopes = zip(*(exact_focal(-margin, gamma) for margin in MARGINS), strict=True)
    digits = 1e-13 if kernel.wide else DIGITS
    digits_are_kept(loss, values, digits, loss.dtype)
    digits_are_kept(slope[:, 0, 0], slopes, digits, loss.dtype)


def test_confident_pixels_elsewhere(smp, monai, kornia):
    """At a margin of 16 by 3 % or more wrong; from 18 on zero, and the gradient NaN for gamma < 1."""
    softmax, sigmoid = (confident(activation, torch.float32)[0][..., None] for activation in ("softmax", "sigmoid"))
    index, positive = torch.zeros(len(MARGINS), 1, 1, dtype=torch.int64), torch.ones_like(sigmoid)
    smp_softmax = smp._functional.softmax_focal_loss_with_logits
    for gamma in (0.5, 2.0):
        values = [exact_focal(margin, gamma)[0] for margin in MARGINS]
        of_monai = monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma, reduction="none")
        losses = {
            "smp": (partial(smp_softmax, target=index, gamma=gamma, reduction="none"), softmax),
            "monai": (lambda x, peer=of_monai: peer(x, index[:, None])[:, 0], softmax),
            "kornia": (lambda x, g=gamma: kornia.focal_loss(x, index, alpha=None, gamma=g)[:, 0], softmax),
            "torchvision": (partial(torchvision_focal, targets=positive, alpha=-1, gamma=gamma), sigmoid),
        }
        for name, (loss, logits) in losses.items():
            value, slope = value_and_grad(loss, logits)
            value = value.flatten()
            assert abs(value[3].item() / values[3] - 1) > 0.025, name
            assert (value[4:] == 0).all(), name
            assert values[4] > 1e-24
            if name != "kornia":
                assert slope[4:].isnan().any() == (gamma < 1), name


# Sums of many pixels


@activations
def test_half_precision_sums_do_not_overflow(activation, kernel):
    if kernel.interpreted:
        pytest.skip("minutes in the interpreter")
    logits, target = scene(1, 2, 1024, 1024, dtype=torch.float32)
    low = logits.half()
    got = kernel.sums(low, target, activation)
    want = kernel.sums(low.double() if kernel.wide else low.float(), target, activation)
    for a, b in zip(got[:6], want[:6], strict=True):
        torch.testing.assert_close(a, b, check_dtype=False, rtol=SINGLE["rtol"], atol=0.0)
    for loss in (sf.dice_loss, sf.focal_dice_loss):
        value, slope = value_and_grad(partial(kernel.loss, loss), low, target, activation=activation)
        assert 0 < value < 2
        assert slope.isfinite().all()


def test_half_precision_sums_elsewhere(smp, monai, kornia):
    logits, target = scene(1, 2, 1024, 1024, dtype=torch.float32)
    target %= 2
    low, y = logits.half(), dense(target, 2)
    right = sf.dice_loss(low, target, smooth=0.0).item()
    assert smp.DiceLoss("multiclass")(low, target).isnan()
    of_monai = monai.DiceLoss(softmax=True, to_onehot_y=True)
    assert of_monai(logits, target[:, None]).item() == pytest.approx(right, abs=1e-3)
    assert of_monai(low, target[:, None]).item() == 1
    assert torchvision_focal(low, y.half(), reduction="sum").isinf()
    assert kornia.focal_loss(low, target, alpha=None, reduction="sum").isinf()
    assert F.cross_entropy(low, target, reduction="sum").isinf()


def test_dice_of_a_small_object(kernel, smp):
    """16 pixels of 8 megapixels: overlap as a difference of sums that are a thousand times as large is noise."""
    if kernel.interpreted:
        pytest.skip("minutes in the interpreter")
    pixels, outside, inside = 8 * 1024 * 1024, -14.0, 10.0
    logits, target = torch.full((8, 1, 1024, 1024), outside), torch.zeros(8, 1024, 1024, dtype=torch.uint8)
    logits[0, 0, :4, :4], target[0, :4, :4] = inside, 1
    p, background = 1 / (1 + math.exp(-inside)), 1 / (1 + math.exp(-outside))
    want = 1 - 2 * 16 * p / (16 * p + (pixels - 16) * background + 16)
    with torch.no_grad():
        got = kernel.loss(sf.dice_loss, logits, target, activation="sigmoid", smooth=0.0).item()
        theirs = smp.DiceLoss("binary")(logits, target[:, None].float()).item()
    assert got == pytest.approx(want, rel=5e-6)
    assert abs(theirs - want) > 1e-3


# Labels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_as_they_are_stored(dtype, kernel):
    logits, target = scene(2, 3, 3, 4, dtype=torch.float32)
    want = kernel.loss(sf.softmax_focal_loss, logits, target)
    assert torch.equal(kernel.loss(sf.softmax_focal_loss, logits, target.to(dtype)), want)


def test_labels_as_they_are_stored_elsewhere(kornia):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        with pytest.raises(RuntimeError, match="Long"):
            F.cross_entropy(logits, target.to(dtype), ignore_index=255)
        with pytest.raises(Exception, match=r"labels must be of dtype torch\.int64"):
            kornia.focal_loss(logits, target.to(dtype), alpha=None, ignore_index=255)


@pytest.mark.interpreted(2)
@activations
@pytest.mark.parametrize("label", [3, 254, -1])
def test_a_stray_label_makes_its_image_nan(activation, label, kernel):
    logits, target = scene(2, 3, 3, 4)
    target[0, 0, 0] = label
    logits.requires_grad_()
    got = kernel.sums(logits, target, activation, squared=True)
    for field in got:
        assert field[0].isnan().all()
        assert field[1].isfinite().all()
    (slope,) = torch.autograd.grad(got.positive_focal.sum(), logits)
    assert slope[0].isnan().any()
    assert slope[1].isfinite().all()


@activations
@pytest.mark.parametrize("value", [2.0, -0.5, math.nan])
def test_a_stray_dense_value_makes_its_image_nan(activation, value, kernel):
    target = torch.zeros(2, 3, 3, 4)
    target[1, 2, 0, 0] = value
    got = kernel.sums(torch.zeros(2, 3, 3, 4), target, activation)
    assert got.predicted[1].isnan().all()
    assert got.predicted[0].isfinite().all()


@pytest.mark.parametrize("label", [7, -1])
def test_a_stray_label_is_an_error_and_elsewhere_a_plausible_number(label, smp):
    logits, target = scene(2, 3, 7, 9)
    target[0, 0, 0] = label
    with pytest.raises(ValueError, match=rf"got {label} \(1 times\)"):
        sf.softmax_focal_loss(logits, target)
    theirs = smp.FocalLoss("multiclass", ignore_index=255)(logits, target)
    negative_of_every_class = torch.where(target == label, 255, target)
    assert theirs.isfinite()
    assert not torch.equal(theirs, smp.FocalLoss("multiclass", ignore_index=255)(logits, negative_of_every_class))


@pytest.mark.interpreted(2)
@activations
@pytest.mark.parametrize(
    ("dtype", "label", "ignore_index"), [(torch.uint8, 255, -1), (torch.int8, -1, 255), (torch.float16, 2048, 2049)]
)
def test_ignore_index_does_not_wrap_in_dense_targets(activation, dtype, label, ignore_index, kernel):
    logits, target = torch.randn(1, 3, 2, 3), torch.zeros(1, 3, 2, 3, dtype=dtype)
    target[0, 1, 0, 0] = label  # illegal, and not the label to ignore
    assert kernel.sums(logits, target, activation, ignore_index=ignore_index).valid.isnan().all()
    with pytest.raises(ValueError, match="Expected `target` to hold"):
        sf.focal_dice_loss(logits, target, activation=activation, ignore_index=ignore_index)


@pytest.mark.interpreted(1)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@activations
def test_ignored_logits_at_the_limits_of_their_dtype_do_not_matter(activation, smoothing, kernel):
    logits, target = scene(1, 3, 2, 3, dtype=torch.float32)
    target[0, 0, 0] = 255
    most = torch.finfo(torch.float32).max
    extreme = logits.clone()
    extreme[0, :, 0, 0] = torch.tensor([most, -most, 0.0])
    got, want = (kernel.sums(x, target, activation, label_smoothing=smoothing)[:6] for x in (extreme, logits))
    torch.testing.assert_close(got, want, **SINGLE)


def masked_by_hand(logits, target):
    """A focal loss as it is found in many a training script."""
    ignored = target == 255
    target[ignored] = 0
    loss = F.cross_entropy(logits, target, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).masked_fill(ignored, 0.0).sum() / (~ignored).sum()


@pytest.mark.interpreted(2)
@every_loss
def test_targets_and_weights_are_never_written_to(loss, options, kernel):
    logits, target = scene(2, 3, 3, 4, dtype=torch.float32)
    given = (logits, target, torch.rand(2, 3, 4))
    before = [tensor.clone() for tensor in given]
    value_and_grad(partial(kernel.loss, loss), *given, **options)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_targets_are_written_to_elsewhere():
    logits, target = scene(2, 3, 7, 9)
    first, second = masked_by_hand(logits, target), masked_by_hand(logits, target)
    assert second > first  # the second epoch finds no ignored pixel
