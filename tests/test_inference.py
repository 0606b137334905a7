"""Logits of images of any size."""

import pytest
import torch
from torch import nn

from segfocal.inference import Inference, normalise, predict_all_logits, predict_logits


@pytest.mark.parametrize("size", [(64, 96), (45, 60), (1, 1), (360, 480)])
def test_a_net_without_context_gives_the_same_padded_or_not(size):
    net, images = nn.Conv2d(3, 5, 1), torch.randn(2, 3, *size)
    torch.testing.assert_close(predict_logits(net, images), net(images))


def test_the_net_sees_multiples_of_the_divisor_only():
    seen = []

    def net(images):
        seen.append(tuple(images.shape[-2:]))
        return images[:, :2]

    assert predict_logits(net, torch.zeros(1, 3, 33, 50), divisor=16).shape == (1, 2, 33, 50)
    assert seen == [(48, 64)]


def test_logits_come_at_the_size_asked_for():
    assert predict_logits(nn.Conv2d(3, 5, 1), torch.zeros(1, 3, 45, 60), (360, 480)).shape == (1, 5, 360, 480)


def test_a_dict_with_out_is_taken_as_torchvision_means_it():
    logits = predict_logits(lambda x: {"out": x[:, :2], "aux": x[:, :1]}, torch.ones(1, 3, 32, 32))
    assert logits.shape == (1, 2, 32, 32)


@pytest.mark.parametrize("outputs", [dict, list, tuple])
def test_auxiliary_logits_follow_at_the_same_size(outputs):
    def net(images):
        first, second = images[:, :2], images[:, :2, ::4, ::4]
        return {"out": first, "aux": second} if outputs is dict else outputs([first, second])

    images = torch.arange(45.0 * 60).view(1, 1, 45, 60).expand(2, 3, -1, -1)
    first, second = predict_all_logits(net, images, (90, 120))
    torch.testing.assert_close(first, predict_logits(net, images, (90, 120)))
    assert second.shape == (2, 2, 90, 120)
    middle = (Ellipsis, slice(20, 70), slice(20, 90))
    torch.testing.assert_close(second[middle], first[middle], rtol=0, atol=120)  # two rows are 120 apart


def test_a_further_output_that_is_no_logits_is_named():
    with pytest.raises(ValueError, match=r"logits \(1, 2, 'h', 'w'\), got \(1, 4\)"):
        predict_all_logits(lambda x: (x[:, :2], torch.zeros(1, 4)), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("net", [nn.Flatten(), nn.AvgPool2d(2), lambda x: [], lambda x: ["no"]])
def test_a_net_that_returns_something_else_is_named(net):
    with pytest.raises(ValueError, match=r"Expected the net to return logits \(B, C, 32, 32\)"):
        predict_logits(net, torch.zeros(1, 3, 32, 32))


def test_uint8_and_float_images_are_normalised_alike():
    images = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(normalise(images, mean, std), (images / 255 - mean) / std)
    torch.testing.assert_close(normalise(images / 255, mean, std), (images / 255 - mean) / std)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (512,)}, r"`inference.window` to be \(H, W\), .* got \(512,\)"),
        ({"window": (0, 5)}, "`inference.window`"),
        ({"window": 5}, "`inference.window`"),
        ({"window": {8, 9}}, "`inference.window`"),
        ({"flips": None}, "`inference.flips`"),
        ({"scales": 3}, "`inference.scales`"),
        ({"overlap": 1.0}, r"`inference.overlap` in \[0, 1\), got 1.0"),
        ({"overlap": float("nan")}, "`inference.overlap`"),
        ({"blend": "cubic"}, "`inference.blend` to be one of gaussian, linear, got 'cubic'"),
        ({"windows_at_once": 0}, "`inference.windows_at_once`"),
        ({"flips": ["up"]}, "`inference.flips`"),
        ({"flips": ["up_down", "up_down"]}, "`inference.flips`"),
        ({"scales": [0]}, "`inference.scales`"),
        ({"scales": ["a"]}, "`inference.scales`"),
    ],
)
def test_options_of_inference_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)


def test_options_of_inference_are_the_same_from_plain_data():
    how = Inference((32, 48), 0.5, "linear", 2, ["up_down"], [0.5])
    assert Inference(**how.plain()).plain() == how.plain()
    assert how.plain()["window"] == [32, 48]
