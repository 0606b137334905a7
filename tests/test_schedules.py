"""The learning rate over a fit."""

import pytest
import torch

from segfocal.training.schedules import lr_factor

STEPS = 40


def rates(schedule, warmup=0.25):
    return [lr_factor(step, STEPS, schedule, warmup=warmup) for step in range(STEPS + 1)]


@pytest.mark.parametrize("schedule", ["poly", "cosine", "one_cycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.7])
def test_the_rate_rises_over_the_warmup_and_falls_to_zero(schedule, warmup):
    found, top = rates(schedule, warmup), round(warmup * STEPS)
    assert all(0 < rate <= 1 for rate in found[:-1])
    assert found[: top + 1] == sorted(found[: top + 1]) or schedule == "poly"  # which falls as if it had from step 0
    assert found[top:] == sorted(found[top:], reverse=True)
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert lr_factor(STEPS + 5, STEPS, schedule, warmup=warmup) == pytest.approx(0, abs=1e-12)


def test_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        assert lr_factor(step, STEPS, "cosine", warmup=0.0) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_one_cycle_begins_at_a_25th_and_is_symmetrical_about_its_halves():
    found = rates("one_cycle")
    assert found[0] == pytest.approx(1 / 25)
    assert found[10] == 1
    assert found[5] == pytest.approx((1 + 1 / 25) / 2)
    assert found[25] == pytest.approx(0.5)
