"""What to try next follows from the figures."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from segfocal.evaluation.advice import advice
from segfocal.evaluation.record import Record
from segfocal.evaluation.scores import Scores

NAMES = ["road", "<car>", "pole"]
GOOD = [[900, 5, 5], [5, 900, 5], [1, 1, 98]]
NO_POLE = [[9000, 5, 0], [5, 9000, 0], [80, 10, 0]]
OPTIONS = {"gamma": 2.0, "alpha": None, "dice_weight": 1.0}
DATA = {"crop": None, "rare_crops": 0.0, "size": [96, 128]}


def said(matrix, curves=None, loss=None, data=None, trained=True):
    sections = {"model": {"loss": {"init_args": OPTIONS | (loss or {})}}, "data": {"init_args": DATA | (data or {})}}
    text = yaml.safe_dump(sections) if trained else ""
    scores = Scores(np.array(matrix), NAMES)
    record = Record(Path(), {"per_class": {}}, scores, {}, [], {}, text, curves or {})
    return "\n".join(advice(record)).replace("<bdi>", "").replace("</bdi>", "").replace("\xa0", " ")


def test_nothing_is_said_of_what_is_good():
    assert said(GOOD) == ""


def test_a_rare_class_at_0_gets_what_has_not_been_tried():
    text = said(NO_POLE)
    assert "pole has an IoU of 0 and 0.50 % of the pixels: it was never predicted; 89 % of it was called road." in text
    for remedy in ("alpha: auto", "dice_weight: 2", "rare_crops: 0.5", "data.size", "segfocal stats"):
        assert remedy in text
    assert "segfocal stats" not in said([[9000, 5, 1], [5, 9000, 0], [80, 10, 1]]), "it has been learnt from somewhere"
    tried = said(NO_POLE, loss={"alpha": [1, 1, 3], "dice_weight": 4.0}, data={"crop": [64, 64], "rare_crops": 0.5})
    for remedy in ("alpha: auto", "dice_weight", "rare_crops"):
        assert remedy not in tried


def test_a_frequent_class_at_0_is_not_called_rare():
    text = said([[500, 0, 0], [500, 0, 0], [0, 0, 500]])
    assert "&lt;car&gt; has an IoU of 0 and 33 % of the pixels" in text
    assert "rare_crops" not in text


def test_masks_of_others_get_no_advice_on_training():
    text = said(NO_POLE, trained=False)
    assert "pole has an IoU of 0" in text
    assert "alpha" not in text


def test_a_class_that_was_learnt_and_lost_is_told_so():
    curves = {"val/iou/pole": {1: 0.0, 2: 0.31, 3: 0.01, 4: 0.0}}
    assert "In epoch 2 it had an IoU of 0.31" in said(NO_POLE, curves)
    assert "it had an IoU" not in said(NO_POLE, {"val/iou/pole": {1: 0.0, 2: 0.1, 3: 0.3}})


def test_the_share_of_the_loss_is_the_reason_for_alpha():
    curves = {"val/loss_share/pole": {1: 0.3, 2: 0.012}}
    assert "as they make 1.2 % of the loss" in said(NO_POLE, curves)
    assert "raise their alpha" in said(NO_POLE, curves, loss={"alpha": [1, 1, 3]})


def test_swapped_classes_are_noticed():
    text = said([[10, 90, 0], [80, 20, 0], [0, 0, 50]])
    assert "&lt;car&gt; and road are called each other" in text


def test_classes_that_the_targets_do_not_hold():
    assert "5.0 % of the pixels were called pole, which these targets do not hold" in said(
        [[450, 0, 50], [0, 500, 0], [0, 0, 0]]
    )


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        ("val/miou", [0.1, 0.2, 0.3, 0.4], "still rising, by 0.100 since epoch 3"),
        ("val/miou", [0.1, 0.4, 0.4, 0.4], ""),
        ("val/loss", [1.0, 0.5, 0.6, 0.7], "lowest in epoch 2, and 40 % higher at the end"),
        ("val/loss", [1.0, 0.5, 0.52, 0.5], ""),
    ],
)
def test_curves_say_whether_training_was_too_short_or_too_long(key, values, told):
    text = said(GOOD, {key: dict(enumerate(values, 1))})
    assert told in text
    assert bool(text) == bool(told)


@pytest.mark.parametrize(
    ("matrix", "told"),
    [
        ([[900, 5, 300], [5, 900, 5], [1, 1, 98]], "pole is claimed too often: 98 % of it is found, but only 24 %"),
        ([[900, 5, 0], [5, 900, 5], [60, 1, 30]], "pole is missed: only 33 % of it is found"),
    ],
)
def test_the_worst_class_is_claimed_too_often_or_missed(matrix, told):
    assert told in said(matrix)


def test_overlapping_classes_have_advice_too():
    text = said([[[90, 5], [5, 100]], [[90, 5], [5, 100]], [[198, 0], [2, 0]]])
    assert "pole has an IoU of 0 and 1.0 % of the pixels: it was never predicted." in text
