"""The sums themselves: their formulas, their numerics, and every way in which logits and targets may be laid out."""

import ast
import math
from pathlib import Path

import pytest
import torch

import segfocal.kernels
from segfocal.kernels import PixelSums, reference

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


def scene(*shape, dtype=torch.float64, classes=None, seed=0):
    """Logits of this shape and class indices, some of them 255."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, dtype=dtype, generator=generator) * 2
    target = torch.randint(classes or shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


def sums(logits, target, activation="softmax", gamma=2.0, ignore_index=255, **options):
    return reference.pixel_sums(
        logits, target, activation=activation, gamma=gamma, ignore_index=ignore_index, **options
    )


def plain(logits, target, activation, gamma, weight):
    """The formulas of the contract, written with one-hot tensors."""
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    valid = (target != 255).unsqueeze(1)
    y = torch.stack([target == c for c in range(p.shape[1])], 1).double()
    m = valid * weight.unsqueeze(1)
    positive, negative = m * y * (1 - p) ** gamma * -p.log(), m * (1 - y) * p**gamma * -(1 - p).log()
    terms = [positive, negative if activation == "sigmoid" else 0 * negative, m * p * y, m * p, m * y, m + 0 * y]
    terms += [m * p * p, m * y * y]
    return PixelSums(*(term.unsqueeze(-1).flatten(2).sum(-1) for term in terms))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (2, 3), (3, 2, 5), (1, 4, 2, 3, 4)])
def test_every_field_is_its_formula(activation, shape):
    logits, target = scene(*shape)
    weight = torch.rand(target.shape, dtype=torch.float64) + 0.1
    want = plain(logits, target, activation, 1.5, weight)
    got = sums(logits, target, activation, 1.5, weight=weight, squared=True)
    for name, a, b in zip(PixelSums._fields, got, want, strict=True):
        assert a.shape == shape[:2], name
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_squares_are_summed_only_when_asked_for():
    got = sums(*scene(2, 3, 7, 9))
    assert got.predicted_squared is None
    assert got.actual_squared is None


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_dense_one_hot_equals_class_indices(activation):
    logits, target = scene(2, 3, 7, 9)
    dense = torch.stack([target == c for c in range(3)], 1)
    ignored = (target == 255).unsqueeze(1).expand_as(dense)
    want = sums(logits, target, activation, squared=True)
    for typed in (dense.double(), dense.to(torch.uint8), dense.long(), dense.float()):
        got = sums(logits, typed.masked_fill(ignored, 255), activation, squared=True)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_every_integer_dtype(dtype, activation):
    logits, target = scene(2, 3, 7, 9)
    ignore_index = 127 if dtype == torch.int8 else 255
    typed = torch.where(target == 255, ignore_index, target).to(dtype)
    before = typed.clone()
    got = sums(logits, typed, activation, ignore_index=ignore_index)
    for a, b in zip(got[:6], sums(logits, target, activation)[:6], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(typed, before)


def test_the_extremes_of_uint8_are_not_minus_one():
    logits = torch.zeros(1, 256, 2, dtype=torch.float64)
    got = sums(logits, torch.tensor([[255, 254]], dtype=torch.uint8), ignore_index=-1)
    assert got.actual[0, 254:].tolist() == [1, 1]
    assert got.valid[0, 0] == 2


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("layout", ["channels_last", "slice", "expanded"])
def test_strides_change_nothing(activation, layout):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    strided = {
        "channels_last": logits.to(memory_format=torch.channels_last),
        "slice": torch.cat([logits, logits], 3)[..., :9],
        "expanded": logits[:1].expand(2, -1, -1, -1),
    }[layout]
    sliced = torch.stack([target, target], -1)[..., 0]
    for a, b in zip(
        sums(strided, sliced, activation)[:6], sums(strided.contiguous(), target, activation)[:6], strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


CASES = [
    ("softmax", "index", 0.0),
    ("softmax", "index", 2.0),
    ("softmax", "index", "per class"),
    ("softmax", "dense", 0.5),
    ("softmax", "smooth", 1.5),
    ("sigmoid", "index", 0.0),
    ("sigmoid", "index", 0.5),
    ("sigmoid", "dense", 2.0),
    ("sigmoid", "smooth", "per class"),
]


@pytest.mark.parametrize(("activation", "kind", "gamma"), CASES)
def test_gradients_of_both_orders(activation, kind, gamma):
    logits, target = scene(2, 3, 2, 2)
    gamma = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64) if gamma == "per class" else gamma
    if kind == "dense":
        target = torch.rand(2, 3, 2, 2, dtype=torch.float64)
        target[0, 0, 0] = 255
    weight = torch.rand(2, 2, 2, dtype=torch.float64)
    options = {"weight": weight, "squared": True, "label_smoothing": 0.2 if kind == "smooth" else 0.0}

    def function(x):
        got = sums(x, target, activation, gamma, **options)
        return tuple(field for field in got if field.requires_grad)

    x = logits.requires_grad_()
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def exact_focal(margin, gamma):
    """FL and its slope in r, by formulas that hold for r << 0 in float64."""
    r = -margin
    q, softplus = 1 / (1 + math.exp(-r)), math.log1p(math.exp(r))
    return q**gamma * softplus, q**gamma * (gamma * (1 - q) * softplus + q)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("margin", [0.5, 8.0, 16.0, 18.0, 24.0, 28.0])
def test_confident_pixels_keep_their_digits_in_float32(activation, gamma, margin):
    x = torch.zeros(1, 2 if activation == "softmax" else 1, 1)
    x[0, 0] = margin
    x.requires_grad_()
    target = torch.full((1, 1), 0 if activation == "softmax" else 1)
    loss = sums(x, target, activation, gamma).positive_focal.sum()
    (slope,) = torch.autograd.grad(loss, x)
    want, want_slope = exact_focal(margin, gamma)
    assert loss.item() == pytest.approx(want, rel=5e-6, abs=0.0)
    assert slope[0, 0].item() == pytest.approx(-want_slope, rel=5e-6, abs=0.0)


def test_surprising_pixels_keep_their_digits_in_float64():
    x = torch.tensor([[[-20.5]]], dtype=torch.float64, requires_grad=True)
    loss = sums(x, torch.tensor([[1]]), "sigmoid", 0.0).positive_focal.sum()
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.item() == pytest.approx(20.5 + math.log1p(math.exp(-20.5)), rel=1e-14, abs=0.0)
    assert slope.item() == pytest.approx(-1 / (1 + math.exp(-20.5)), rel=1e-14, abs=0.0)


@pytest.mark.parametrize("smoothing", [0.0, 1e-30])
def test_confident_pixels_keep_their_digits_on_the_dense_path(smoothing):
    x = torch.tensor([[[20.0], [0.0], [1.0]]])
    got = sums(x, torch.tensor([[0]]), gamma=2.0, label_smoothing=smoothing).positive_focal[0, 0]
    q = (1 + math.e) / (1 + math.e + math.exp(20))
    assert got.item() == pytest.approx(q**2 * -math.log1p(-q), rel=5e-6, abs=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("margin", [17.0, 60.0, 1000.0, 60000.0])
def test_gradients_are_finite_where_p_is_one(dtype, activation, gamma, margin):
    x = torch.zeros(1, 3, 2, dtype=dtype)
    x[0, 0], x[0, 1] = margin, -margin
    x.requires_grad_()
    for target in (torch.tensor([[0, 0]]), torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])):
        got = sums(x, target, activation, gamma)
        loss = got.positive_focal.sum() + got.negative_focal.sum()
        (slope,) = torch.autograd.grad(loss, x)
        assert slope.dtype == dtype
        assert loss.isfinite()
        assert slope.isfinite().all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_minus_infinity_on_another_class_is_finite(activation, classes, dense, gamma):
    x = torch.randn(1, classes, 5, generator=torch.Generator().manual_seed(0))
    x[:, 1] = -math.inf
    x.requires_grad_()
    target = torch.zeros(1, 5, dtype=torch.int64)
    if dense:
        target = torch.zeros(1, classes, 5)
        target[:, 0] = 1
    got = sums(x, target, activation, gamma, squared=True)
    loss = sum(field.sum() for field in got)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert slope.isfinite().all()
    assert (slope[:, 1] == 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["index", "dense", "weight"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_of_ignored_pixels_do_not_matter(activation, smoothing, kind, poison):
    logits, target = scene(2, 3, 7, 9)
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    weight = None
    if kind == "dense":
        target = torch.stack([target == c for c in range(3)], 1).double().masked_fill(ignored, 255)
    if kind == "weight":
        weight, target = (target != 255).double(), target.clamp(max=2)
    results = []
    for fill in (0.0, poison):
        x = logits.masked_fill(ignored, fill).requires_grad_()
        got = sums(x, target, activation, 0.5, weight=weight, squared=True, label_smoothing=smoothing)
        results.append((torch.stack(list(got)), *torch.autograd.grad(torch.stack(list(got)).sum(), x)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[1][1][ignored] == 0).all()


def test_a_dense_pixel_is_ignored_whole_by_softmax_and_by_channel_by_sigmoid():
    logits = torch.zeros(1, 3, 2, dtype=torch.float64)
    target = torch.tensor([[[1, 255], [0, 1], [0, 0]]])
    assert sums(logits, target, "softmax").valid.tolist() == [[1, 1, 1]]
    assert sums(logits, target, "sigmoid").valid.tolist() == [[1, 2, 2]]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("label", [3, 254, -1])
def test_an_illegal_label_makes_its_image_nan(activation, label):
    logits, target = scene(2, 3, 7, 9)
    target[0, 0, 0] = label
    logits.requires_grad_()
    got = sums(logits, target, activation, squared=True)
    for field in got:
        assert field[0].isnan().all()
        assert field[1].isfinite().all()
    (slope,) = torch.autograd.grad(got.positive_focal.sum(), logits)
    assert slope[0].isnan().any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_illegal_dense_value_makes_its_image_nan(activation):
    logits, _ = scene(2, 3, 7, 9)
    target = torch.zeros(2, 3, 7, 9)
    target[1, 2, 0, 0] = 2.0
    got = sums(logits, target, activation)
    assert got.predicted[1].isnan().all()
    assert got.predicted[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_half_precision_logits_are_summed_in_float32(dtype, activation):
    logits, target = scene(1, 3, 300, 300, dtype=torch.float32)
    low = logits.to(dtype).requires_grad_()
    high = low.detach().float().requires_grad_()
    got, want = sums(low, target, activation), sums(high, target, activation)
    for a, b in zip(got[:6], want[:6], strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    (slope,) = torch.autograd.grad(got.overlap.sum(), low)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope, torch.autograd.grad(want.overlap.sum(), high)[0].to(dtype))


def test_counts_do_not_stall_at_2_to_the_24():
    pixels = 2**24 + 2**20
    with torch.no_grad():
        got = sums(torch.zeros(1, 2, 1).expand(1, 2, pixels), torch.zeros(1, 1, dtype=torch.uint8).expand(1, pixels))
    assert got.actual[0].tolist() == [pixels, 0]
    assert got.valid[0].tolist() == [pixels, pixels]
    torch.testing.assert_close(got.predicted[0, 0].item(), pixels / 2, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got.overlap[0, 0].item(), pixels / 2, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got.positive_focal[0, 0].item(), pixels / 4 * math.log(2), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("shape", [(0, 3, 7, 9), (2, 3, 0, 9), (0, 3)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_empty_batches_and_spatial_dims(shape, activation, smoothing):
    x = torch.zeros(shape, requires_grad=True)
    got = sums(x, torch.zeros(shape[0], *shape[2:], dtype=torch.uint8), activation, label_smoothing=smoothing)
    assert all(field.shape == shape[:2] for field in got[:6])
    torch.stack(list(got[:4])).sum().backward()
    assert x.grad.shape == shape
    assert all((field == 0).all() for field in got[:6])


def test_backends_import_the_contract_and_nothing_else_of_segfocal():
    for path in Path(segfocal.kernels.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert {m for m in modules if m.startswith("segfocal")} <= {"segfocal.kernels"}, path.name
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), path.name
