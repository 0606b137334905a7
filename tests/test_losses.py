"""The modules: the same options and numbers as the functions, errors at construction, and who pays for the loss."""

import copy
import inspect
import math
import pickle

import pytest
import torch

import segfocal
from segfocal import functional as sf
from segfocal.losses import DiceLoss, FocalDiceLoss, FocalLoss, JaccardLoss, TverskyLoss

PAIRS = [
    (FocalLoss, sf.softmax_focal_loss),
    (FocalLoss, sf.sigmoid_focal_loss),
    (DiceLoss, sf.dice_loss),
    (JaccardLoss, sf.jaccard_loss),
    (TverskyLoss, sf.tversky_loss),
    (FocalDiceLoss, sf.focal_dice_loss),
]
MODULES = [FocalLoss, DiceLoss, JaccardLoss, TverskyLoss, FocalDiceLoss]
OTHER = {  # a legal value that is not the default, for every option
    "activation": "sigmoid",
    "gamma": 0.5,
    "alpha": [0.25, 0.5, 0.75],
    "ignore_index": 1,
    "label_smoothing": 0.25,
    "reduction": "sum",
    "sync_dist": True,
    "backend": "reference",
    "smooth": 0.5,
    "per_image": True,
    "squared": True,
    "log": True,
    "absent": "keep",
    "classes": [0, 2],
    "focal_weight": 2.0,
    "dice_weight": 0.5,
    "fp_weight": 0.25,
    "fn_weight": 2.0,
    "exponent": 0.75,
}


def scene():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (2, 7, 9), generator=generator)  # class 2 is absent
    target[0, :2] = 255
    return torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=generator), target


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_module_and_function_have_the_same_options_and_defaults(module, function):
    of_module = {name: p.default for name, p in inspect.signature(module).parameters.items()}
    of_function = {n: p.default for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert of_module.pop("activation") == of_function.pop("activation", "softmax")
    assert of_module == of_function
    assert list(inspect.signature(function).parameters)[:3] == ["logits", "target", "weight"]
    kinds = {name: p.kind.name for name, p in inspect.signature(module).parameters.items() if name != "activation"}
    assert set(kinds.values()) == {"KEYWORD_ONLY"}


@pytest.mark.parametrize("module", MODULES)
def test_the_options_are_those_of_the_options_class(module):
    defaults = {name: p.default for name, p in inspect.signature(module).parameters.items()}
    common = vars(sf.LossOptions(part=module.part))
    assert defaults == {name: common[name] for name in defaults}


@pytest.mark.parametrize("module", MODULES)
def test_every_option_reaches_the_function_and_changes_the_loss(module):
    function = dict(PAIRS)[module]
    for name in inspect.signature(module).parameters:
        logits, target = scene()
        options = {name: OTHER[name]}
        if name == "ignore_index":
            target = target.clamp(max=1)
        got = module(**options)(logits, target)
        if module is FocalLoss:
            activation = options.pop("activation", "softmax")
            want = {"softmax": sf.softmax_focal_loss, "sigmoid": sf.sigmoid_focal_loss}[activation](
                logits, target, **options
            )
        else:
            want = function(logits, target, **options)
        assert torch.equal(got, want), name
        if name not in ("sync_dist", "backend"):
            assert not torch.equal(got, module()(logits, target)), name


@pytest.mark.parametrize("module", MODULES)
def test_weight_reaches_the_function(module):
    logits, target = scene()
    weight = torch.rand(2, 7, 9, dtype=torch.float64)
    assert torch.equal(module()(logits, target, weight), dict([*PAIRS[:1], *PAIRS[2:]])[module](logits, target, weight))


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (FocalLoss, {"gamma": -1.0}, ValueError, "Expected `gamma` to be finite and at least 0, got -1.0"),
        (FocalLoss, {"gamma": [2.0, -1.0]}, ValueError, "Expected `gamma`"),
        (FocalLoss, {"alpha": [0.5, math.nan]}, ValueError, "Expected `alpha`"),
        (FocalLoss, {"activation": "sigmoid", "alpha": 2.0}, ValueError, "Expected `alpha`"),
        (FocalLoss, {"activation": "sigmoid", "reduction": "weighted"}, ValueError, "Expected `reduction`"),
        (FocalLoss, {"reduction": "positive"}, ValueError, "Expected `reduction`"),
        (FocalLoss, {"label_smoothing": 1.0}, ValueError, "Expected `label_smoothing`"),
        (
            FocalLoss,
            {"backend": "cuda"},
            ValueError,
            "Expected `backend` to be one of 'auto', 'reference', 'tiled', 'triton'",
        ),
        (FocalLoss, {"backend": "tiled", "reduction": "none"}, ValueError, "is a map and not a pass, got 'tiled'"),
        (DiceLoss, {"smooth": -1.0}, ValueError, "Expected `smooth`"),
        (DiceLoss, {"absent": "drop"}, ValueError, "Expected `absent`"),
        (DiceLoss, {"classes": [1, 1]}, ValueError, "Expected `classes`"),
        (JaccardLoss, {"log": "no"}, TypeError, "Expected `log`"),
        (TverskyLoss, {"exponent": 0.0}, ValueError, "Expected `exponent`"),
        (TverskyLoss, {"fp_weight": -0.5}, ValueError, "Expected `fp_weight`"),
        (FocalDiceLoss, {"reduction": "none"}, ValueError, "Expected `reduction`"),
        (FocalDiceLoss, {"dice_weight": math.inf}, ValueError, "Expected `dice_weight`"),
        (FocalDiceLoss, {"ignore_index": "255"}, TypeError, "Expected `ignore_index`"),
    ],
)
def test_a_bad_option_fails_at_construction(module, options, error, message):
    with pytest.raises(error, match=message):
        module(**options)


@pytest.mark.parametrize("module", [FocalLoss, FocalDiceLoss])
@pytest.mark.parametrize("alpha", [0.25, [0.25, 0.5, 0.75], (1, 0, 1), torch.tensor([0.25, 0.5, 0.75])], ids=str)
def test_alpha_is_a_buffer_that_is_not_saved(module, alpha):
    loss = module(alpha=alpha)
    assert dict(loss.named_buffers()).keys() == {"alpha"}
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    assert loss.to("meta").alpha.device.type == "meta"
    assert module(alpha=alpha).double().alpha.dtype == torch.float64
    logits, target = scene()
    torch.testing.assert_close(
        module(alpha=alpha)(logits, target), dict(PAIRS[:1] + PAIRS[2:])[module](logits, target, alpha=alpha)
    )


def test_alpha_is_the_callers_copy():
    alpha = torch.tensor([0.25, 0.5, 0.75])
    loss = FocalLoss(alpha=alpha)
    alpha.zero_()
    assert loss.alpha.tolist() == [0.25, 0.5, 0.75]
    assert FocalLoss().alpha is None


def test_gamma_per_class_moves_with_the_module():
    loss = FocalDiceLoss(gamma=[0.0, 1.0, 2.0])
    logits, target = scene()
    want = sf.focal_dice_loss(logits, target, gamma=[0.0, 1.0, 2.0])
    assert torch.equal(loss(logits, target), want)
    assert loss.to("meta").gamma.device.type == "meta"
    assert FocalDiceLoss(gamma=0.5).gamma == 0.5


def test_focal_loss_map():
    logits, target = scene()
    maps = FocalLoss(reduction="none")(logits, target), FocalLoss("sigmoid", reduction="none")(logits, target)
    assert maps[0].shape == (2, 7, 9)
    assert maps[1].shape == (2, 3, 7, 9)
    assert (maps[0][0, :2] == 0).all()
    assert (maps[0][1] > 0).all()
    torch.testing.assert_close(maps[0].sum() / (target != 255).sum(), FocalLoss()(logits, target))


@pytest.mark.parametrize(
    ("loss", "terms"),
    [
        (FocalLoss(alpha=[1.0, 2.0, 3.0], reduction="weighted"), ["focal"]),
        (DiceLoss(), ["dice"]),
        (JaccardLoss("sigmoid", per_image=True), ["jaccard"]),
        (TverskyLoss(exponent=0.75), ["tversky"]),
        (FocalDiceLoss(focal_weight=0.3, dice_weight=2.0, per_image=True), ["focal", "dice"]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_breakdown_says_who_pays(loss, terms):
    logits, target = scene()
    logits.requires_grad_()
    parts = loss.breakdown(logits, target)
    assert parts.keys() == {"total", *terms, *(f"{term}_per_class" for term in terms)}
    assert not any(part.requires_grad for part in parts.values())
    torch.testing.assert_close(parts["total"], loss(logits, target).detach())
    torch.testing.assert_close(sum(parts[term] for term in terms), parts["total"])
    for term in terms:
        per_class = parts[f"{term}_per_class"]
        assert per_class.shape == (3,)
        if term == "focal":
            torch.testing.assert_close(per_class.sum(), parts["focal"])
        else:
            assert per_class.isnan().tolist() == [False, False, True]


def test_breakdown_of_the_region_term_is_one_minus_the_score():
    logits, target = scene()
    for options in ({"log": True}, {"absent": "keep"}, {"classes": [2]}, {}):
        got = DiceLoss(**options).breakdown(logits, target)["dice_per_class"]
        for c in range(2):
            torch.testing.assert_close(got[c], sf.dice_loss(logits, target, classes=[c]))
    got = DiceLoss(per_image=True).breakdown(logits, target)["dice_per_class"]
    for c in range(2):
        torch.testing.assert_close(got[c], sf.dice_loss(logits, target, classes=[c], per_image=True))


def test_breakdown_of_a_map_is_an_error():
    with pytest.raises(ValueError, match=r"for a breakdown, got 'none'\. Build"):
        FocalLoss(reduction="none").breakdown(*scene())


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(FocalLoss()) == "FocalLoss(activation='softmax')"
    loss = FocalDiceLoss("sigmoid", alpha=[0.1, 0.2, 0.9], gamma=1.0, classes=[0, 2])
    assert repr(loss) == "FocalDiceLoss(activation='sigmoid', gamma=1.0, alpha=[0.1, 0.2, 0.9], classes=[0, 2])"


@pytest.mark.parametrize("module", MODULES)
def test_copies_and_pickles(module):
    logits, target = scene()
    loss = module("sigmoid")
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(logits, target), loss(logits, target))


def test_the_options_are_attributes():
    loss = FocalDiceLoss("sigmoid", ignore_index=7, smooth=0.5)
    assert (loss.activation, loss.ignore_index, loss.smooth, loss.gamma) == ("sigmoid", 7, 0.5, 2.0)


def test_public_names():
    for module in MODULES:
        assert getattr(segfocal, module.__name__) is module
    assert segfocal.check_target is sf.check_target
    assert segfocal.background_alpha is sf.background_alpha
    assert segfocal.functional is sf
