"""The sums of every backend: their formulas, layouts of logits and targets, gradients, and what they cost.

What they do at the edges of arithmetic is in test_traps.py.
"""

import json
import math
from itertools import product

import pytest
import torch
from scenes import SINGLE, Kernel, OurCalls, activations, dense, scene
from torch.nn import functional as F

from segfocal import functional as sf
from segfocal.kernels import PixelSums

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
REFERENCE = Kernel("reference", "cpu")
CONSTANT = ("actual", "valid", "actual_squared")


def same(got, want, **tolerance):
    """Every field that both have is equal."""
    for name, a, b in zip(PixelSums._fields, got, want, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(
                a, b, check_dtype=False, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


def plain(logits, target, activation="softmax", gamma=2.0, weight=None):
    """What people write: logarithms of probabilities, (1 - p)**gamma, and products with a one-hot target."""
    log_p = logits.log_softmax(1) if activation == "softmax" else F.logsigmoid(logits)
    p, y = log_p.exp(), dense(target, logits.shape[1]).to(logits.dtype)
    m = (target != 255).unsqueeze(1).to(logits.dtype) * (1 if weight is None else weight.unsqueeze(1))
    positive, negative = m * y * (1 - p) ** gamma * -log_p, m * (1 - y) * p**gamma * -F.logsigmoid(-logits)
    terms = [positive, negative if activation == "sigmoid" else 0 * negative, m * p * y, m * p, m * y, m + 0 * y]
    terms += [m * p * p, m * y * y]
    return PixelSums(*(term.unsqueeze(-1).flatten(2).sum(-1) for term in terms))


# Formulas


@pytest.mark.interpreted(2)
@activations
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (2, 3), (3, 2, 5), (1, 4, 2, 3, 4)])
def test_every_field_is_its_formula(activation, shape, kernel):
    logits, target = scene(*shape)
    weight = torch.rand(target.shape, dtype=torch.float64) + 0.1
    got = kernel.sums(logits, target, activation, 1.5, weight=weight, squared=True)
    assert all(field.shape == shape[:2] for field in got)
    same(got, plain(logits, target, activation, 1.5, weight), **kernel.close)


def test_squares_are_summed_only_when_asked_for(kernel):
    got = kernel.sums(*scene(2, 3, 7, 9))
    assert got.predicted_squared is None
    assert got.actual_squared is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_float32_or_float64(dtype, kernel):
    got = kernel.sums(*scene(2, 3, 7, 9, dtype=dtype), squared=True)
    assert {field.dtype for field in got} == {dtype if kernel.wide else torch.float32}


@activations
def test_counts_are_constant(activation, kernel):
    logits, target = scene(2, 3, 7, 9)
    x = logits.requires_grad_()
    got = kernel.sums(x, target, activation, squared=True)
    (slope,) = torch.autograd.grad(0 * got.overlap.sum() + sum(getattr(got, name).sum() for name in CONSTANT), x)
    assert (slope == 0).all()


@pytest.mark.interpreted(2)
@activations
@pytest.mark.parametrize("classes", [1, 2, 150, 300])
def test_any_number_of_classes(activation, classes, kernel):
    if activation == "softmax" and classes == 1:
        pytest.skip("softmax needs two")
    logits, target = scene(1, classes, 2, 3)
    target[0, 0, 0] = min(classes, 2) - 1
    compare_with_the_reference(kernel, logits, target, activation, 2.0)


def test_a_binary_channel_is_class_1(kernel):
    got = kernel.sums(torch.tensor([[[2.0, 2.0, 2.0]]]), torch.tensor([[1, 0, 255]]), "sigmoid", 0.0)
    softplus = math.log1p(math.exp(2))
    assert got.positive_focal.item() == pytest.approx(softplus - 2)
    assert got.negative_focal.item() == pytest.approx(softplus)
    assert (got.actual.item(), got.valid.item()) == (1, 2)


# Targets and layouts


@activations
def test_dense_one_hot_equals_class_indices(activation, kernel):
    logits, target = scene(2, 3, 7, 9)
    channels, ignored = dense(target, 3), (target == 255).unsqueeze(1)
    want = kernel.sums(logits, target, activation, squared=True)
    for typed in (channels.double(), channels.to(torch.uint8), channels.long(), channels.half()):
        same(kernel.sums(logits, typed.masked_fill(ignored, 255), activation, squared=True), want, **kernel.close)
    nothing_ignored = target.masked_fill(target == 255, 0)
    same(
        kernel.sums(logits, dense(nothing_ignored, 3), activation),  # bool
        kernel.sums(logits, nothing_ignored, activation),
        **kernel.close,
    )


@pytest.mark.interpreted(2)
@activations
@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype(dtype, activation, kernel):
    logits, target = scene(2, 3, 7, 9)
    ignore_index = 127 if dtype == torch.int8 else 255
    typed = torch.where(target == 255, ignore_index, target).to(dtype)
    before = typed.clone()
    got = kernel.sums(logits, typed, activation, ignore_index=ignore_index)
    same(got, kernel.sums(logits, target, activation), rtol=0.0, atol=0.0)
    assert torch.equal(typed, before)


def test_the_extremes_of_uint8_are_not_minus_one(kernel):
    logits = torch.zeros(1, 256, 2)
    got = kernel.sums(logits, torch.tensor([[255, 254]], dtype=torch.uint8), ignore_index=-1)
    assert got.actual[0, 254:].tolist() == [1, 1]
    assert got.valid[0, 0] == 2


def test_a_dense_pixel_is_ignored_whole_by_softmax_and_by_channel_by_sigmoid(kernel):
    logits, target = torch.zeros(1, 3, 2), torch.tensor([[[1, 255], [0, 1], [0, 0]]])
    assert kernel.sums(logits, target, "softmax").valid.tolist() == [[1, 1, 1]]
    assert kernel.sums(logits, target, "sigmoid").valid.tolist() == [[1, 2, 2]]


LAYOUTS = {
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "slice": lambda t: torch.cat([t, t], 3)[..., : t.shape[3]],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda t: t[:1].expand(2, -1, -1, -1),
    "every other": lambda t: torch.stack([t, t], -1)[..., 0],
}


@activations
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_change_nothing(activation, layout, kernel):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    lay = LAYOUTS[layout]
    logits, weight = logits.to(kernel.device), torch.rand(2, 1, 7, 9).to(kernel.device)
    strided, channels = lay(logits).requires_grad_(), lay(dense(target, 3).float().to(kernel.device))
    for y in (lay(target[:, None].to(kernel.device))[:, 0], channels):
        results = []
        for tensors in ((strided, y, lay(weight)[:, 0]), (strided.contiguous(), y.clone(), lay(weight)[:, 0].clone())):
            x, y_, m = tensors[0].detach().requires_grad_(), *tensors[1:]
            got = kernel.sums(x, y_, activation, weight=m)
            slope = torch.autograd.grad(got.positive_focal.sum() + (got.overlap**2).sum(), x)[0]
            results.append((*got[:6], slope.cpu()))
        torch.testing.assert_close(results[0], results[1])


@activations
@pytest.mark.parametrize("shape", [(0, 3, 7, 9), (2, 3, 0, 9), (0, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_empty_batches_and_spatial_dims(shape, activation, smoothing, kernel):
    x = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(shape[0], *shape[2:], dtype=torch.uint8)
    got = kernel.sums(x, target, activation, label_smoothing=smoothing)
    assert all(field.shape == shape[:2] for field in got[:6])
    torch.stack(list(got[:4])).sum().backward()
    assert x.grad.shape == shape
    assert all((field == 0).all() for field in got[:6])


@activations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype, activation, kernel):
    logits, target = scene(1, 3, *((7, 9) if kernel.interpreted else (300, 300)), dtype=torch.float32)
    low = logits.to(dtype).requires_grad_()
    high = low.detach().float().requires_grad_()
    got, want = kernel.sums(low, target, activation), kernel.sums(high, target, activation)
    assert {field.dtype for field in got[:6]} == {torch.float32}
    same(got, want, **SINGLE)
    (slope,) = torch.autograd.grad(got.overlap.sum(), low)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope, torch.autograd.grad(want.overlap.sum(), high)[0].to(dtype))


def test_counts_do_not_stall_at_2_to_the_24(kernel):
    if kernel.interpreted:
        pytest.skip("minutes in the interpreter")
    pixels = 2**24 + 2**20
    with torch.no_grad():
        logits, target = torch.zeros(1, 2, 1).expand(1, 2, pixels), torch.zeros(1, 1, dtype=torch.uint8)
        got = kernel.sums(logits, target.expand(1, pixels))
    assert got.actual[0].tolist() == [pixels, 0]
    assert got.valid[0].tolist() == [pixels, pixels]
    torch.testing.assert_close(got.predicted[0, 0].item(), pixels / 2, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got.overlap[0, 0].item(), pixels / 2, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got.positive_focal[0, 0].item(), pixels / 4 * math.log(2), rtol=1e-6, atol=0.0)


# Gradients


def targets(target, kind, num_classes):
    if kind != "soft":
        return dense(target, num_classes).double() if kind == "dense" else target
    soft = torch.rand(target.shape[0], num_classes, *target.shape[1:], dtype=torch.float64)
    soft[0, 0, 0] = 255
    return soft


def combine(sums):
    """A random combination of all sums that can be differentiated, in float64."""
    generator = torch.Generator().manual_seed(1)
    fields = [getattr(sums, name) for name in PixelSums._fields if name not in CONSTANT]
    shares = [torch.randn(fields[0].shape, dtype=torch.float64, generator=generator) for _ in fields]
    return sum((share * field).sum() for share, field in zip(shares, fields, strict=True) if field is not None)


def compare_with_the_reference(kernel, logits, target, activation, gamma, **options):
    """The sums and the gradient of a combination of them are those of the reference."""
    results = []
    for which in (kernel, REFERENCE):
        x = logits.detach().requires_grad_()
        got = which.sums(x, target, activation, gamma, **options)
        results.append((got, torch.autograd.grad(combine(got), x)[0]))
    same(results[0][0], results[1][0], **kernel.close)
    torch.testing.assert_close(results[0][1], results[1][1], **kernel.close)


GAMMAS = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0, "per class"]
KINDS = ["index", "dense", "soft", "smooth"]
WAYS = [("softmax", kind, gamma) for kind, gamma in product(KINDS, GAMMAS)]
WAYS += [("sigmoid", kind, gamma) for kind, gamma in product(KINDS, GAMMAS)]


def way(kind, gamma, *shape):
    """Logits, target, gamma and options of one way to call the sums."""
    logits, target = scene(*shape)
    gamma = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64) if gamma == "per class" else gamma
    weight = torch.rand(target.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    options = {"weight": weight, "squared": True, "label_smoothing": 0.2 if kind == "smooth" else 0.0}
    return logits, targets(target, kind, shape[1]), gamma, options


@pytest.mark.interpreted(8)
@pytest.mark.parametrize(("activation", "kind", "gamma"), WAYS)
def test_gradients_are_those_of_the_reference(activation, kind, gamma, fused):
    logits, target, gamma, options = way(kind, gamma, 2, 3, 5, 3)
    compare_with_the_reference(fused, logits, target, activation, gamma, **options)


def differentiable(kernel, activation, kind, gamma):
    logits, target, gamma, options = way(kind, gamma, 2, 3, 1, 2)
    names = [name for name in PixelSums._fields if name not in CONSTANT]
    if activation == "softmax":
        names.remove("negative_focal")  # zeros

    def function(x):
        got = kernel.sums(x, target, activation, gamma, **options)
        return tuple(getattr(got, name) for name in names)

    return function, logits.requires_grad_()


@pytest.mark.parametrize(("activation", "kind", "gamma"), WAYS)
def test_gradients_against_finite_differences(activation, kind, gamma, fused):
    if not fused.wide:
        pytest.skip("finite differences need float64")
    assert torch.autograd.gradcheck(*differentiable(fused, activation, kind, gamma))


@pytest.mark.parametrize(("activation", "kind", "gamma"), WAYS[::3])
def test_gradients_of_both_orders_of_the_reference(activation, kind, gamma):
    assert torch.autograd.gradcheck(*differentiable(REFERENCE, activation, kind, gamma))
    assert torch.autograd.gradgradcheck(*differentiable(REFERENCE, activation, kind, gamma))


@activations
def test_another_backend_cannot_be_differentiated_twice_and_says_which_can(activation, fused):
    logits, target = scene(1, 3, 2, 3)

    def twice(x):
        (slope,) = torch.autograd.grad(fused.sums(x, target, activation).overlap.sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)

    with pytest.raises(RuntimeError, match=r"""backend=["']reference["']"""):
        twice(logits.requires_grad_())


@activations
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 5, 130, 131), (1, 12, 150, 151), (1, 300, 40, 41), (400, 3, 5, 70)])
def test_sums_of_many_pixels_and_images(shape, kind, activation, fused):
    """More than one block of any size, none of them a multiple of one."""
    if fused.interpreted:
        pytest.skip("minutes in the interpreter")
    logits, target, _, options = way(kind, 2.0, *shape)
    compare_with_the_reference(fused, logits, target, activation, 2.0, **options)


# Costs: digits, memory, graphs


@activations
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_are_at_most_twice_those_of_plain_pytorch(activation, gamma, dtype, fused):
    logits, target = scene(2, 4, 7, 9)
    logits = (2 * logits).to(dtype)

    def result(sums, x, **squared):
        x = x.requires_grad_()
        got = sums(x, target, activation, gamma, **squared)
        return [field.double() for field in got] + [torch.autograd.grad(combine(got), x)[0].double()]

    truth = result(REFERENCE.sums, logits.double(), squared=True)
    fast, slow = result(fused.sums, logits.clone(), squared=True), result(plain, logits.clone())
    floors = [torch.float32] * len(PixelSums._fields) + [dtype]
    for want, got, other, floor in zip(truth, fast, slow, floors, strict=True):
        ulps = 4 * torch.finfo(floor).eps * want.abs().max()
        allowed = (other - want).abs()
        allowed = allowed[allowed.isfinite()].max()  # for gamma < 1 the plain gradient is NaN where p rounds to 1
        assert (got - want).abs().max() <= 2 * allowed + ulps


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@activations
def test_two_runs_and_any_number_of_threads_give_the_same_bits(activation, fused, threads):
    logits, target = scene(2, 3, *((7, 9) if fused.interpreted else (300, 301)), dtype=torch.float32)
    runs = []
    for number in (1, 1) if fused.interpreted else (1, 1, 3):
        threads(number)
        x = logits.clone().requires_grad_()
        got = fused.sums(x, target, activation)
        runs.append([*got[:6], torch.autograd.grad(combine(got), x)[0]])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_as_large_as_the_logits_is_saved_but_the_logits(activation, dtype, fused):
    logits, target = scene(2, 3, 7, 9, dtype=torch.float32)
    x, saved = logits.to(fused.device, dtype).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        got = fused.sums(x, target, activation, weight=torch.rand(2, 7, 9), squared=True)
    assert got.overlap.requires_grad
    assert {t.data_ptr() for t in saved if t.numel() >= x.numel()} <= {x.data_ptr()}


def allocations(function, path):
    """The bytes of every tensor that is made while the function runs, and the most at one time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    profile.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    events = [e["args"] for e in sorted(events, key=lambda e: e["ts"])]
    before = events[0]["Total Allocated"] - events[0]["Bytes"]
    return [e["Bytes"] for e in events if e["Bytes"] > 0], max(e["Total Allocated"] for e in events) - before


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_as_large_as_the_logits_is_allocated_but_the_gradient(activation, dtype, fused, tmp_path):
    if fused.device != "cpu" or fused.interpreted:
        pytest.skip("the interpreter allocates as it likes, and a GPU counts its own memory")
    logits, target = scene(2, 12, 300, 300, dtype=torch.float32)
    x, target = logits.to(dtype).requires_grad_(), target.to(torch.uint8)
    sums = fused.sums(x, target, activation)
    made, peak = allocations(lambda: fused.sums(x, target, activation), tmp_path / "forward.json")
    assert max(made) < 0.5 * x.nbytes
    assert peak < logits.nbytes
    made, peak = allocations(lambda: torch.autograd.grad(combine(sums), x), tmp_path / "backward.json")
    assert [size for size in made if size >= 0.5 * x.nbytes] == [x.nbytes]
    assert peak < x.nbytes + 1.25 * logits.nbytes  # sigmoid has a dozen buffers of a tile, a twelfth of small logits


@activations
@pytest.mark.parametrize("kind", ["index", "smooth"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it
def test_operators_pass_opcheck(activation, kind, fused):
    logits, target, _, options = way(kind, 2.0, 2, 3, 2, 3)
    x = logits.float().requires_grad_()
    with OurCalls() as ours:
        combine(fused.sums(x, target, activation, **options)).backward()
    assert ours.names == {f"segfocal::{fused.name}_sums", f"segfocal::{fused.name}_gradient"}
    for operator, args, kwargs in ours.calls:
        first = operator.name().endswith("_sums")  # the gradient has no backward of its own
        own = [a.detach().requires_grad_(first and a.requires_grad) if torch.is_tensor(a) else a for a in args]
        torch.library.opcheck(operator, tuple(own), kwargs)


def compiled_equals_eager(kernel, compiler):
    logits, target = scene(1 if kernel.interpreted else 2, 3, 5, 4, dtype=torch.float32)
    logits, target = logits.to(kernel.device), target.to(kernel.device)
    options = {"gamma": 1.5, "alpha": [0.1, 0.2, 0.3], "classes": [0, 1], "backend": kernel.name}
    torch._dynamo.reset()
    compiled = torch.compile(sf.focal_dice_loss, fullgraph=True, backend=compiler)
    for activation in ("softmax", "sigmoid"):
        results = []
        for loss in (compiled, sf.focal_dice_loss):
            x = logits.clone().requires_grad_()
            value = loss(x, target, activation=activation, **options)
            results.append((value.detach(), torch.autograd.grad(value, x)[0]))
        torch.testing.assert_close(*results)
    target[0, 0, 0] = 7  # not looked at in a graph, so never a silently wrong number
    assert compiled(logits, target, activation="softmax", **options).isnan()


def test_a_compiled_loss_is_one_graph(kernel):
    if kernel.interpreted:
        pytest.skip("the next test includes it")
    compiled_equals_eager(kernel, "eager")


def test_a_compiled_loss_and_its_gradient_are_one_graph(fused):
    compiled_equals_eager(fused, "aot_eager")


@pytest.mark.slow
def test_a_loss_compiled_by_inductor_is_one_graph(fused):
    if fused.interpreted:
        pytest.skip("inductor makes C++ for the CPU")
    compiled_equals_eager(fused, "inductor")
