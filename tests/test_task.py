"""The task: losses, labels, scores, optimiser and schedule."""

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from segfocal import FocalDiceLoss, FocalLoss, SegmentationTask
from segfocal.inference import Inference
from segfocal.task import NonFiniteLossError

NAMES = ["road", "car", "pole"]


def loader(batches):
    return DataLoader(batches, batch_size=None)


def quiet_trainer(**arguments):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", **quiet | arguments)


def batch_of(size=4, mask_size=None, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    mask = torch.randint(0, classes, (size, *(mask_size or (32, 32))), dtype=torch.uint8, generator=generator)
    mask[:, :3] = 255
    return {"image": image, "mask": mask}


def test_test_scores_are_those_of_a_count_over_the_predicted_labels():
    task = SegmentationTask(nn.Conv2d(3, 3, 3, padding=1), FocalDiceLoss(), NAMES)
    batches = [batch_of(seed=seed, mask_size=(45, 61)) for seed in range(3)]
    quiet_trainer().test(task, loader(batches), verbose=False)
    predicted = torch.cat([task.predict_labels(batch["image"], (45, 61)) for batch in batches])
    target = torch.cat([batch["mask"] for batch in batches])
    for label in range(3):
        hits = ((predicted == label) & (target == label)).sum().item()
        union = (((predicted == label) | (target == label)) & (target != 255)).sum().item()
        assert task.scores["test"].iou[label] == pytest.approx(hits / union, abs=1e-12)
    assert task.scores["test"].matrix.sum() == (target != 255).sum()


@pytest.mark.parametrize("dense", [False, True])
def test_sigmoid_scores_each_class_on_its_own(dense):
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss("sigmoid"), NAMES, activation="sigmoid")
    batch = batch_of()
    if dense:
        generator = torch.Generator().manual_seed(1)
        batch["mask"] = torch.randint(0, 2, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
        batch["mask"][:, 1, :5] = 255
        target, valid = batch["mask"] == 1, batch["mask"] != 255
    else:
        target = torch.stack([batch["mask"] == label for label in range(3)], 1)
        valid = (batch["mask"] != 255)[:, None].expand_as(target)
    quiet_trainer().test(task, loader([batch]), verbose=False)
    predicted = task.predict_labels(batch["image"]) == 1
    for label in range(3):
        p, t, v = predicted[:, label], target[:, label], valid[:, label]
        assert task.scores["test"].iou[label] == pytest.approx((p & t & v).sum().item() / ((p | t) & v).sum().item())
        assert task.scores["test"].matrix[label].sum() == v.sum()


def test_one_class_with_sigmoid_is_binary():
    task = SegmentationTask(nn.Conv2d(3, 1, 1), FocalDiceLoss("sigmoid"), ["crack"], activation="sigmoid")
    batch = batch_of(classes=2)
    quiet_trainer().test(task, loader([batch]), verbose=False)
    labels = task.predict_labels(batch["image"])
    assert labels.shape == (4, 32, 32)
    hits = ((labels == 1) & (batch["mask"] == 1)).sum().item()
    union = (((labels == 1) | (batch["mask"] == 1)) & (batch["mask"] != 255)).sum().item()
    assert task.scores["test"].iou.tolist() == [pytest.approx(hits / union)]


@pytest.mark.parametrize(
    "loss",
    [FocalDiceLoss(), FocalLoss(gamma=0), nn.CrossEntropyLoss(ignore_index=255)],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_of_ours_and_others_train_on_uint8_masks(loss):
    torch.manual_seed(0)
    task = SegmentationTask(nn.Conv2d(3, 3, 1), loss, NAMES, lr=0.05, warmup=0)
    batch = batch_of()
    batch["mask"][batch["image"][:, 0] > 127] = 1
    before = task.loss(task(batch["image"]), batch["mask"].long()).item()
    quiet_trainer(max_epochs=1).fit(task, loader([batch] * 20))
    assert task.loss(task(batch["image"]), batch["mask"].long()).item() < 0.9 * before


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_loss_is_float32_whatever_the_precision(precision):
    seen = []

    class Recorder(FocalDiceLoss):
        def forward(self, logits, target, weight=None):
            loss = super().forward(logits, target, weight)
            seen.append((logits.dtype, target.dtype, loss.dtype))
            return loss

    task = SegmentationTask(nn.Conv2d(3, 3, 1), Recorder(), NAMES)
    quiet_trainer(max_epochs=1, precision=precision).fit(task, loader([batch_of()]))
    logits = torch.float32 if precision == "32-true" else torch.bfloat16
    assert seen == [(logits, torch.uint8, torch.float32)]


class WithEncoder(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


def test_encoder_has_its_own_rate_and_norms_and_biases_have_no_decay():
    task = SegmentationTask(WithEncoder(), FocalDiceLoss(), NAMES, lr=0.01, encoder_lr_factor=0.1, weight_decay=0.5)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, loader([batch_of()] * 4))
    options = {
        parameter: (group["initial_lr"], group["weight_decay"])
        for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }
    net = task.net
    assert options[net.encoder[0].weight] == (pytest.approx(0.001), 0.5)
    assert options[net.encoder[0].bias] == (pytest.approx(0.001), 0)
    assert options[net.encoder[1].weight] == (pytest.approx(0.001), 0)
    assert options[net.head.weight] == (0.01, 0.5)
    assert options[net.head.bias] == (0.01, 0)
    assert len(options) == len(list(net.parameters()))


def test_the_rate_rises_over_the_warmup_and_falls_to_zero_by_steps():
    rates = []

    class Recorder(SegmentationTask):
        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    task = Recorder(nn.Conv2d(3, 3, 1), FocalDiceLoss(), NAMES, lr=1.0, warmup=0.25, poly_power=1.0)
    quiet_trainer(max_epochs=2).fit(task, loader([batch_of()] * 10))
    assert rates[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert rates[5:] == pytest.approx([1 - step / 20 for step in range(5, 20)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0}, "`lr` > 0, got 0"),
        ({"lr": float("nan")}, "`lr`"),
        ({"lr": 1e38}, "`lr, times encoder_lr_factor and weight_decay` below 1e"),
        ({"lr": 1e30, "weight_decay": 1e9}, "`lr, times encoder_lr_factor and weight_decay` below 1e"),
        ({"schedule": "step"}, "`schedule` to be one of poly, cosine, one_cycle, got 'step'"),
        ({"ema_decay": 1.0}, "`ema_decay`"),
        ({"ema_start": -0.1}, "`ema_start`"),
        ({"aux_weight": -1}, "`aux_weight`"),
        ({"freeze_encoder": -1}, "`freeze_encoder`"),
        ({"warmup": 1.0}, "`warmup`"),
        ({"std": [0.1]}, "`std`"),
        ({"std": [0.1, 0.1, 0]}, "`std`"),
        ({"threshold": 1.5}, "`threshold`"),
        ({"activation": "sigmoid"}, "activation 'sigmoid' like the task, got 'softmax'"),
        ({"ignore_index": 11}, "ignore_index 11 like the task, got 255"),
        ({"class_names": ["car"]}, "two or more for softmax"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationTask(**{"net": nn.Conv2d(3, 3, 1), "loss": FocalDiceLoss(), "class_names": NAMES, **arguments})


def test_a_net_with_another_class_count_is_named():
    task = SegmentationTask(nn.Conv2d(3, 5, 1), FocalDiceLoss(), NAMES)
    with pytest.raises(ValueError, match=r"one channel per class, 3 for .*got 5"):
        task(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_an_all_void_validation_split_does_not_stop_training():
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss(), NAMES)
    void = batch_of()
    void["mask"][:] = 255
    quiet_trainer(max_epochs=1).fit(task, loader([batch_of(), void]), loader([void]))
    assert task.scores["val"].matrix.sum() == 0
    assert all(parameter.isfinite().all() for parameter in task.parameters())


def test_torchvision_nets_train_with_their_dict_of_outputs():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    task = SegmentationTask(net, FocalDiceLoss(), NAMES, encoder_lr_factor=0.1)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, loader([batch_of()] * 2))
    assert {group["initial_lr"] for group in trainer.optimizers[0].param_groups} == {1e-3, 1e-4}


def test_weights_of_a_loss_that_is_not_finite_are_never_saved():
    task = SegmentationTask(nn.Conv2d(3, 3, 1), nn.Identity(), NAMES)
    task._last = (torch.tensor(float("inf")), 7, ["a.png"])
    with pytest.raises(NonFiniteLossError, match=r"The loss is inf at step 7, on a\.png\. Look at"):
        task.on_save_checkpoint({})


class WithAuxiliary(nn.Module):
    """Two heads; their logits as a dict, a list or a tuple."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.main, self.further = kind, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 4, stride=4)

    def forward(self, images):
        logits = self.main(images), self.further(images)
        return dict(zip(("out", "aux"), logits, strict=True)) if self.kind is dict else self.kind(logits)


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_auxiliary_outputs_count_in_training_only(kind):
    task = SegmentationTask(WithAuxiliary(kind), FocalDiceLoss(), NAMES, aux_weight=0.3)
    batch, trainer = batch_of(), quiet_trainer(max_epochs=1, limit_train_batches=1)
    logits, further = task.net.main, task.net.further
    from segfocal.inference import normalise

    with torch.no_grad():
        inputs = normalise(batch["image"], task._mean, task._std)
        enlarged = nn.functional.interpolate(further(inputs), size=(32, 32), mode="bilinear", align_corners=False)
        main, aux = (task.loss(each, batch["mask"]).item() for each in (logits(inputs), enlarged))
    (scored,) = quiet_trainer().test(task, loader([batch]), verbose=False)
    assert scored["test/loss"] == pytest.approx(main)
    before = further.weight.clone()
    trainer.fit(task, loader([batch]))
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(main + 0.3 * aux)
    assert not torch.equal(before, further.weight)


def test_the_shares_of_the_loss_add_up_and_follow_the_breakdown():
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss(), NAMES)
    batches = [batch_of(seed=0), batch_of(seed=1, size=2)]
    batches[1]["mask"][batches[1]["mask"] == 2] = 1  # a class is absent
    (logged,) = quiet_trainer().validate(task, loader(batches), verbose=False)
    want = torch.zeros(3)
    for batch in batches:
        parts = task.loss.breakdown(task(batch["image"]).detach(), batch["mask"])
        missed = parts["dice_per_class"].nan_to_num(0)
        of_classes = parts["focal_per_class"] + parts["dice"] * missed / missed.sum()
        assert of_classes.sum() == pytest.approx(parts["total"].item())
        want += len(batch["image"]) * of_classes
    shares = [logged[f"val/loss_share/{name}"] for name in NAMES]
    assert shares == pytest.approx((want / want.sum()).tolist())


def test_a_loss_without_a_breakdown_has_no_shares():
    task = SegmentationTask(nn.Conv2d(3, 3, 1), nn.CrossEntropyLoss(ignore_index=255), NAMES)
    (logged,) = quiet_trainer().validate(task, loader([batch_of()]), verbose=False)
    assert "val/loss" in logged
    assert not any("share" in name for name in logged)


class TakesOne(nn.Module):
    def forward(self, logits):
        return logits.mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (TakesOne(), r"loss to take logits and masks, \(4, 3, 32, 32\) and \(4, 32, 32\), but it raised: .*positional"),
        (nn.MSELoss(), "loss to take logits and masks"),
        (nn.CrossEntropyLoss(ignore_index=255, reduction="none"), r"a scalar, got shape \(4, 32, 32\)"),
        (nn.LogSoftmax(1), "loss to take logits and masks"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_is_none_is_named(loss, message):
    task = SegmentationTask(nn.Conv2d(3, 3, 1), loss, NAMES)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(task, loader([batch_of()]))


def test_a_compiled_net_is_the_same_net(tmp_path):
    """With channels_last, an average and a frozen encoder; its checkpoint is that of a net that is not compiled."""
    torch.manual_seed(0)
    options = {"ema_decay": 0.9, "freeze_encoder": 1, "lr": 0.05}
    nets = [WithEncoder(bias=False) for _ in range(2)]  # a bias before a norm has a gradient of 0 and rounding alone
    nets[1].load_state_dict(nets[0].state_dict())
    tasks = [
        SegmentationTask(net, FocalDiceLoss(), NAMES, compile=compiled, **options)
        for net, compiled in zip(nets, (True, False), strict=True)
    ]
    batches = loader([batch_of(seed=seed) for seed in range(2)])
    trainers = [quiet_trainer(max_epochs=2) for _ in tasks]
    for trainer, task in zip(trainers, tasks, strict=True):
        trainer.fit(task, batches, batches)
    compiled, plain = tasks
    assert compiled.net._compiled_call_impl is not None
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)
    trainers[0].save_checkpoint(tmp_path / "compiled.ckpt")
    state = torch.load(tmp_path / "compiled.ckpt", weights_only=True)["state_dict"]
    plain.load_state_dict(state)
    image = batch_of(seed=7)["image"]
    torch.testing.assert_close(compiled(image), plain(image), rtol=1e-3, atol=1e-4)


def test_a_missing_compiler_is_named(monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    torch._dynamo.reset()
    task = SegmentationTask(
        nn.Sequential(nn.Conv2d(3, 3, 5), nn.ReLU(), nn.Upsample((32, 32))), FocalDiceLoss(), NAMES, compile=True
    )
    with pytest.raises(ValueError, match=r"`compile` to find .* a C\+\+ compiler.* set model.compile to false"):
        task(batch_of()["image"])


def test_validation_and_prediction_see_the_image_by_windows():
    sizes = []
    net = nn.Conv2d(3, 3, 1)
    net.register_forward_hook(lambda module, inputs, outputs: sizes.append(tuple(inputs[0].shape)))
    how = Inference((16, 20), 0.5, windows_at_once=2, flips=["left_right"])
    task = SegmentationTask(net, FocalDiceLoss(), NAMES, inference=how, size_divisor=4)
    whole = SegmentationTask(net, FocalDiceLoss(), NAMES)
    batch = batch_of(size=2)
    labels = quiet_trainer().predict(task, loader([batch]))[0]
    assert set(sizes) == {(4, 3, 16, 20), (2, 3, 16, 20)}, "two windows of each image at once, and the odd one"
    assert torch.equal(labels, whole.predict_labels(batch["image"])), "the net looks at single pixels"
    for each in (task, whole):
        quiet_trainer().validate(each, loader([batch]), verbose=False)
    assert (task.scores["val"].matrix == whole.scores["val"].matrix).all()
    sizes.clear()
    quiet_trainer(max_epochs=1).fit(task, loader([batch]))
    assert sizes == [(2, 3, 32, 32)], "training sees the image as it is"


def test_inference_is_saved_as_plain_data_and_read_again(tmp_path):
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss(), NAMES, inference=Inference((16, 20), scales=(0.5,)))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, loader([batch_of()]))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["inference"]
    assert saved["window"] == [16, 20]
    again = SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt", net=nn.Conv2d(3, 3, 1), loss=FocalDiceLoss())
    assert again.inference.plain() == task.inference.plain()


def test_a_checkpoint_without_inference_means_whole_images(tmp_path):
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss(), NAMES)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, loader([batch_of()]))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    old = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del old["hyper_parameters"]["inference"]
    torch.save(old, tmp_path / "old.ckpt")
    again = SegmentationTask.load_from_checkpoint(tmp_path / "old.ckpt", net=nn.Conv2d(3, 3, 1), loss=FocalDiceLoss())
    assert again.inference.window is None


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_rows_are_labelled_as_the_whole_image(activation):
    task = SegmentationTask(nn.Conv2d(3, 3, 1), FocalDiceLoss(activation), NAMES, activation=activation)
    image = torch.randint(0, 256, (1, 3, 150, 40), dtype=torch.uint8)
    parts = list(task.predict_rows(lambda top, end: image[:, :, top:end], (150, 40), Inference((100, 24))))
    assert [top for top, _ in parts] == [0, 50, 114], "64 rows at once, of each row of windows"
    assert torch.equal(torch.cat([labels for _, labels in parts], -2), task.predict_labels(image)[0])
