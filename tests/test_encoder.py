"""The encoder's own learning rate is tested in test_task.py; here it is frozen."""

import pytest
import torch
from pytorch_lightning import Callback
from test_task import NAMES, WithEncoder, batch_of, loader, quiet_trainer
from torch import nn

from segfocal import FocalDiceLoss, SegmentationTask


class Watch(Callback):
    """The encoder's and the head's weights and statistics after each epoch."""

    def __init__(self):
        self.encoder, self.head = [], []

    def on_train_start(self, trainer, task):
        self.on_train_epoch_end(trainer, task)

    def on_train_epoch_end(self, trainer, task):
        self.encoder.append({name: value.clone() for name, value in task.net.encoder.state_dict().items()})
        self.head.append(task.net.head.weight.clone())


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("validated", [False, True])
def test_a_frozen_encoder_keeps_its_weights_and_statistics_and_then_trains(validated):
    task, watch = SegmentationTask(WithEncoder(), FocalDiceLoss(), NAMES, freeze_encoder=2, lr=0.1), Watch()
    batches = loader([batch_of(seed=seed) for seed in range(2)])
    trainer = quiet_trainer(max_epochs=3, callbacks=[watch], val_check_interval=1)
    trainer.fit(task, batches, batches if validated else None)
    start, first, second, third = watch.encoder
    assert moved(start, first) == moved(first, second) == set()
    assert moved(second, third) == set(start)
    assert all(not torch.equal(a, b) for a, b in zip(watch.head, watch.head[1:], strict=False))


def test_what_was_not_trained_before_is_not_trained_after():
    net = WithEncoder()
    net.encoder[0].weight.requires_grad_(False)
    task = SegmentationTask(net, FocalDiceLoss(), NAMES, freeze_encoder=1)
    quiet_trainer(max_epochs=2).fit(task, loader([batch_of()]))
    assert not net.encoder[0].weight.requires_grad
    assert net.encoder[0].bias.requires_grad


def test_nothing_is_left_frozen():
    task = SegmentationTask(WithEncoder(), FocalDiceLoss(), NAMES, freeze_encoder=5)
    quiet_trainer(max_epochs=1).fit(task, loader([batch_of()]))
    assert task.net.encoder.training
    assert all(parameter.requires_grad for parameter in task.parameters())


@pytest.mark.parametrize(
    ("option", "net", "message"),
    [
        ({"freeze_encoder": 1}, nn.Conv2d(3, 3, 1), "a part called encoder or backbone for `freeze_encoder`"),
        ({"freeze_encoder": 1}, nn.ModuleDict({"encoder": nn.Conv2d(3, 3, 1)}), "besides its encoder"),
        ({"encoder_lr_factor": 0.1}, nn.Conv2d(3, 3, 1), "a part called encoder or backbone for `encoder_lr_factor`"),
    ],
)
def test_a_net_without_an_encoder_or_with_nothing_else_is_refused(option, net, message):
    with pytest.raises(ValueError, match=message):
        SegmentationTask(net, FocalDiceLoss(), NAMES, **option)
