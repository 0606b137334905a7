"""The learning rate finder's parts; test_fit.py runs it."""

import pytest
import torch
from pytorch_lightning import Callback
from test_task import NAMES, WithEncoder, batch_of, loader, quiet_trainer

from segfocal import FocalDiceLoss, SegmentationTask
from segfocal.commands.find_lr import HIGHEST, LOWEST, STEPS, RisingRate, suggestion


class Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.rates.append({group["lr"] for group in optimizer.param_groups})


def rise(accumulate=1, **options):
    torch.manual_seed(0)
    task = SegmentationTask(WithEncoder(), FocalDiceLoss(), NAMES, **options)
    rising, rates = RisingRate(), Rates()
    trainer = quiet_trainer(max_steps=STEPS, callbacks=[rising, rates], accumulate_grad_batches=accumulate)
    trainer.fit(task, loader([batch_of(seed=seed) for seed in range(3)]))
    return rising, rates.rates


def test_the_rate_rises_by_the_same_factor_and_the_encoder_keeps_its_own():
    rising, rates = rise(encoder_lr_factor=0.1)
    assert len(rising.lrs) == len(rising.losses) == len(rates)
    assert (rising.lrs[0], rising.lrs[-1]) == (LOWEST, pytest.approx(HIGHEST))
    factors = {round(later / earlier, 9) for earlier, later in zip(rising.lrs, rising.lrs[1:], strict=False)}
    assert len(factors) == 1
    for lr, found in zip(rising.lrs, rates, strict=True):
        assert sorted(found) == pytest.approx([0.1 * lr, lr])


def test_accumulated_batches_are_one_step_with_their_mean_loss():
    single, pairs = rise()[0], rise(accumulate=2)[0]
    assert len(pairs.lrs) == len(pairs.losses)
    assert pairs.losses[0] == pytest.approx(sum(single.losses[:2]) / 2, rel=1e-3)
    assert pairs.losses[1] == pytest.approx(single.losses[2], rel=1e-3)  # the third and last batch of an epoch, alone


def test_where_the_loss_only_rises_there_is_no_suggestion():
    lrs = [10 ** (i / 10 - 5) for i in range(50)]
    assert suggestion(lrs, [1 + lr for lr in lrs]) is None
    assert suggestion(lrs[:5], [1.0] * 5) is None


def test_noise_at_small_rates_is_not_what_is_suggested():
    generator = torch.Generator().manual_seed(0)
    lrs = [10 ** (i / 16 - 6) for i in range(96)]
    noise = 0.05 * torch.randn(96, generator=generator)
    losses = [2 - 1 / (1 + 1e-3 / lr) + float(e) for lr, e in zip(lrs, noise, strict=True)]
    assert 2e-4 < suggestion(lrs, losses) < 5e-3
