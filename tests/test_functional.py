"""The losses against an oracle, identities, peers and worked examples; their options, edges and errors."""

import math

import numpy as np
import pytest
import torch
from oracle import loss as oracle_loss
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F

from segfocal import functional as sf
from segfocal.functional import background_alpha, check_target

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def scene(*shape, dtype=torch.float64, seed=0):
    """Logits of this shape and class indices; some pixels are 255, class C - 1 is absent if C > 2."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, dtype=dtype, generator=generator) * 2
    target = torch.randint(max(shape[1] - (shape[1] > 2), 2), (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


def dense(target, num_classes):
    return torch.stack([target == c for c in range(num_classes)], 1)


def value_and_grad(loss, logits, *args, **options):
    x = logits.detach().clone().requires_grad_()
    value = loss(x, *args, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


# The oracle

FOCAL = {"softmax": sf.softmax_focal_loss, "sigmoid": sf.sigmoid_focal_loss}
FOCAL_OPTIONS = [
    {},
    {"gamma": 0.0},
    {"gamma": 0.5},
    {"gamma": [0.0, 0.5, 2.0]},
    {"alpha": 0.25},
    {"alpha": [0.1, 0.5, 0.9]},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.3, "alpha": [0.1, 0.5, 0.9], "gamma": [1.0, 2.0, 3.0]},
    {"ignore_index": 0},
]
REGION_OPTIONS = [
    {},
    {"smooth": 0.0},
    {"smooth": 0.0, "absent": "keep"},
    {"absent": "keep"},
    {"absent": "zero"},
    {"per_image": True},
    {"per_image": True, "absent": "zero", "smooth": 0.0},
    {"log": True},
    {"log": True, "per_image": True, "absent": "keep", "smooth": 0.0},
    {"classes": [2, 0]},
    {"classes": [2]},
    {"classes": (0, 2), "absent": "keep", "per_image": True},
    {"ignore_index": 1},
]


def targets(logits, target, kind, options):
    if kind == "index":
        return torch.where(target == 255, options.get("ignore_index", 255), target)
    soft = dense(target, logits.shape[1]).double()
    if kind == "soft":
        soft = soft * torch.rand(soft.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ignored = torch.rand(soft.shape, generator=torch.Generator().manual_seed(2)) < 0.1
    return soft.masked_fill(ignored, options.get("ignore_index", 255))


def check_against_oracle(function, part, logits, kind, activation, options, weighted):
    logits, target = scene(2, 3, 2, 3) if logits is None else logits
    target = targets(logits, target, kind, options)
    weight = torch.rand(target[:, 0].shape if kind != "index" else target.shape).double() if weighted else None
    if weighted:
        weight[0, 0, 0] = 0
    extra = {} if function in FOCAL.values() else {"activation": activation}
    got = function(logits, target, weight, **extra, **options)
    arrays = [None if t is None else t.numpy() for t in (logits, target, weight)]
    want = oracle_loss(*arrays, part=part, activation=activation, **options)
    torch.testing.assert_close(got, torch.as_tensor(np.asarray(want)), **EXACT)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["index", "dense", "soft"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("options", FOCAL_OPTIONS, ids=str)
def test_focal_loss_against_the_oracle(options, activation, kind, weighted):
    if kind != "index" and options.get("ignore_index", 255) in (0, 1):
        options = {"ignore_index": -1}
    last = "weighted" if activation == "softmax" else "positive"
    for reduction in ("mean", "sum", "none", last):
        chosen = {**options, "reduction": reduction}
        check_against_oracle(FOCAL[activation], "focal", None, kind, activation, chosen, weighted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("options", REGION_OPTIONS, ids=str)
def test_region_losses_against_the_oracle(options, activation, kind, weighted):
    if kind != "index" and options.get("ignore_index", 255) in (0, 1):
        options = {"ignore_index": -1}
    tversky = {"fp_weight": 0.3, "fn_weight": 0.8, "exponent": 0.75}
    for function, part, extra in (
        (sf.dice_loss, "dice", {}),
        (sf.dice_loss, "dice", {"squared": True}),
        (sf.jaccard_loss, "jaccard", {}),
        (sf.tversky_loss, "tversky", tversky),
    ):
        check_against_oracle(function, part, None, kind, activation, {**options, **extra}, weighted)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_focal_dice_loss_against_the_oracle(activation):
    last = "weighted" if activation == "softmax" else "positive"
    options = {"focal_weight": 0.3, "dice_weight": 2.0, "gamma": 1.5, "alpha": [0.1, 0.5, 0.9], "reduction": last}
    options |= {"label_smoothing": 0.1, "smooth": 0.5, "squared": True, "per_image": True, "absent": "zero"}
    check_against_oracle(sf.focal_dice_loss, "focal_dice", None, "index", activation, options, True)


@pytest.mark.parametrize("target_shape", ["index", "dense"])
def test_binary_sigmoid_against_the_oracle(target_shape):
    logits, target = scene(2, 1, 3, 4)
    target = target if target_shape == "index" else target.unsqueeze(1)
    for reduction in ("mean", "positive", "none"):
        options = {"alpha": 0.25, "reduction": reduction}
        want = oracle_loss(logits.numpy(), target.numpy(), part="focal", activation="sigmoid", **options)
        got = sf.sigmoid_focal_loss(logits, target, **options)
        torch.testing.assert_close(got, torch.as_tensor(np.asarray(want)), **EXACT)


# Identities and peers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gamma_0_is_cross_entropy(dtype, smoothing):
    logits, target = scene(2, 4, 7, 9, dtype=dtype)
    alpha = torch.tensor([0.2, 0.3, 1.5, 2.0], dtype=dtype)
    for reduction, theirs, a in (("mean", "mean", None), ("sum", "sum", alpha), ("weighted", "mean", alpha)):
        got = value_and_grad(
            sf.softmax_focal_loss,
            logits,
            target,
            gamma=0.0,
            alpha=a,
            reduction=reduction,
            label_smoothing=smoothing,
        )
        want = value_and_grad(
            F.cross_entropy,
            logits,
            target,
            weight=a,
            ignore_index=255,
            reduction=theirs,
            label_smoothing=smoothing,
        )
        torch.testing.assert_close(got, want)
    got = sf.softmax_focal_loss(logits, target, gamma=0.0, reduction="none")
    torch.testing.assert_close(got, F.cross_entropy(logits, target, ignore_index=255, reduction="none"))


def test_gamma_0_with_soft_targets_is_cross_entropy():
    logits, _ = scene(2, 4, 7, 9)
    soft = torch.rand(2, 4, 7, 9, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(sf.softmax_focal_loss(logits, soft, gamma=0.0), F.cross_entropy(logits, soft))


def test_two_class_softmax_is_binary_sigmoid_of_the_difference():
    logits, target = scene(2, 2, 7, 9)
    difference = logits[:, 1:] - logits[:, :1]
    for gamma in (0.0, 0.5, 2.0):
        two = sf.softmax_focal_loss(logits, target, gamma=gamma)
        torch.testing.assert_close(two, sf.sigmoid_focal_loss(difference, target, gamma=gamma), **EXACT)


@pytest.mark.parametrize("alpha", [0.25, -1])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_torchvision_sigmoid_focal_loss(alpha, gamma):
    from torchvision.ops import sigmoid_focal_loss as torchvision_focal  # here: each rank below imports this file

    logits, _ = scene(2, 3, 7, 9)
    target = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0)).round().double()
    for reduction in ("mean", "sum", "none"):
        want = value_and_grad(torchvision_focal, logits, target, alpha=alpha, gamma=gamma, reduction=reduction)
        ours = {"alpha": None if alpha < 0 else alpha, "gamma": gamma, "reduction": reduction}
        torch.testing.assert_close(value_and_grad(sf.sigmoid_focal_loss, logits, target, **ours), want, **EXACT)


def test_smp_focal_loss_is_one_against_the_rest():
    from segmentation_models_pytorch.losses import FocalLoss

    logits, target = scene(2, 3, 7, 9)
    target = target % 3
    want = value_and_grad(FocalLoss("multiclass", alpha=0.25), logits, target)
    torch.testing.assert_close(value_and_grad(sf.sigmoid_focal_loss, logits, target, alpha=0.25), want, **EXACT)


def test_smp_dice_jaccard_and_tversky():
    from segmentation_models_pytorch import losses as smp

    logits, target = scene(2, 3, 7, 9)
    target[target == 255] = 0
    s, options = 0.7, {"absent": "zero"}
    pairs = [
        (smp.DiceLoss("multiclass", smooth=s), sf.dice_loss, {"smooth": 2 * s}),
        (smp.JaccardLoss("multiclass", smooth=s), sf.jaccard_loss, {"smooth": s}),
        (
            smp.TverskyLoss("multiclass", smooth=s, alpha=0.3, beta=0.7),
            sf.tversky_loss,
            {"smooth": s, "fp_weight": 0.3, "fn_weight": 0.7},
        ),
    ]
    for theirs, ours, mine in pairs:
        want = value_and_grad(theirs, logits, target)
        torch.testing.assert_close(value_and_grad(ours, logits, target, **mine, **options), want, **EXACT)


def test_tversky_contains_dice_and_jaccard():
    logits, target = scene(2, 3, 7, 9)
    half = sf.tversky_loss(logits, target, fp_weight=0.5, fn_weight=0.5, smooth=0.5)
    torch.testing.assert_close(half, sf.dice_loss(logits, target, smooth=1.0), **EXACT)
    ones = sf.tversky_loss(logits, target, fp_weight=1.0, fn_weight=1.0)
    torch.testing.assert_close(ones, sf.jaccard_loss(logits, target), **EXACT)


# Worked examples


@pytest.mark.parametrize(
    ("logit", "label", "want"),
    [
        (0.1, 0, 0.1539),
        (0.2, 0, 0.1810),
        (0.4, 0, 0.2454),
        (0.9, 1, 0.0071),
        (0.6, 0, 0.3244),
        (0.3, 0, 0.2114),
        (0.5, 0, 0.2831),
        (0.8, 0, 0.4181),
    ],
)
def test_worked_sigmoid_examples(logit, label, want):
    got = sf.sigmoid_focal_loss(torch.tensor([[logit]]), torch.tensor([label]), alpha=0.25, gamma=2.0)
    assert got.item() == pytest.approx(want, abs=5e-5)


def test_no_positive_divides_by_one():
    logits = torch.tensor([[0.2, 0.4, 0.1, 0.8, 0.2]])
    got = sf.sigmoid_focal_loss(logits, torch.zeros(1, 5), alpha=0.25, reduction="positive")
    assert got.item() == pytest.approx(1.1794, abs=5e-5)


def test_worked_softmax_examples():
    logits = torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.4, 0.1], [0.2, 0.6, 0.2]]).log()
    got = sf.softmax_focal_loss(logits, torch.tensor([2, 0, 1]), gamma=0.0, reduction="none")
    assert got.tolist() == pytest.approx([0.2231, 0.6931, 0.5108], abs=5e-5)


def test_anchor_states():
    logits = torch.tensor([[[0.1, 0.9, 5.0, 0.4]]])
    got = sf.sigmoid_focal_loss(
        logits, torch.tensor([[0, 1, -1, 0]]), alpha=0.25, ignore_index=-1, reduction="positive"
    )
    assert got.item() == pytest.approx(0.1539 + 0.0071 + 0.2454, abs=1e-4)


def test_background_alpha():
    torch.testing.assert_close(background_alpha(0.25, 4), torch.tensor([0.25, 0.75, 0.75, 0.75]))
    logits, target = scene(2, 3, 7, 9)
    got = sf.softmax_focal_loss(logits, target, alpha=background_alpha(0.25, 3))
    torch.testing.assert_close(got, sf.softmax_focal_loss(logits, target, alpha=[0.25, 0.75, 0.75]), **EXACT)
    for bad in ((1.5, 3), (-0.1, 3), (math.nan, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="Expected `"):
            background_alpha(*bad)


# Settled details

EVERY = [
    (sf.softmax_focal_loss, {}),
    (sf.softmax_focal_loss, {"label_smoothing": 0.1}),
    (sf.softmax_focal_loss, {"reduction": "weighted", "alpha": [1.0, 2.0, 3.0]}),
    (sf.sigmoid_focal_loss, {"alpha": 0.25}),
    (sf.sigmoid_focal_loss, {"reduction": "positive"}),
    (sf.dice_loss, {}),
    (sf.dice_loss, {"smooth": 0.0, "log": True, "absent": "keep"}),
    (sf.dice_loss, {"activation": "sigmoid", "per_image": True, "squared": True}),
    (sf.jaccard_loss, {"smooth": 0.0}),
    (sf.tversky_loss, {"exponent": 0.75, "smooth": 0.0}),
    (sf.focal_dice_loss, {}),
    (sf.focal_dice_loss, {"activation": "sigmoid"}),
]
every = pytest.mark.parametrize(("loss", "options"), EVERY, ids=lambda v: getattr(v, "__name__", str(v)))


@every
def test_scaling_the_weights_changes_nothing(loss, options):
    logits, target = scene(2, 3, 7, 9)
    weight = torch.rand(2, 7, 9, dtype=torch.float64)
    options = {"smooth": 0.0, **options} if "smooth" in loss.__kwdefaults__ else options
    want = loss(logits, target, weight, **options)
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(loss(logits, target, scale * weight, **options), want, rtol=1e-9, atol=1e-9)


def test_the_least_divisor_of_positive_scales_with_the_weights():
    logits, target = scene(2, 3, 7, 9)
    nothing = torch.where(target == 255, 255.0, torch.zeros(2, 3, 7, 9, dtype=torch.float64).movedim(1, 0)).movedim(
        0, 1
    )
    want = sf.sigmoid_focal_loss(logits, nothing, reduction="sum")
    for scale in (1e-3, 1.0, 1e3):
        weight = torch.full((2, 7, 9), scale, dtype=torch.float64)
        got = sf.sigmoid_focal_loss(logits, nothing, weight, reduction="positive")
        torch.testing.assert_close(got, want, rtol=1e-9, atol=0.0)


@every
def test_a_weight_of_0_is_an_ignored_pixel_and_of_2_is_a_pixel_twice(loss, options):
    logits, target = scene(2, 3, 7, 9)
    weight = (target != 255).double()
    torch.testing.assert_close(loss(logits, target.clamp(max=2), weight, **options), loss(logits, target, **options))
    double = torch.ones(2, 7, 9)
    double[..., 0] = 2
    columns = [0, *range(9)]
    want = loss(logits[..., columns], target[..., columns], **options)
    torch.testing.assert_close(loss(logits, target, double, **options), want, **EXACT)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [0.0, math.nan, math.inf])
def test_everything_ignored_is_exactly_zero(loss, options, dtype, poison):
    logits = torch.full((2, 3, 7, 9), poison, dtype=dtype)
    target = torch.full((2, 7, 9), 255, dtype=torch.uint8)
    value, grad = value_and_grad(loss, logits, target, **options)
    assert value.item() == 0
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.dtype == dtype
    assert (grad == 0).all()


@pytest.mark.parametrize("reduction", ["mean", "weighted"])
def test_alpha_has_a_zero_gradient_when_everything_is_ignored(reduction):
    alpha = torch.ones(3, requires_grad=True)
    target = torch.full((2, 7, 9), 255, dtype=torch.uint8)
    sf.softmax_focal_loss(torch.zeros(2, 3, 7, 9), target, alpha=alpha, reduction=reduction).backward()
    assert (alpha.grad == 0).all()


@every
@pytest.mark.parametrize("shape", [(0, 3, 7, 9), (2, 3, 0, 9), (0, 3)])
def test_an_empty_batch_is_zero_and_connected(loss, options, shape):
    value, grad = value_and_grad(
        loss, torch.zeros(shape), torch.zeros(shape[:1] + shape[2:], dtype=torch.uint8), **options
    )
    assert value.item() == 0
    assert grad.shape == shape


@every
def test_one_ignored_image_and_a_pixel_without_spatial_dims(loss, options):
    logits, target = scene(3, 3, 7, 9)
    target[1] = 255
    kept = [0, 2]
    torch.testing.assert_close(loss(logits, target, **options), loss(logits[kept], target[kept], **options), **EXACT)
    flat = logits.movedim(1, -1).reshape(-1, 3)
    if not options.get("per_image"):
        torch.testing.assert_close(loss(flat, target.flatten(), **options), loss(logits, target, **options), **EXACT)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(loss, options, dtype):
    logits, target = scene(2, 3, 64, 65, dtype=torch.float32)
    low = (8 * logits).to(dtype)
    want, slope = value_and_grad(loss, low.float(), target, **options)
    with torch.autocast("cpu", dtype=dtype):
        got, low_slope = value_and_grad(loss, low, target, **options)
        inside = value_and_grad(loss, low.float(), target, **options)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
    assert torch.equal(low_slope, slope.to(dtype))
    torch.testing.assert_close(inside, (want, slope), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("gamma", [2.0, [2.0, 1.0, 0.5]])
def test_gradients_through_the_whole_loss(gamma):
    logits, target = scene(2, 3, 2, 2)
    alpha = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True)
    x = logits.requires_grad_()
    for activation, reduction in (("softmax", "weighted"), ("sigmoid", "positive")):
        options = {"activation": activation, "reduction": reduction, "gamma": gamma, "squared": True, "log": True}
        assert torch.autograd.gradcheck(lambda x, a: sf.focal_dice_loss(x, target, alpha=a, **options), (x, alpha))  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda x: sf.focal_dice_loss(x, target, **options), x)  # noqa: B023


def test_tversky_exponent_below_1_has_a_finite_gradient_at_a_perfect_score():
    target = torch.tensor([[0, 1, 0]], dtype=torch.uint8)
    logits = 200 * F.one_hot(target.long(), 2).movedim(-1, 1).float()
    for smooth in (0.0, 1.0):
        value, grad = value_and_grad(sf.tversky_loss, logits, target, exponent=0.5, smooth=smooth)
        assert value.item() == 0
        assert grad.isfinite().all()


def test_absent_classes():
    logits = torch.zeros(1, 2, 4, dtype=torch.float64)
    target = torch.zeros(1, 4, dtype=torch.uint8)  # predicted 2 and 2, actual 4 and 0
    for absent, want in (("skip", 1 / 3), ("keep", (1 / 3 + 1) / 2), ("zero", 1 / 6)):
        assert sf.dice_loss(logits, target, smooth=0.0, absent=absent).item() == pytest.approx(want)
    value, grad = value_and_grad(sf.dice_loss, logits, target, classes=[1])
    assert value.item() == 0
    assert (grad == 0).all()


def test_zero_over_zero_is_a_score_of_1():
    logits = torch.full((1, 1, 4), -math.inf)
    target = torch.zeros(1, 4, dtype=torch.uint8)
    for loss in (sf.dice_loss, sf.jaccard_loss, sf.tversky_loss):
        value, grad = value_and_grad(loss, logits, target, activation="sigmoid", smooth=0.0, absent="keep")
        assert value.item() == 0
        assert (grad == 0).all()


def test_log_of_a_score_of_0_is_bounded():
    logits = torch.tensor([[[-math.inf], [0.0]]])
    value, grad = value_and_grad(sf.dice_loss, logits, torch.tensor([[0]]), smooth=0.0, log=True)
    assert value.item() == pytest.approx(-math.log(1e-7))
    assert grad.isfinite().all()


def test_an_illegal_label_is_nan_where_it_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(sf, "visible", lambda tensor: False)
    logits, target = scene(2, 3, 7, 9)
    target[0, 0, 0] = 7
    for loss, options in EVERY:
        value, grad = value_and_grad(loss, logits, target, **options)
        assert value.isnan(), (loss, options)
        assert grad.isnan().any(), (loss, options)
    assert sf.dice_loss(logits, target, classes=[2]).isnan()
    marked = sf.softmax_focal_loss(logits, target, reduction="none").isnan()
    assert marked.nonzero().tolist() == [[0, 0, 0]]


@every
def test_targets_and_weights_are_never_written_to(loss, options):
    logits, target = scene(2, 3, 7, 9)
    given = (logits.clone(), target.to(torch.uint8), torch.rand(2, 7, 9))
    before = [t.clone() for t in given]
    loss(*given, **options)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@every
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integer_dtypes_give_the_same_loss(loss, options, dtype):
    logits, target = scene(2, 3, 7, 9)
    target = target % 2 if dtype == torch.bool else target
    assert torch.equal(loss(logits, target.to(dtype), **options), loss(logits, target, **options))


def test_channels_last_and_slices():
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    want = value_and_grad(sf.focal_dice_loss, logits, target)
    strided = torch.cat([logits, logits], 2).to(memory_format=torch.channels_last)[:, :, :7].requires_grad_()
    value = sf.focal_dice_loss(strided, target)
    torch.testing.assert_close((value.detach(), torch.autograd.grad(value, strided)[0]), want)


def test_a_compiled_loss_is_one_graph():
    logits, target = scene(2, 3, 7, 9)
    options = {"gamma": 1.5, "alpha": [0.1, 0.2, 0.3], "classes": [0, 1]}
    compiled = torch.compile(sf.focal_dice_loss, fullgraph=True, backend="eager")
    for activation in ("softmax", "sigmoid"):
        got = value_and_grad(compiled, logits, target, activation=activation, **options)
        want = value_and_grad(sf.focal_dice_loss, logits, target, activation=activation, **options)
        torch.testing.assert_close(got, want, **EXACT)
    target[0, 0, 0] = 7  # not looked at in a graph, so never a silently wrong number
    assert compiled(logits, target, activation="softmax", **options).isnan()


# Sums


def test_pixel_sums_add_up_over_tiles():
    logits, target = scene(2, 3, 7, 9)
    options = {"activation": "softmax", "gamma": 2.0, "ignore_index": 255}
    whole = sf.pixel_sums(logits, target, **options)
    tiles = [sf.pixel_sums(logits[..., part], target[..., part], **options) for part in (slice(4), slice(4, None))]
    for name in whole._fields[:6]:
        torch.testing.assert_close(sum(getattr(t, name) for t in tiles), getattr(whole, name), **EXACT)
    dice = 2 * whole.overlap.sum(0) / (whole.predicted + whole.actual).sum(0)
    torch.testing.assert_close(1 - dice[:2].mean(), sf.dice_loss(logits, target, smooth=0.0), **EXACT)


def test_parts_add_up():
    logits, target = scene(2, 3, 7, 9)
    options = sf.LossOptions(part="focal_dice", focal_weight=0.3, dice_weight=2.0, smooth=0.0)
    parts = sf.loss_parts(logits, target, None, options)
    assert list(parts) == ["total", "focal_per_class", "focal", "dice_per_class", "dice"]
    torch.testing.assert_close(parts["focal"] + parts["dice"], parts["total"], **EXACT)
    torch.testing.assert_close(parts["focal_per_class"].sum(), parts["focal"], **EXACT)
    torch.testing.assert_close(parts["focal"], 0.3 * sf.softmax_focal_loss(logits, target), **EXACT)
    torch.testing.assert_close(parts["dice"], 2.0 * parts["dice_per_class"].nanmean(), **EXACT)
    assert parts["dice_per_class"].isnan().tolist() == [False, False, True]


# All ranks

SYNCED = [
    (sf.softmax_focal_loss, {"reduction": "weighted", "alpha": [1.0, 2.0, 3.0]}),
    (sf.sigmoid_focal_loss, {"reduction": "positive"}),
    (sf.dice_loss, {}),
    (sf.dice_loss, {"per_image": True, "log": True}),
    (sf.focal_dice_loss, {"per_image": True, "squared": True}),
]


def _rank(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, target = scene(3, 3, 5, 4)
    target[0, :3] = 255
    weight = torch.rand(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mine = [[0], [1, 2]][rank]
    results = []
    for loss, options in SYNCED:
        net = nn.parallel.DistributedDataParallel(nn.Conv2d(3, 3, 1, dtype=torch.float64))
        with torch.no_grad():
            net.module.weight.copy_(torch.linspace(-1, 1, 9).view(3, 3, 1, 1))
            net.module.bias.zero_()
        value = loss(net(logits[mine]), target[mine], weight[mine], sync_dist=True, **options)
        value.backward()
        whole = nn.Conv2d(3, 3, 1, dtype=torch.float64)
        whole.load_state_dict(net.module.state_dict())
        want = loss(whole(logits), target, weight, **options)
        want.backward()
        results.append((value.detach(), net.module.weight.grad, want.detach(), whole.weight.grad))
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_give_the_loss_and_gradients_of_one_process(tmp_path):
    multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        for value, grad, want, want_grad in torch.load(tmp_path / f"{rank}.pt"):
            torch.testing.assert_close(value, want, **EXACT)
            torch.testing.assert_close(grad, want_grad, **EXACT)


def test_sync_dist_without_a_process_group_does_nothing():
    logits, target = scene(2, 3, 7, 9)
    for loss, options in SYNCED:
        assert torch.equal(loss(logits, target, sync_dist=True, **options), loss(logits, target, **options))


# Errors

TARGET = torch.zeros(2, 7, 9, dtype=torch.uint8)
BAD_OPTIONS = [
    ({"activation": "relu"}, ValueError, "Expected `activation` to be one of 'softmax', 'sigmoid', got 'relu'"),
    ({"reduction": "avg"}, ValueError, "Expected `reduction` to be one of"),
    ({"reduction": "none"}, ValueError, "got 'none'. Take FocalLoss"),
    ({"reduction": "positive"}, ValueError, "activation='softmax', got 'positive'. Use 'mean' or 'weighted'"),
    ({"reduction": "weighted", "activation": "sigmoid"}, ValueError, "Use 'mean' or 'positive'"),
    ({"absent": "ignore"}, ValueError, "Expected `absent` to be one of"),
    ({"backend": "cuda"}, ValueError, "Expected `backend` to be one of"),
    ({"backend": "tiled"}, ValueError, "The backend 'tiled' is not available in this version"),
    ({"backend": "triton"}, ValueError, "The backend 'triton' is not available in this version"),
    ({"gamma": -1.0}, ValueError, "Expected `gamma` to be finite and at least 0, got -1.0"),
    ({"gamma": math.nan}, ValueError, "Expected `gamma`"),
    ({"gamma": [1.0, math.inf, 1.0]}, ValueError, "Expected `gamma`"),
    ({"gamma": [1.0, 2.0]}, ValueError, "Expected `gamma` of 3 numbers, got 2"),
    ({"gamma": "2"}, TypeError, "Expected `gamma` to be a number or one number per class, got '2'"),
    ({"gamma": None}, TypeError, "Expected `gamma`"),
    ({"gamma": []}, TypeError, "Expected `gamma`"),
    ({"alpha": -0.1}, ValueError, "Expected `alpha` to be finite and at least 0, got -0.1"),
    (
        {"alpha": 1.5, "activation": "sigmoid"},
        ValueError,
        r"Expected `alpha` to be in \[0, 1\] for activation='sigmoid'",
    ),
    ({"alpha": [0.5, 0.5]}, ValueError, "Expected `alpha` of 3 numbers, got 2"),
    ({"alpha": torch.ones(4)}, ValueError, "Expected `alpha` of 3 numbers, got 4"),
    ({"alpha": torch.ones(3, 1)}, TypeError, "Expected `alpha`"),
    ({"alpha": torch.tensor([1.0, -1.0, 1.0])}, ValueError, "Expected `alpha`"),
    ({"alpha": "auto"}, TypeError, "Expected `alpha`"),
    ({"label_smoothing": 1.0}, ValueError, r"Expected `label_smoothing` to be in \[0, 1\), got 1.0"),
    ({"label_smoothing": -0.1}, ValueError, "Expected `label_smoothing`"),
    ({"smooth": -1}, ValueError, "Expected `smooth` to be finite and at least 0, got -1"),
    ({"smooth": math.inf}, ValueError, "Expected `smooth`"),
    ({"smooth": "1e-5"}, TypeError, "Expected `smooth` to be a number, got '1e-5'"),
    ({"smooth": True}, TypeError, "Expected `smooth`"),
    ({"focal_weight": -1.0}, ValueError, "Expected `focal_weight`"),
    ({"dice_weight": math.nan}, ValueError, "Expected `dice_weight`"),
    ({"per_image": "yes"}, TypeError, "Expected `per_image` to be a bool, got 'yes'"),
    ({"sync_dist": 1}, TypeError, "Expected `sync_dist` to be a bool"),
    ({"classes": []}, ValueError, "Expected `classes` to be different indices"),
    ({"classes": [0, 0]}, ValueError, "Expected `classes`"),
    ({"classes": [-1]}, ValueError, "Expected `classes`"),
    ({"classes": [3]}, ValueError, r"Expected `classes` to be different indices from 0 to 2, got \[3\]"),
    ({"classes": 1}, ValueError, "Expected `classes`"),
    ({"classes": [0.5]}, ValueError, "Expected `classes`"),
    ({"ignore_index": None}, TypeError, "Expected `ignore_index` to be an int, got None"),
    ({"ignore_index": 255.0}, TypeError, "Expected `ignore_index`"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=str)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message) as caught:
        sf.focal_dice_loss(torch.zeros(2, 3, 7, 9), TARGET, **options)
    assert str(caught.value).count(". ") >= 1, "no remedy"
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("options", [{"fp_weight": -1.0}, {"fn_weight": math.inf}, {"exponent": 0.0}], ids=str)
def test_bad_tversky_options(options):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(options))}` to be finite"):
        sf.tversky_loss(torch.zeros(2, 3, 7, 9), TARGET, **options)


X = torch.zeros(2, 3, 7, 9)
BAD_TENSORS = [
    ((X.long(), TARGET), TypeError, "Expected `logits` to have a floating dtype, got torch.int64"),
    ((X[0, 0, 0], TARGET), ValueError, r"Expected `logits` of shape \(B, C, \*S\) with C >= 1, got \(9,\)"),
    ((X[:, :1], TARGET), ValueError, "C >= 2 channels for activation='softmax'.*activation='sigmoid'"),
    ((X, TARGET[:, None]), ValueError, r"got \(2, 1, 7, 9\). Drop the channel: target.squeeze\(1\)"),
    ((X, TARGET[..., None].expand(2, 7, 9, 3)), ValueError, r"target.movedim\(-1, 1\)"),
    ((X, TARGET[:, :6]), ValueError, r"Expected `target` of shape \(2, 7, 9\) or \(dense\) \(2, 3, 7, 9\).*Resize"),
    ((X, TARGET.float()), TypeError, "class indices to have an integer dtype, got torch.float32"),
    ((X, TARGET + 3), ValueError, r"Expected `target` to hold 0 to 2 or ignore_index=255, got 3 \(126 times\)"),
    ((X, X + 2), ValueError, r"Expected `target` to hold \[0, 1\] or ignore_index=255, got 2.0 \(378 times\)"),
    ((X, X + math.nan), ValueError, "got nan"),
    ((X, TARGET, torch.ones(7, 9)), ValueError, r"Expected `weight` of shape \(2, 7, 9\), got \(7, 9\)"),
    ((X, TARGET, -torch.ones(2, 7, 9)), ValueError, "Expected `weight` to be at least 0, got -1"),
    ((X, TARGET, torch.ones(2, 7, 9, requires_grad=True)), ValueError, r"Pass weight.detach\(\)"),
    ((X, X.clone().requires_grad_()), ValueError, r"Pass target.detach\(\)"),
    ((X, TARGET.to("meta")), ValueError, "Expected `target` on cpu like `logits`, got meta"),
]


@pytest.mark.parametrize(("tensors", "error", "message"), BAD_TENSORS)
def test_bad_tensors(tensors, error, message):
    with pytest.raises(error, match=message):
        sf.focal_dice_loss(*tensors)
    with pytest.raises(error, match=message):
        sf.softmax_focal_loss(*tensors, reduction="none")


@pytest.mark.parametrize("ignore_index", [0, 1])
def test_a_dense_target_cannot_ignore_0_or_1(ignore_index):
    with pytest.raises(ValueError, match="Expected `ignore_index` other than 0 and 1 for a dense target"):
        sf.dice_loss(X, X, ignore_index=ignore_index)


def test_check_target_lists_each_illegal_value():
    assert check_target(torch.tensor([0, 2, 255], dtype=torch.uint8), 3) is None
    assert check_target(torch.tensor([0, -100]), 3, ignore_index=-100) is None
    with pytest.raises(
        ValueError, match=r"0 to 2 or ignore_index=255, got -1 \(1 times\), 3 \(2 times\), 7 \(1 times\)"
    ):
        check_target(torch.tensor([3, 7, -1, 0, 3, 255]), 3)
    with pytest.raises(ValueError, match=r"255 \(1 times\)\. Remap"):
        check_target(torch.arange(256), 1, ignore_index=0)
    with pytest.raises(ValueError, match="and 41 other values"):
        check_target(torch.arange(300), 1, ignore_index=44)
    assert check_target(torch.tensor([0, 1]), 1) is None
    with pytest.raises(TypeError, match=r"target.long\(\)"):
        check_target(torch.zeros(3), 3)


def test_binary_labels_are_0_and_1():
    with pytest.raises(ValueError, match=r"0 to 1 or ignore_index=255, got 2 \(1 times\)"):
        sf.sigmoid_focal_loss(torch.zeros(1, 1, 3), torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"out": torch.zeros(1, 2, 3)}, torch.zeros(1, 3, dtype=torch.uint8)), r"`logits`.*got dict\. Pass outputs"),
        ((torch.zeros(1, 2, 3), [[0, 1, 0]]), "`target` to be a tensor, got list"),
        ((torch.zeros(1, 2, 3), None), "`target` to be a tensor, got NoneType"),
        ((torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.uint8), 1.0), "`weight` to be a tensor, got float"),
    ],
)
def test_what_is_no_tensor_is_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        sf.focal_dice_loss(*arguments)
