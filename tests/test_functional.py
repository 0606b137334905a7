"""The losses against an oracle and identities; their settled details and errors.

Peers and worked examples are in test_parity.py, several processes in test_ranks.py, the edges of arithmetic in
test_traps.py.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
from oracle import loss as oracle_loss
from scenes import EXACT, OurCalls, activations, dense, scene, value_and_grad
from torch.nn import functional as F

from segfocal import functional as sf
from segfocal.functional import check_target

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


def check_against_oracle(loss, part, kind, activation, weighted, close=EXACT, **options):
    """`loss(logits, target, weight, **options)` is what a loop over pixels gives."""
    if kind != "index" and options.get("ignore_index", 255) in (0, 1):
        options["ignore_index"] = -1
    ignore_index = options.get("ignore_index", 255)
    logits, target = scene(2, 3, 2, 3)
    generator = torch.Generator().manual_seed(1)
    if kind == "index":
        target = torch.where(target == 255, ignore_index, target)
    else:
        shares = torch.rand(logits.shape, dtype=torch.float64, generator=generator) if kind == "soft" else 1.0
        ignored = torch.rand(logits.shape, generator=generator) < 0.1
        target = (dense(target, 3).double() * shares).masked_fill(ignored, ignore_index)
    weight = torch.rand(2, 2, 3, generator=generator).double() if weighted else None
    if weighted:
        weight[0, 0, 0] = 0
    got = loss(logits, target, weight, **options)
    arrays = [None if t is None else t.numpy() for t in (logits, target, weight)]
    want = oracle_loss(*arrays, part=part, activation=activation, **options)
    torch.testing.assert_close(got, torch.as_tensor(np.asarray(want)), check_dtype=False, **close)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["index", "dense", "soft"])
@activations
@pytest.mark.parametrize("options", FOCAL_OPTIONS, ids=str)
def test_focal_loss_against_the_oracle(options, activation, kind, weighted, wide_backend):
    last = "weighted" if activation == "softmax" else "positive"
    for reduction in ("mean", "sum", "none", last):
        backend = "auto" if reduction == "none" else wide_backend
        loss = partial(FOCAL[activation], backend=backend)
        check_against_oracle(loss, "focal", kind, activation, weighted, **options, reduction=reduction)


REGIONS = [
    (sf.dice_loss, "dice", {}),
    (sf.dice_loss, "dice", {"squared": True}),
    (sf.jaccard_loss, "jaccard", {}),
    (sf.tversky_loss, "tversky", {"fp_weight": 0.3, "fn_weight": 0.8, "exponent": 0.75}),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["index", "soft"])
@activations
@pytest.mark.parametrize("options", REGION_OPTIONS, ids=str)
def test_region_losses_against_the_oracle(options, activation, kind, weighted, wide_backend):
    for function, part, extra in REGIONS:
        loss = partial(function, activation=activation, backend=wide_backend)
        check_against_oracle(loss, part, kind, activation, weighted, **options, **extra)


@pytest.mark.interpreted(4)
@activations
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_every_backend_against_the_oracle(kind, activation, kernel):
    """What a backend knows of: gamma, smoothing, squares, ignored places and weights."""
    loss = partial(kernel.loss, sf.focal_dice_loss, activation=activation)
    last = "weighted" if activation == "softmax" else "positive"
    options = {"focal_weight": 0.3, "dice_weight": 2.0, "alpha": [0.1, 0.5, 0.9], "reduction": last, "smooth": 0.5}
    for gamma, squared in ((1.5, True), (0.0, False), ([0.0, 0.5, 3.0], False)):
        options |= {"gamma": gamma, "squared": squared, "label_smoothing": 0.1 if squared else 0.0}
        options |= {"per_image": squared, "absent": "zero" if squared else "skip"}
        check_against_oracle(loss, "focal_dice", kind, activation, True, close=kernel.close, **options)


@pytest.mark.parametrize("is_dense", [False, True])
def test_binary_sigmoid_against_the_oracle(is_dense, wide_backend):
    logits, target = scene(2, 1, 3, 4)
    target = target.unsqueeze(1) if is_dense else target
    for reduction in ("mean", "positive", "none"):
        options = {"alpha": 0.25, "reduction": reduction}
        want = oracle_loss(logits.numpy(), target.numpy(), part="focal", activation="sigmoid", **options)
        backend = "auto" if reduction == "none" else wide_backend
        got = sf.sigmoid_focal_loss(logits, target, backend=backend, **options)
        torch.testing.assert_close(got, torch.as_tensor(np.asarray(want)), **EXACT)


# Identities


def test_two_class_softmax_is_binary_sigmoid_of_the_difference(wide_backend):
    logits, target = scene(2, 2, 7, 9)
    difference = logits[:, 1:] - logits[:, :1]
    for gamma in (0.0, 0.5, 2.0):
        options = {"gamma": gamma, "backend": wide_backend}
        two = sf.softmax_focal_loss(logits, target, **options)
        torch.testing.assert_close(two, sf.sigmoid_focal_loss(difference, target, **options), **EXACT)


def test_tversky_contains_dice_and_jaccard():
    logits, target = scene(2, 3, 7, 9)
    half = sf.tversky_loss(logits, target, fp_weight=0.5, fn_weight=0.5, smooth=0.5)
    torch.testing.assert_close(half, sf.dice_loss(logits, target, smooth=1.0), **EXACT)
    ones = sf.tversky_loss(logits, target, fp_weight=1.0, fn_weight=1.0)
    torch.testing.assert_close(ones, sf.jaccard_loss(logits, target), **EXACT)


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
    nothing = torch.zeros_like(logits).masked_fill((target == 255)[:, None], 255)
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
@pytest.mark.parametrize(("activation", "reduction"), [("softmax", "weighted"), ("sigmoid", "positive")])
def test_gradients_through_the_whole_loss(activation, reduction, gamma, wide_backend):
    logits, target = scene(2, 3, 2, 2)
    alpha = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True)
    options = {"activation": activation, "reduction": reduction, "gamma": gamma, "squared": True, "log": True}

    def loss(x, alpha):
        return sf.focal_dice_loss(x, target, alpha=alpha, backend=wide_backend, **options)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), alpha))
    if wide_backend == "reference":
        assert torch.autograd.gradgradcheck(loss, (logits, alpha))


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
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integer_dtypes_give_the_same_loss(loss, options, dtype):
    logits, target = scene(2, 3, 7, 9)
    target = target % 2 if dtype == torch.bool else target
    assert torch.equal(loss(logits, target.to(dtype), **options), loss(logits, target, **options))


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


# Backends


def test_auto_is_tiled_on_the_cpu():
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    with OurCalls() as calls:
        sf.focal_dice_loss(logits, target)
    assert calls.names == {"segfocal::tiled_sums"}


def test_auto_is_the_reference_where_nothing_faster_is(monkeypatch):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    monkeypatch.setattr(sf, "_HAS_NUMBA", False)
    with OurCalls() as calls:
        sf.focal_dice_loss(logits, target)
    assert calls.names == set()


def test_the_least_divisor_does_not_wrap():
    logits, weight = torch.zeros(1, 256, 8), torch.full((1, 8), 1e-3)
    wide = torch.full((1, 8), 255)
    options = {"ignore_index": -1, "reduction": "positive"}
    got = sf.sigmoid_focal_loss(logits, wide.to(torch.uint8), weight, **options)
    torch.testing.assert_close(got, sf.sigmoid_focal_loss(logits, wide, weight, **options))


def test_a_gamma_that_is_learnt_needs_the_reference():
    logits, target = scene(2, 3, 7, 9)
    gamma = torch.ones(3, dtype=torch.float64, requires_grad=True)
    sf.softmax_focal_loss(logits, target, gamma=gamma, backend="reference").backward()
    assert gamma.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"Expected `gamma` to be a constant for backend='auto'.*'reference'"):
        sf.softmax_focal_loss(logits, target, gamma=gamma)


def test_a_backend_asked_for_by_name_is_used_or_raises(monkeypatch):
    logits, target = scene(2, 3, 7, 9)
    with pytest.raises(ValueError, match=r"triton computes in float32, got float64\. Use backend='auto'"):
        sf.dice_loss(logits, target, backend="triton")
    with pytest.raises(ValueError, match="Expected `backend` to be 'auto' or 'reference' for reduction='none'"):
        sf.softmax_focal_loss(logits, target, reduction="none", backend="tiled")
    tiled = pytest.importorskip("segfocal.kernels.tiled")
    away, options = logits.to("meta"), {"activation": "softmax", "gamma": 2.0, "ignore_index": 255}
    with pytest.raises(ValueError, match=r"`logits` on the CPU for backend='tiled', got meta\. Pass backend='auto'"):
        tiled.pixel_sums(away, target.to("meta"), **options)
    for package, backend in {"triton": "triton", "numba": "tiled"}.items():
        monkeypatch.setattr(sf, f"_HAS_{package.upper()}", False)
        with pytest.raises(ValueError, match=f"Expected {package} to be installed for `backend` '{backend}', got none"):
            sf.dice_loss(logits.float(), target, backend=backend)


def test_a_backend_asked_for_is_used(kernel):
    logits, target = scene(1, 3, 2, 3, dtype=torch.float32)
    with OurCalls() as calls:
        kernel.loss(sf.focal_dice_loss, logits, target)
    assert calls.names == (set() if kernel.name == "reference" else {f"segfocal::{kernel.name}_sums"})


def test_triton_has_no_float64(kernel):
    if kernel.wide:
        pytest.skip("it has")
    logits, target = scene(1, 3, 2, 3)
    with pytest.raises((TypeError, ValueError), match="float64"):
        sf.focal_dice_loss(logits.to(kernel.device), target.to(kernel.device), backend=kernel.name)


def test_a_loss_map_is_no_pass(fused):
    logits, target = scene(1, 3, 2, 3, dtype=torch.float32)
    want = sf.softmax_focal_loss(logits, target, reduction="none")
    assert torch.equal(sf.softmax_focal_loss(logits, target, reduction="none", backend="reference"), want)
    with pytest.raises(ValueError, match=r"Expected `backend`.*none"):
        fused.loss(sf.softmax_focal_loss, logits, target, reduction="none")


# Errors

TARGET = torch.zeros(2, 7, 9, dtype=torch.uint8)
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
    ((X, TARGET, torch.full((2, 7, 9), math.nan)), ValueError, "Expected `weight` to be at least 0, got nan"),
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
