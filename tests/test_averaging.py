"""The moving average: what is scored, what is saved, and when it starts."""

import copy

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from test_task import NAMES, batch_of, loader, quiet_trainer
from torch import nn

from segfocal import FocalDiceLoss, SegmentationTask
from segfocal.checkpoints import SealedCheckpointIO, load_checkpoint


class Net(nn.Sequential):
    """With norms, whose buffers are floating point and integer."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))


class Watch(Callback):
    """The trained weights after each batch, and those that are validated."""

    def __init__(self):
        self.trained, self.scored = [], []

    def on_train_batch_end(self, trainer, task, *others):
        self.trained.append(copy.deepcopy(task.net.state_dict()))

    def on_validation_batch_start(self, trainer, task, *others):
        if not trainer.sanity_checking:
            self.scored.append(copy.deepcopy(task.net.state_dict()))


def fit(decay, start, epochs=3, steps=4, **arguments):
    torch.manual_seed(0)
    task, watch = SegmentationTask(Net(), FocalDiceLoss(), NAMES, lr=0.05, ema_decay=decay, ema_start=start), Watch()
    batches = [batch_of(seed=seed) for seed in range(steps)]
    callbacks = [watch, *arguments.pop("callbacks", [])]
    trainer = quiet_trainer(max_epochs=epochs, callbacks=callbacks, **arguments)
    trainer.fit(task, loader(batches), loader(batches[:1]))
    return trainer, task, watch


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def average(trained, decay, start):
    """In plain Python: a copy until `start` steps are taken, and then the average."""
    mean = {}
    for step, weights in enumerate(trained, 1):
        n = step - start
        keep = min(decay, (1 + n) / (10 + n)) if n > 0 else 0.0
        for name, value in weights.items():
            old = mean.get(name, value)
            mean[name] = keep * old + (1 - keep) * value if value.is_floating_point() else value.clone()
    return mean


def test_what_is_validated_is_the_average():
    _, task, watch = fit(0.8, 0.25)
    for epoch, scored in enumerate(watch.scored, 1):
        torch.testing.assert_close(scored, average(watch.trained[: 4 * epoch], 0.8, 3))
    assert not same(watch.scored[1], watch.trained[7])
    assert same(task.net.state_dict(), watch.scored[-1])  # and what a fit leaves


def test_before_it_starts_the_trained_weights_are_validated():
    _, task, watch = fit(0.9, 0.99)
    assert same(watch.scored[0], watch.trained[3])
    assert same(watch.scored[1], watch.trained[7])
    assert same(task.net.state_dict(), watch.scored[2])


def test_a_validation_leaves_the_trained_weights_where_they_were():
    plain = fit(None, 0.0)[2]
    averaged = fit(0.9, 0.0)[2]
    assert all(same(first, second) for first, second in zip(plain.trained, averaged.trained, strict=True))


def test_accumulated_batches_are_one_step():
    _, _, watch = fit(0.8, 0.0, epochs=1, accumulate_grad_batches=2)
    torch.testing.assert_close(watch.scored[0], average(watch.trained[1::2], 0.8, 0))


@pytest.mark.parametrize("start", [0.0, 0.4, 0.99])
def test_the_best_checkpoint_holds_what_was_scored(tmp_path, start):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/miou", mode="max")
    options = {"enable_checkpointing": True, "plugins": [SealedCheckpointIO()]}
    trainer, task, watch = fit(0.7, start, epochs=4, callbacks=[best], **options)
    checkpoint = load_checkpoint(tmp_path / "best.ckpt")  # with weights_only
    saved = {name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()}
    assert same(saved, watch.scored[checkpoint["epoch"]])
    other = SegmentationTask(Net(), FocalDiceLoss(), NAMES)
    other.load_state_dict(checkpoint["state_dict"])
    (scored,) = quiet_trainer().test(other, loader([batch_of(seed=0)]), verbose=False)
    assert scored["test/miou"] == best.best_model_score.item()
    # The same trainer and task, with the best weights put in: not the last average.
    task.load_state_dict(checkpoint["state_dict"])
    (again,) = trainer.validate(task, loader([batch_of(seed=0)]), verbose=False)
    assert again["val/miou"] == best.best_model_score.item()


class SavedAtStart(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_start(self, trainer, task):
        trainer.save_checkpoint(self.path)


def test_an_average_begins_from_a_checkpoint_without_one(tmp_path):
    fit(None, 0.0, epochs=1)[0].save_checkpoint(tmp_path / "plain.ckpt")
    plain = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    task, watch = SegmentationTask(Net(), FocalDiceLoss(), NAMES, ema_decay=0.9), Watch()
    callbacks = [watch, SavedAtStart(tmp_path / "start.ckpt")]
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=1, callbacks=callbacks)
    trainer.fit(task, loader([batch_of()] * 4), loader([batch_of()]), ckpt_path=tmp_path / "plain.ckpt")
    assert same(torch.load(tmp_path / "start.ckpt", weights_only=True)["state_dict"], plain["state_dict"])
    assert same(watch.scored[0], watch.trained[0])
    assert not same(watch.trained[0], {k.removeprefix("net."): v for k, v in plain["state_dict"].items()})
