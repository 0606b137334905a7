"""What only a CUDA device can show of the loss; the tests of the kernels run there too, see conftest.py."""

import math

import pytest
import torch
from scenes import scene

import segfocal
from segfocal import functional as sf
from segfocal.pixels import confusion, labels_of, probability_counts

pytestmark = pytest.mark.gpu
LOSSES = [
    ("softmax", {"alpha": [0.5, 1.0, 2.0], "reduction": "weighted"}),
    ("softmax", {"per_image": True, "label_smoothing": 0.1, "gamma": [0.0, 1.0, 2.0]}),
    ("sigmoid", {"alpha": 0.25, "reduction": "positive", "squared": True}),
]
each_loss = pytest.mark.parametrize(("activation", "options"), LOSSES, ids=str)


def problem(dtype=torch.float32):
    logits, target = scene(2, 3, 70, 90, dtype=torch.float32)
    return logits.to("cuda", dtype).requires_grad_(), target.to("cuda", torch.uint8)


def value_and_grad(loss, logits, target):
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@each_loss
def test_auto_is_triton_and_the_reference_for_float64(activation, options):
    logits, target = problem()
    auto, triton, reference = (
        segfocal.FocalDiceLoss(activation, **options, backend=name).cuda() for name in ("auto", "triton", "reference")
    )
    assert torch.equal(auto(logits, target), triton(logits, target))
    assert torch.equal(auto(logits.double(), target), reference(logits.double(), target))
    torch.testing.assert_close(auto(logits, target), reference(logits, target))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_never_waits_for_the_device(activation, options, dtype):
    logits, target = problem(dtype)
    loss = segfocal.FocalDiceLoss(activation, **options).cuda()
    value_and_grad(loss, logits, target)  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        value_and_grad(loss, logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_loss
def test_a_captured_step_gives_the_same_bits(activation, options):
    logits, target = problem()
    loss = segfocal.FocalDiceLoss(activation, **options).cuda()
    want = value_and_grad(loss, logits, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        value_and_grad(loss, logits, target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = value_and_grad(loss, logits, target)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@each_loss
def test_a_hundred_runs_give_the_same_bits(activation, options):
    logits, target = problem(torch.bfloat16)
    loss = segfocal.FocalDiceLoss(activation, **options).cuda()
    want = value_and_grad(loss, logits, target)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(value_and_grad(loss, logits, target), want, strict=True))


@each_loss
def test_a_compiled_step_is_one_graph(activation, options):
    logits, target = problem()
    loss = segfocal.FocalDiceLoss(activation, **options).cuda()
    compiled = torch.compile(loss, fullgraph=True)
    got, want = value_and_grad(compiled, logits, target), value_and_grad(loss, logits, target)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_illegal_label_makes_loss_and_gradient_nan(activation):
    logits, target = problem()
    target[1, 3, 5] = 77
    value, grad = value_and_grad(segfocal.FocalDiceLoss(activation).cuda(), logits, target)
    assert value.isnan()
    assert grad[1].isnan().any()
    with pytest.raises(ValueError, match=r"77 \(1 times\)"):
        segfocal.check_target(target, 3)


def test_more_than_2_to_the_31_elements():
    pixels = 2**30 + 1
    logits = torch.zeros(1, 2, pixels, dtype=torch.bfloat16, device="cuda")
    target = torch.zeros(1, pixels, dtype=torch.uint8, device="cuda")
    target[0, -1], logits[0, 0, -1] = 1, 2.0  # the very last pixel is another class, and wrong
    logits.requires_grad_()
    sums = sf.pixel_sums(logits, target, activation="softmax", gamma=0.0, ignore_index=255, backend="triton")
    assert sums.actual.tolist() == [[2**30, 1]]
    assert sums.positive_focal[0, 1].item() == pytest.approx(math.log1p(math.exp(2)), rel=1e-6)
    assert sums.positive_focal[0, 0].item() == pytest.approx(2**30 * math.log(2), rel=1e-6)
    (grad,) = torch.autograd.grad(sums.positive_focal.sum(), logits)
    p = 1 / (1 + math.exp(-2))
    assert grad[0, :, -1].tolist() == pytest.approx([p, -p], rel=1e-2)
    assert grad[0, :, -2].tolist() == [-0.5, 0.5]
    assert grad[0, :, 0].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_evaluation_counts_the_same_pixels_as_on_the_cpu(activation):
    logits, target = scene(2, 5, 70, 90, dtype=torch.float32)
    mask = target.to(torch.uint8) if activation == "softmax" else (target[:, None].expand(-1, 5, -1, -1) == 1).byte()
    results = []
    for device in ("cpu", "cuda"):
        x, true = logits.to(device), mask.to(device)
        labels = labels_of(x, activation)
        counts = probability_counts(x, labels, true, 255, activation)
        results.append(
            (labels, confusion(labels, true, 5, 255), counts.histogram.sum(1), counts.reliability[:, 0].sum())
        )
    for cpu, cuda in zip(*results, strict=True):
        assert torch.equal(cpu, cuda.cpu())
