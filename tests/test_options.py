"""The options are held to their rules, and every error says the argument, the rule, what it got and what to do."""

import math

import pytest
import torch

from segfocal import functional as sf

TARGET = torch.zeros(2, 7, 9, dtype=torch.uint8)
BAD_OPTIONS = [
    ({"activation": "relu"}, ValueError, "Expected `activation` to be one of 'softmax', 'sigmoid', got 'relu'"),
    ({"reduction": "avg"}, ValueError, "Expected `reduction` to be one of"),
    ({"reduction": "none"}, ValueError, "got 'none'. Take FocalLoss"),
    ({"reduction": "positive"}, ValueError, "activation='softmax', got 'positive'. Use 'mean' or 'weighted'"),
    ({"reduction": "weighted", "activation": "sigmoid"}, ValueError, "Use 'mean' or 'positive'"),
    ({"absent": "ignore"}, ValueError, "Expected `absent` to be one of"),
    ({"backend": "cuda"}, ValueError, "Expected `backend` to be one of"),
    ({"gamma": -1.0}, ValueError, "Expected `gamma` to be finite and at least 0, got -1.0"),
    ({"gamma": math.nan}, ValueError, "Expected `gamma`"),
    ({"gamma": [1.0, math.inf, 1.0]}, ValueError, "Expected `gamma`"),
    ({"gamma": [1.0, 2.0]}, ValueError, "Expected `gamma` of 3 numbers, got 2"),
    ({"gamma": "2"}, TypeError, "Expected `gamma` to be a number or one number per class, got '2'"),
    ({"gamma": None}, TypeError, "Expected `gamma`"),
    ({"gamma": []}, TypeError, "Expected `gamma`"),
    ({"alpha": -0.1}, ValueError, "Expected `alpha` to be finite and at least 0, got -0.1"),
    (
        {"alpha": 1.5, "activation": "sigmoid"},
        ValueError,
        r"Expected `alpha` to be in \[0, 1\] for activation='sigmoid'",
    ),
    ({"alpha": [0.5, 0.5]}, ValueError, "Expected `alpha` of 3 numbers, got 2"),
    ({"alpha": torch.ones(4)}, ValueError, "Expected `alpha` of 3 numbers, got 4"),
    ({"alpha": torch.ones(3, 1)}, TypeError, "Expected `alpha`"),
    ({"alpha": torch.tensor([1.0, -1.0, 1.0])}, ValueError, "Expected `alpha`"),
    ({"alpha": "high"}, TypeError, "Expected `alpha`"),
    ({"alpha": "auto"}, ValueError, "as only `segfocal fit` knows the data, got 'auto'"),
    ({"alpha": {"method": "median"}}, ValueError, "as only `segfocal fit` knows the data"),
    ({"label_smoothing": 1.0}, ValueError, r"Expected `label_smoothing` to be in \[0, 1\), got 1.0"),
    ({"label_smoothing": -0.1}, ValueError, "Expected `label_smoothing`"),
    ({"smooth": -1}, ValueError, "Expected `smooth` to be finite and at least 0, got -1"),
    ({"smooth": math.inf}, ValueError, "Expected `smooth`"),
    ({"smooth": "1e-5"}, TypeError, "Expected `smooth` to be a number, got '1e-5'"),
    ({"smooth": True}, TypeError, "Expected `smooth`"),
    ({"focal_weight": -1.0}, ValueError, "Expected `focal_weight`"),
    ({"dice_weight": math.nan}, ValueError, "Expected `dice_weight`"),
    ({"per_image": "yes"}, TypeError, "Expected `per_image` to be a bool, got 'yes'"),
    ({"sync_dist": 1}, TypeError, "Expected `sync_dist` to be a bool"),
    ({"classes": []}, ValueError, "Expected `classes` to be different indices"),
    ({"classes": [0, 0]}, ValueError, "Expected `classes`"),
    ({"classes": [-1]}, ValueError, "Expected `classes`"),
    ({"classes": [3]}, ValueError, r"Expected `classes` to be different indices from 0 to 2, got \[3\]"),
    ({"classes": 1}, ValueError, "Expected `classes`"),
    ({"classes": [0.5]}, ValueError, "Expected `classes`"),
    ({"ignore_index": None}, TypeError, "Expected `ignore_index` to be an int, got None"),
    ({"ignore_index": 255.0}, TypeError, "Expected `ignore_index`"),
    ({"ignore_index": 2**63}, ValueError, "Expected `ignore_index` to fit 64 bits"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=str)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message) as caught:
        sf.focal_dice_loss(torch.zeros(2, 3, 7, 9), TARGET, **options)
    assert str(caught.value).count(". ") >= 1, "no remedy"
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("options", [{"fp_weight": -1.0}, {"fn_weight": math.inf}, {"exponent": 0.0}], ids=str)
def test_bad_tversky_options(options):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(options))}` to be finite"):
        sf.tversky_loss(torch.zeros(2, 3, 7, 9), TARGET, **options)
