"""Sliding windows: every pixel once, whatever the sizes, in bounded memory."""

import pytest
import torch
from torch import nn

from segfocal.inference import Inference, infer, slide
from segfocal.inference.windows import starts, weights

AXES = [(10, 4, 0.25), (97, 32, 0.5), (131, 33, 0.3), (5, 9, 0.25), (64, 64, 0.9), (50, 7, 0.0), (40, 11, 0.95)]
SIZES = [(97, 131), (32, 32), (20, 150), (1, 1), (33, 64)]


@pytest.mark.parametrize(("length", "window", "overlap"), AXES)
@pytest.mark.parametrize("blend", ["gaussian", "linear"])
def test_the_weights_over_each_pixel_add_up_to_1(length, window, overlap, blend):
    begins = starts(length, window, overlap)
    total = torch.zeros(max(length, window), dtype=torch.float64)
    for begin, of_window in zip(begins, weights(begins, window, blend), strict=True):
        assert (of_window > 0).all()
        total[begin : begin + window] += of_window
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "window", "overlap"), AXES)
def test_windows_leave_no_pixel_out_and_stay_inside(length, window, overlap):
    begins = starts(length, window, overlap)
    assert {place for begin in begins for place in range(begin, begin + window)} >= set(range(length))
    assert begins[0] == 0
    assert begins[-1] + window == max(length, window)
    assert begins == sorted(set(begins))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "how",
    [
        Inference((32, 32)),
        Inference((33, 47), 0.31, "linear", 3),  # strides of 23 and 32
        Inference((64, 31), 0.0, windows_at_once=1),
        Inference((200, 300), windows_at_once=7),  # larger than every image
        Inference((16, 200), 0.8, windows_at_once=100),
    ],
)
def test_a_net_without_context_gives_the_same_by_windows_or_whole(size, how):
    net, images = nn.Conv2d(3, 5, 1), torch.randn(2, 3, *size)
    torch.testing.assert_close(infer(net, images, how), net(images), rtol=1e-5, atol=1e-5)


def test_the_windows_of_a_batch_belong_to_their_images():
    images = torch.stack([torch.full((1, 20, 20), float(value)) for value in (1, 5)])
    logits = infer(lambda x: torch.cat([x, -x], 1), images, Inference((8, 8), windows_at_once=3))
    torch.testing.assert_close(logits[:, :1], images)


def test_a_window_larger_than_the_image_repeats_its_border():
    seen = []

    def net(window):
        seen.append(window)
        return window

    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert torch.equal(infer(net, image, Inference((4, 5))), image)
    assert seen[0].tolist() == [[[[0, 1, 2, 2, 2], [3, 4, 5, 5, 5], [3, 4, 5, 5, 5], [3, 4, 5, 5, 5]]]]


@pytest.mark.parametrize("many", [1, 2, 5, 50])
def test_how_many_windows_go_at_once_changes_nothing(many):
    torch.manual_seed(0)
    net, images, seen = nn.Conv2d(3, 4, 5, padding=2), torch.randn(2, 3, 50, 70), []

    def counted(windows):
        seen.append(len(windows))
        return net(windows)

    got = infer(counted, images, Inference((20, 24), windows_at_once=many))
    assert max(seen) <= 2 * many
    torch.testing.assert_close(got, infer(net, images, Inference((20, 24), windows_at_once=4)))


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.6])
def test_rows_come_in_order_and_are_asked_for_a_window_at_a_time(overlap):
    image, asked = torch.rand(1, 3, 103, 41), []

    def read(top, end):
        asked.append((top, end))
        return image[:, :, top:end]

    end = 0
    for top, logits in slide(lambda x: x, read, (103, 41), Inference((16, 16), overlap)):
        assert top == end
        torch.testing.assert_close(logits, image[:, :, top : top + logits.shape[2]])
        assert logits.shape[2] <= 16
        end = top + logits.shape[2]
    assert end == 103
    assert asked == sorted(asked)
    assert all(end - top == 16 for top, end in asked)


def test_windows_in_half_precision_add_up_in_single():
    net = nn.Conv2d(1, 2, 1).bfloat16()
    logits = infer(net, torch.rand(1, 1, 30, 30).bfloat16(), Inference((8, 8), 0.6))
    assert logits.dtype == torch.float32


def test_logits_by_windows_come_at_the_size_asked_for():
    assert infer(nn.Conv2d(3, 5, 1), torch.zeros(1, 3, 45, 60), Inference((32, 32)), (90, 120)).shape == (1, 5, 90, 120)
