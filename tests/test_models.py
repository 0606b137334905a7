"""Nets by name."""

import pytest
import torch

from segfocal import smp_net
from segfocal.inference import predict_all_logits
from segfocal.models import ARCHITECTURES


def test_an_architecture_with_options_and_a_timm_encoder():
    options = {"decoder_channels": [32, 16, 16, 8, 8]}
    net = smp_net("Unet", "tu-mobilenetv3_small_100", num_classes=4, in_channels=5, options=options)
    assert net.eval()(torch.zeros(1, 5, 64, 32)).shape == (1, 4, 64, 32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_auxiliary_head_gives_second_logits_which_train_the_encoder_too(architecture):
    encoder = "tu-vit_tiny_patch16_224" if architecture == "DPT" else "resnet18"
    options = {"dynamic_img_size": True} if architecture == "DPT" else None
    net = smp_net(architecture, encoder, num_classes=3, auxiliary_head=True, options=options)
    logits, auxiliary = predict_all_logits(net, torch.randn(2, 3, 128, 160))
    assert logits.shape == auxiliary.shape == (2, 3, 128, 160)
    auxiliary.square().mean().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.encoder.parameters())
    assert all(parameter.grad is None for parameter in net.decoder.parameters())


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    import segmentation_models_pytorch as smp

    def offline(*_, **__):
        raise FileNotFoundError("no connection.")

    monkeypatch.setattr(smp, "Unet", offline)
    with pytest.raises(ValueError, match=r"`encoder_weights` 'imagenet' of 'resnet18'.*no connection.*null"):
        smp_net("Unet", "resnet18", "imagenet", num_classes=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "Unett"}, "`architecture`.*got 'Unett'.*Did you mean 'Unet'"),
        ({"encoder_name": "resnet344"}, "`encoder_name`.*got 'resnet344'.*Did you mean 'resnet34'"),
        ({"num_classes": None}, "`num_classes` >= 1, got None"),
        ({"options": {"decoder_chanels": [1]}}, "decoder_chanels"),
        ({"encoder_name": "tu-mobilenetv3_small_100", "options": {"decoder_chanels": [1]}}, "decoder_chanels"),
        ({"encoder_name": "tu-nonsense"}, "tu-nonsense"),
        ({"auxiliary_head": True, "options": {"aux_params": {"classes": 2}}}, "`auxiliary_head` or `aux_params`.*both"),
        ({"encoder_weights": "imagenette", "encoder_name": "resnet18"}, "imagenette"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_right_one(arguments, message):
    with pytest.raises(ValueError, match=message):
        smp_net(**{"num_classes": 3, **arguments})
