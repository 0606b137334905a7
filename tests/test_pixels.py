"""Labels, confusion matrices and binned probabilities: every layout and dtype against plain PyTorch."""

import pytest
import torch

from segfocal import pixels
from segfocal.pixels import BINS, confusion, labels_of, probability_counts

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "cropped": lambda x: torch.nn.functional.pad(x, (0, 5, 0, 3))[..., :-3, :-5],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "channels of a larger tensor": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "expanded": lambda x: x[:1].expand(len(x), -1, -1, -1),
}


def logits(classes=5, batch=2, height=70, width=331):
    return 4 * torch.randn(batch, classes, height, width, generator=torch.Generator().manual_seed(0))


def mask_of(x, ignore_index=255, dtype=torch.uint8):
    random = torch.Generator().manual_seed(1)
    mask = torch.randint(0, max(x.shape[1], 2), (len(x), *x.shape[2:]), generator=random)
    return mask.masked_fill(torch.rand(mask.shape, generator=random) < 0.2, ignore_index).to(dtype)


@pytest.fixture
def by_torch(monkeypatch):
    """What runs where Numba does not, such as on a GPU."""
    return lambda: monkeypatch.setattr(pixels, "_is_compiled", lambda tensor: False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_labels_are_the_argmax(dtype, layout):
    x = LAYOUTS[layout](logits().to(dtype))
    labels = labels_of(x)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), x.argmax(1))


@pytest.mark.parametrize("width", [1, 2, 3, 331])
@pytest.mark.parametrize("classes", [2, 3, 24, 25, 150])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped"])
def test_labels_of_any_number_of_classes_and_pixels(layout, classes, width):
    x = LAYOUTS[layout](logits(classes, 2, 1, width))
    assert torch.equal(labels_of(x).long(), x.argmax(1))


@pytest.mark.parametrize(("classes", "dtype"), [(1, torch.uint8), (256, torch.uint8), (257, torch.int16)])
def test_labels_fit_their_dtype(classes, dtype):
    x = logits(classes, 1, 9, 40)
    labels = labels_of(x)
    assert labels.dtype == dtype
    assert torch.equal(labels.long(), x.argmax(1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_equal_logits_the_first_wins_and_nan_is_infinite(layout, dtype):
    x = torch.zeros(2, 7, 4, 300, dtype=dtype)
    x[:, :3, 0] = -0.0
    x[:, 5, 1] = float("nan")
    x[:, 6, 1] = float("inf")
    x[:, 4, 2] = float("inf")
    x[:, :, 3] = -float("inf")
    labels = labels_of(LAYOUTS[layout](x))
    assert [labels[:, row].unique().tolist() for row in range(4)] == [[0], [5], [4], [0]]


def test_sigmoid_labels_are_those_of_the_threshold():
    x = logits()
    assert torch.equal(labels_of(x, "sigmoid", 0.3), (x.sigmoid() >= 0.3).to(torch.uint8))
    assert labels_of(x[:, :1], "sigmoid").shape == (2, 70, 331)


def test_no_pixels_have_no_labels():
    assert labels_of(torch.zeros(0, 3, 4, 4)).shape == (0, 4, 4)


@pytest.mark.parametrize("ignore_index", [255, 0, -100])
def test_the_confusion_matrix_counts_each_pixel_once(ignore_index, by_torch):
    x = logits(150)
    mask = mask_of(x, ignore_index, torch.int64)
    labels = labels_of(x)
    valid = mask != ignore_index
    wanted = torch.zeros(150, 150, dtype=torch.int64)
    wanted.index_put_((mask[valid], labels[valid].long()), torch.tensor(1), accumulate=True)
    assert torch.equal(confusion(labels, mask, 150, ignore_index), wanted)
    by_torch()
    assert torch.equal(confusion(labels, mask, 150, ignore_index), wanted)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("wrong", [5, 200, -1])
@pytest.mark.parametrize("where", ["labels", "mask"])
def test_a_label_of_no_class_is_an_error(where, wrong, compiled, by_torch):
    if not compiled:
        by_torch()
    x = logits()
    given = {"labels": labels_of(x).long(), "mask": mask_of(x).long()}
    given["mask"][1, 60, 300] = 0
    given[where][1, 60, 300] = wrong
    with pytest.raises(ValueError, match=rf"`{where}` to hold 0\.\.4 where `mask` is not 255, got \[{wrong}\]"):
        confusion(given["labels"], given["mask"], 5, 255)
    given["mask"][1, 60, 300] = 255  # where it does not count
    assert confusion(given["labels"], given["mask"], 5, 255).sum() == (given["mask"] != 255).sum()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bins_hold_the_probabilities(activation, layout):
    x = LAYOUTS[layout](logits())
    mask = mask_of(x) if activation == "softmax" else (torch.stack([mask_of(x)] * 5, 1) % 5).clamp(max=1)
    counts = probability_counts(x, labels_of(x, activation), mask, 4, activation)
    p = x.double().softmax(1) if activation == "softmax" else x.double().sigmoid()
    for c in range(5):
        of_class = mask if activation == "softmax" else mask[:, c]
        for positive in (0, 1):
            chosen = (of_class != 4) & ((of_class == (c if activation == "softmax" else 1)) == bool(positive))
            pixels_of = counts.histogram[c, :, positive]
            assert pixels_of.sum() == chosen.sum()
            # In order they are those of the bins, each of which is at most 1/256 wide.
            found = torch.repeat_interleave(lower_ends(), pixels_of)
            assert all((p[:, c][chosen].sort().values - found).abs() < 1 / 256 + 1e-6)


def lower_ends():
    """Of each bin: 64 of an octave, mirrored at 1/2."""
    below = 2.0 ** torch.arange(-24, -1).double()[:, None] * (1 + torch.arange(64) / 64)
    below = torch.cat([below.flatten(), torch.tensor([0.5]).double()])
    above = 1 - torch.cat([below[1:], torch.tensor([0.5]).double()]).flip(0)
    ends = torch.cat([below, above])
    assert len(ends) == BINS
    ends[0] = 0
    return ends


def test_confidences_are_added_up():
    x = logits()
    mask, labels = mask_of(x), labels_of(x)
    pixels_of, right, confidence = probability_counts(x, labels, mask, 255).reliability.double().T
    p, valid = x.double().softmax(1).amax(1), mask != 255
    assert pixels_of.sum() == valid.sum()
    assert right.sum() == ((labels == mask) & valid).sum()
    assert confidence.sum() / 2**24 == pytest.approx(p[valid].sum().item(), rel=1e-6)
    width = (confidence / 2**24 / pixels_of * 15)[pixels_of > 0]
    assert torch.equal(width.floor().long(), torch.arange(15)[pixels_of > 0])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_numba_and_torch_agree(activation, by_torch):
    x = logits()
    mask = mask_of(x) if activation == "softmax" else (mask_of(x) % 4)[:, None].expand(-1, 5, -1, -1)
    arguments = x, labels_of(x, activation), mask, 3, activation
    compiled = probability_counts(*arguments)
    by_torch()
    plain = probability_counts(*arguments)
    moved = (compiled.histogram - plain.histogram).abs().sum() / 2  # to the next bin, by rounding
    assert moved < 1e-4 * plain.histogram.sum()
    assert torch.equal(compiled.histogram.sum(1), plain.histogram.sum(1))
    assert (compiled.reliability[:, :2] - plain.reliability[:, :2]).abs().max() < 10
    assert (compiled.reliability[:, 2].sum() / plain.reliability[:, 2].sum() - 1).abs() < 1e-6


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_is_counted_nowhere_or_at_the_ends(bad, compiled, by_torch):
    x = torch.zeros(1, 3, 4, 300)
    x[:, 1, :2] = bad
    mask = torch.ones(1, 4, 300, dtype=torch.uint8)
    labels = labels_of(x)
    if not compiled:
        by_torch()
    histogram, reliability = probability_counts(x, labels, mask, 255)
    counted = 1200 if bad == -float("inf") else 600
    assert histogram.sum((1, 2)).tolist() == [counted] * 3
    assert reliability[:, 0].sum() == counted


def test_any_number_of_threads_gives_the_same_counts():
    x = logits()
    mask, labels, threads = mask_of(x), labels_of(x), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(labels_of(x), labels)
            results.append((confusion(labels, mask, 5, 255), *probability_counts(x, labels, mask, 255)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


@pytest.mark.parametrize("wrong", [(2, 70, 330), (1, 70, 331), (2, 5, 70, 331), (2 * 70 * 331,)])
def test_a_mask_of_another_shape_is_an_error(wrong):
    x, mask = logits(), torch.zeros(wrong, dtype=torch.uint8)
    for count in (
        lambda: confusion(labels_of(x), mask, 5, 255),
        lambda: probability_counts(x, labels_of(x), mask, 255),
    ):
        with pytest.raises(ValueError, match="Expected `mask` of shape"):
            count()


@pytest.mark.parametrize("wrong", [torch.zeros(5, 4, 4), torch.zeros(1, 0, 4, 4), torch.zeros(1, 5, 4, 4).long()])
def test_what_is_no_logits_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"Expected `logits` to be floating point \(B, C, H, W\), got"):
        labels_of(wrong)
