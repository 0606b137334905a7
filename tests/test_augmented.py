"""Test-time augmentation: identities, and the mean it claims to be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segfocal.inference import Inference, average_logits, infer

BOTH = ["left_right", "up_down"]


def blur(images):
    """A net that is the same for flipped images."""
    kernel = torch.ones(2, 1, 3, 3) * torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    return F.conv2d(images[:, :1], kernel, padding=1)


def probabilities(logits, activation):
    return logits.softmax(1) if activation == "softmax" else logits.sigmoid()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("flips", [[], ["left_right"], ["up_down"], BOTH])
@pytest.mark.parametrize("window", [None, (16, 24)])
def test_flips_change_nothing_for_a_net_that_they_do_not_matter_to(activation, flips, window):
    images = torch.randn(2, 3, 33, 50)
    plain = infer(blur, images, Inference(window), activation=activation)
    flipped = infer(blur, images, Inference(window, flips=flips), activation=activation)
    torch.testing.assert_close(probabilities(flipped, activation), probabilities(plain, activation))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_is_averaged_are_probabilities_of_every_view(activation):
    torch.manual_seed(0)
    net, images = nn.Conv2d(3, 4, 3, padding=1), 5 * torch.randn(2, 3, 9, 11)
    want = 0
    for dims in [(), (-1,), (-2,), (-1, -2)]:
        want = want + probabilities(net(images.flip(dims)).flip(dims), activation) / 4
    got = average_logits(net, images, BOTH, activation=activation)
    torch.testing.assert_close(probabilities(got, activation), want)


def test_scales_are_of_the_image_and_their_mean_at_its_size():
    seen = []

    def net(images):
        seen.append(tuple(images.shape[-2:]))
        return torch.cat([images.mean(1, keepdim=True) * 0 + len(seen), images[:, :1] * 0], 1)

    got = average_logits(net, torch.rand(1, 3, 30, 41), scales=[0.5, 1.5, 1])
    assert seen == [(30, 41), (15, 20), (45, 62)]
    want = torch.tensor([1.0, 2.0, 3.0]).sigmoid().mean()
    torch.testing.assert_close(got.softmax(1)[:, 0], want.expand(1, 30, 41))


def test_logits_however_large_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    for activation in ("softmax", "sigmoid"):
        got = average_logits(lambda x: logits, torch.zeros(1, 3, 4, 4), BOTH, activation=activation)
        assert got.isfinite().all()
        torch.testing.assert_close(probabilities(got, activation), probabilities(logits, activation))


def test_without_views_the_logits_are_those_of_the_net():
    images = torch.randn(1, 2, 4, 4)
    assert average_logits(lambda x: x, images) is images
