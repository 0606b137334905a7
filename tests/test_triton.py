"""What only the Triton backend has: operators, launches and layouts, and code compiled without a GPU.

The behaviour that all backends share is in test_kernels.py and test_traps.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scenes import scene

from segfocal.kernels import reference

pytest.importorskip("triton")
module = pytest.importorskip("segfocal.kernels.triton")

SCRIPT = Path(__file__).with_name("compile_triton.py")


def sums(x, target, device="cpu", activation="softmax", gamma=2.0, ignore_index=255, **options):
    options |= {"activation": activation, "gamma": gamma, "ignore_index": ignore_index}
    return module.pixel_sums(x, target, **options)


def both(function, x, *args, seed=0, **options):
    """The stacked sums and a gradient, in float64."""
    x = x.detach().requires_grad_()
    got = torch.stack([field.double() for field in function(x, *args, **options) if field is not None])
    weights = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(seed)).to(x.device)
    return got.detach(), torch.autograd.grad((weights * got).sum(), x)[0].double()


def relative(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


KINDS = {
    "index": {},
    "smooth": {"label_smoothing": 0.1},
    "dense": {},
    "weight": {"squared": True},
    "per class": {"squared": True},
}


@pytest.mark.interpreted(30)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 5, 300])
def test_sums_and_gradients_are_those_of_the_reference(activation, kind, classes, device):
    if classes == 1 and activation == "softmax":
        pytest.skip("softmax has two classes or more")
    x, target = scene(2, classes, 7, 9, dtype=torch.float32)
    target = target.masked_fill(target == 255, -1)
    options = KINDS[kind] | {"activation": activation, "ignore_index": -1, "gamma": 2.0}
    generator = torch.Generator().manual_seed(1)
    if kind == "dense":
        target = torch.rand(2, classes, 7, 9, generator=generator)
        target[torch.rand(2, classes, 7, 9, generator=generator) < 0.3 / classes] = -1.0
    if kind == "per class":
        options["gamma"] = torch.linspace(0, 3, classes).to(device)
    if kind == "weight":
        weight = torch.rand(2, 7, 9, generator=generator)
        options["weight"] = (weight * (weight > 0.2)).to(device)
    x, target = x.to(device), target.to(device)
    got = both(module.pixel_sums, x, target, **options)
    want = both(reference.pixel_sums, x.double(), target, **options)
    plain = both(reference.pixel_sums, x, target, **options)
    for a, b, c in zip(got, want, plain, strict=True):
        assert relative(a, b) <= 2 * max(relative(c, b), 2.5e-7)


@pytest.mark.interpreted(4)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "slice", "crop of a volume"])
def test_only_crops_of_volumes_are_copied(activation, layout, monkeypatch, device):
    x, target = scene(2, 5, 7, 9, dtype=torch.float32)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "slice":
        x, target = torch.cat([x, x], 3)[..., 3:12], torch.stack([target, target], -1)[..., 0]
    if layout == "crop of a volume":
        x, target = scene(2, 5, 5, 6, 7, dtype=torch.float32)
        x, target = x[:, :, 1:4, 1:4, 2:5], target[:, 1:4, 1:4, 2:5]
    copies, contiguous = [], torch.Tensor.contiguous
    want = both(sums, contiguous(x).to(device), contiguous(target).to(device), activation=activation)

    def counted(tensor, *args, **options):
        copies.append(tensor.shape)
        return contiguous(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "contiguous", counted)
    got = both(sums, x.to(device), target.to(device), activation=activation)
    assert (x.shape in copies) == (layout == "crop of a volume")
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.interpreted(2)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_blocks_and_rounds_change_nothing(activation, monkeypatch, device):
    x, target = (t.to(device) for t in scene(2, 3, 7, 9, dtype=torch.float32))
    results = []
    for block_n, rounds in [(64, 1), (16, 1), (16, 3), (16, 16)]:
        monkeypatch.setattr(module, "_tile", lambda *_, block_n=block_n: (4, block_n, 4, 4))
        monkeypatch.setattr(module, "_rounds", lambda *_, rounds=rounds: rounds)
        results.append(both(sums, x, target, activation=activation))
    for value, slope in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=1e-6, atol=1e-6)
        assert torch.equal(slope, results[0][1])


@pytest.mark.interpreted(2)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dense", [False, True])
def test_chunks_of_classes_change_nothing(activation, dense, monkeypatch, device):
    x, target = scene(1, 7, 3, 5, dtype=torch.float32)
    if dense:
        target = torch.rand(1, 7, 3, 5)
        target[0, 6, 0, 0], target[0, 0, 1, 1] = 255.0, 255.0
    results = []
    for block_c in (8, 2):
        monkeypatch.setattr(module, "_tile", lambda *_, block_c=block_c: (block_c, 16, 4, 4))
        results.append(both(sums, x.to(device), target.to(device), activation=activation, squared=True))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.interpreted(2)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_two_runs_give_the_same_bits(activation, device):
    x, target = (t.to(device) for t in scene(2, 3, 7, 9, dtype=torch.float32))
    runs = [both(sums, x, target, activation=activation) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.interpreted(2)
@pytest.mark.parametrize(
    "options", [(2.0, None, True, 255, 0.1), (0.0, torch.tensor([0.0, 1.0, 2.0]), False, 255, 0.0)]
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it
def test_operators_keep_the_rules_of_torch_library(options, device):
    gamma, class_gamma, *rest = options
    x, target = (t.to(device) for t in scene(1, 3, 2, 3, dtype=torch.float32))
    weight, class_gamma = torch.rand(1, 2, 3, device=device), None if class_gamma is None else class_gamma.to(device)
    torch.library.opcheck(module._sums, (x.clone().requires_grad_(), target, weight, gamma, class_gamma, *rest, True))
    grads = torch.rand(8, 1, 3, device=device)
    torch.library.opcheck(module._gradient, (grads, x, target, weight, gamma, class_gamma, *rest))
    last = x.to(memory_format=torch.channels_last)
    torch.library.opcheck(module._gradient, (grads, last, target, None, gamma, class_gamma, *rest))


def test_a_second_derivative_raises(device):
    x, target = (t.to(device) for t in scene(1, 2, 2, 2, dtype=torch.float32))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(sums(x, target).positive_focal.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"triton backend does not support double backward.*backend='reference'"):
        slope.sum().backward()


def test_float64_raises(device):
    x, target = (t.to(device) for t in scene(1, 2, 2, 2))
    with pytest.raises(ValueError, match=r"triton computes in float32, got float64. Use backend='auto'"):
        sums(x, target)


def test_cpu_tensors_raise_without_the_interpreter(monkeypatch):
    monkeypatch.setattr(module, "_INTERPRETED", False)
    x, target = scene(1, 2, 2, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"on CUDA.*cpu.*TRITON_INTERPRET=1.*backend='tiled'"):
        sums(x, target)


def test_any_number_of_images(device):
    """More than the 65535 that a second axis of a grid could count."""
    if device == "cpu":
        pytest.skip("the interpreter would take minutes")
    got = sums(torch.zeros(70000, 2, device=device), torch.zeros(70000, dtype=torch.uint8, device=device))
    assert got.actual.sum(0).tolist() == [70000, 0]


# Compiled without a GPU

CASES = [
    [arch, classes, dtype, activation, {}]
    for arch in (80, 90, 100)
    for dtype in ("float32", "bfloat16")
    for classes, activation in [(2, "softmax"), (19, "softmax"), (150, "softmax"), (1, "sigmoid"), (19, "sigmoid")]
]
CASES += [[90, classes, "float16", "softmax", {}] for classes in (12, 21, 300)]
CASES += [[90, 19, "bfloat16", "softmax", {"channels_last": True}], [90, 19, "float32", "softmax", {"smoothing": 0.1}]]
CASES += [[90, 19, "bfloat16", a, {"dense": True, "squared": True}] for a in ("softmax", "sigmoid")]
EVERY = [
    [arch, classes, dtype, activation, {}]
    for arch in (80, 90, 100)
    for classes in (1, 2, 12, 19, 21, 150, 300)
    for dtype in ("float32", "float16", "bfloat16")
    for activation in ("softmax", "sigmoid")
    if classes > 1 or activation == "sigmoid"
]


def compiled(cases):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 2 * len(cases)
    return rows


@pytest.mark.parametrize("cases", [CASES, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["chosen", "every"])
def test_kernels_compile_without_spills_and_with_128_bit_access(cases):
    for row in compiled(cases):
        assert row["spills"] == 0, row
        if not row["options"].get("channels_last"):
            assert row["wide_loads"] > 0, row
            assert row["kernel"] == "_sums_kernel" or row["wide_stores"] == row["stores"], row


def test_kernels_compile_where_a_size_or_stride_is_1():
    """A launcher makes an argument that is 1 a constant."""
    sizes = [(2,), (1, 1), (1, 1, 2), (1, 2, 1)]
    compiled([[90, 3, "float32", a, {"size": size}] for size in sizes for a in ("softmax", "sigmoid")])
