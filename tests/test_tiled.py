"""What can go wrong in the backend that Numba compiles, and in no other."""

import os
import subprocess
import sys

import pytest
import torch
from scenes import scene

import segfocal
from segfocal import functional as sf

pytest.importorskip("numba")
SOFTMAX = {"activation": "softmax", "ignore_index": 255}


def slopes(logits, target, weight, backend, **options):
    """The gradients by each differentiable sum, in float64."""
    x = logits.to(torch.float64 if backend == "reference" else torch.float32).requires_grad_()
    sums = sf.pixel_sums(x, target, weight=weight, backend=backend, **SOFTMAX, **options)
    fields = ("positive_focal", "overlap", "predicted", "predicted_squared")
    return [torch.autograd.grad(getattr(sums, field)[:, 1].sum(), x, retain_graph=True)[0].double() for field in fields]


@pytest.mark.parametrize("weight", [1e-9, 1.0, 1e5, 1e10])
@pytest.mark.parametrize("shift", [-300, -41, -38, -30, 30, 38, 41, 300])
def test_exponentials_of_any_size_meet_weights_of_any_size(shift, weight):
    logits, target = scene(1, 3, 20, 20)
    logits = (logits + shift).float()  # the same numbers for both
    weight = torch.full((1, 20, 20), weight)
    got = slopes(logits, target, weight, "tiled", gamma=0.0, squared=True)
    for mine, exact in zip(got, slopes(logits, target, weight, "reference", gamma=0.0, squared=True), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("ignore_index", [2**24 + 1, 2**31 - 1, -(2**40)])
def test_a_dense_target_ignores_what_no_float32_is(ignore_index):
    logits, _ = scene(1, 2, 8, 9, dtype=torch.float32)
    target = torch.zeros(1, 2, 8, 9, dtype=torch.int64)
    target[:, 1] = 1
    target[..., 3] = ignore_index
    small = target.masked_fill(target == ignore_index, 255)
    want = sf.softmax_focal_loss(logits, small, backend="tiled")
    assert torch.equal(sf.softmax_focal_loss(logits, target, ignore_index=ignore_index, backend="tiled"), want)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("is_dense", [False, True])
def test_rows_of_two_pixels_in_a_larger_tensor(activation, is_dense):
    wide = torch.randn(2, 3, 30, 40, 5)
    target = torch.randint(2, (2, 3, 30, 40, 5) if is_dense else (2, 30, 40, 5))
    losses = []
    for logits in (wide[..., :2], wide[..., :2].contiguous()):
        x = logits.detach().requires_grad_()
        loss = segfocal.FocalDiceLoss(activation, backend="tiled")(x, target[..., :2])
        losses.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    torch.testing.assert_close(*losses)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch's own forward mode
def test_a_forward_mode_derivative_is_never_left_out():
    logits, target = scene(1, 3, 8, 9)
    direction = torch.ones_like(logits).cumsum(1)

    def slope(backend):
        loss = torch.func.jvp(lambda x: sf.focal_dice_loss(x, target, backend=backend), (logits,), (direction,))
        return loss[1]

    torch.testing.assert_close(slope("auto"), slope("reference"))
    assert slope("auto") != 0
    with pytest.raises(ValueError, match=r"without a tangent for backend='tiled'.*Use backend='auto'"):
        slope("tiled")


def test_images_of_few_pixels_are_left_to_the_reference():
    """Twenty thousand of them took six seconds in blocks."""
    assert sf._fastest(torch.zeros(2, 3, 31)) == "reference"
    assert sf._fastest(torch.zeros(2, 3, 4, 8)) == "tiled"


def test_a_dtype_that_is_not_compiled_for_is_widened():
    logits, target = scene(1, 3, 8, 9, dtype=torch.float32)
    eighths = logits.to(torch.float8_e5m2)
    got = sf.softmax_focal_loss(eighths, target, backend="tiled")
    assert torch.equal(got, sf.softmax_focal_loss(eighths.float(), target, backend="tiled"))


def python(code, **environment):
    """Run a program in a process of its own."""
    words = [sys.executable, "-W", "ignore", "-c", f"import torch, segfocal\n{code}"]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_a_loss_while_the_interpreter_ends():
    logits = "torch.zeros(4, 12, 200, 200), torch.zeros(4, 200, 200, dtype=torch.uint8)"
    result = python(f"import atexit\natexit.register(lambda: print(float(segfocal.DiceLoss()({logits}))))")
    assert 0 < float(result.stdout) < 1, result.stderr


def test_where_numba_may_not_compile_the_reference_does():
    call = "print(float(segfocal.DiceLoss(backend={!r})(torch.zeros(1, 2, 8, 9), torch.zeros(1, 8, 9).long())))"
    assert float(python(call.format("auto"), NUMBA_DISABLE_JIT="1").stdout) > 0
    result = python(call.format("tiled"), NUMBA_DISABLE_JIT="1")
    assert "ValueError: Expected Numba to compile for backend='tiled'" in result.stderr
