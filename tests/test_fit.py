"""`segfocal fit` with the options of training: loggers, early stopping, the learning rate finder, mistakes."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segfocal.cli import main

TINY = """\
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
model:
  net: {class_path: torch.nn.Conv2d, init_args: {in_channels: 3, out_channels: 6, kernel_size: 1}}
  loss: {class_path: segfocal.FocalDiceLoss}
  lr: 0.01
data:
  class_path: segfocal.ShapesDataModule
  init_args: {n_train: 8, n_val: 4, n_test: 4, size: [32, 48], batch_size: 4}
"""


@pytest.fixture
def fit(tmp_path, monkeypatch, capsys):
    """Runs a fit in a folder of its own and returns its exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def runner(*words):
        capsys.readouterr()
        code = main(["fit", "--config", "tiny.yaml", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return runner


def files(run):
    return {path.relative_to(run).as_posix() for path in Path(run).rglob("*") if path.is_file()}


def curves(run):
    """Last values in TensorBoard's file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()
    return {tag: events.Scalars(tag)[-1].value for tag in tags["scalars"]}, tags["images"]


def test_a_fit_writes_metrics_csv_and_one_tensorboard_file_and_prints_neither(fit):
    code, out, err = fit("--trainer.callbacks", "segfocal.SampleOverlays", "--trainer.callbacks.every_n_epochs", "1")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[:1]] == ["training:"]
    found = files("runs/tiny/000")
    assert len([name for name in found if name.startswith("events.out.tfevents")]) == 1
    assert {"metrics.csv", "samples/epoch_001.png", "samples/epoch_002.png"} <= found
    assert not {"hparams.yaml", "samples/epoch_003.png"} & found  # which the score of the best would have written
    with Path("runs/tiny/000/metrics.csv").open(newline="") as file:
        scored = [row for row in csv.DictReader(file) if row["val/miou"]]
    assert len(scored) == 2  # the score of the best checkpoint is in metrics.json
    scalars, pictures = curves("runs/tiny/000")
    assert pictures == ["samples"]
    assert scalars["val/miou"] == pytest.approx(float(scored[1]["val/miou"]))
    shares = [value for name, value in scalars.items() if name.startswith("val/loss_share/")]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "there", "not_there"),
    [
        (["--trainer.logger", "false"], [], ["metrics.csv", "events"]),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere"], [], ["metrics.csv", "events"]),
    ],
)
def test_another_logger_or_none(fit, words, there, not_there):
    assert fit(*words)[0] == 0
    found = files("runs/tiny/000")
    assert not any(name.startswith(tuple(not_there)) for name in found)
    assert bool(list(Path().glob("elsewhere/**/metrics.csv"))) == ("elsewhere" in " ".join(words))


def test_early_stopping_stops_and_keeps_the_best(fit):
    stop = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/miou", "--trainer.callbacks.mode=max"]
    words = ["--trainer.callbacks.patience=1", "--trainer.max_epochs=40", "--model.lr=1e-9", "--model.ema_decay=0.9"]
    code, out, _ = fit(*stop, *words)
    assert code == 0
    last = torch.load("runs/tiny/000/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] < 5
    assert "val: mIoU" in out


def test_the_average_is_one_line_and_is_what_test_scores(fit, capsys):
    code, out, _ = fit("--model.ema_decay=0.9", "--model.ema_start=0.3", "--trainer.max_epochs=4")
    assert code == 0
    assert main(["validate", "--ckpt_path", "runs/tiny/000"]) == 0
    (scored,) = set(re.findall(r"val: mIoU [\d.]+", capsys.readouterr().out))
    assert scored in out
    assert fit("--ckpt_path=last", "--trainer.max_epochs=5")[1].count("model.ema_decay: None as configured now") == 1


def test_find_lr_suggests_a_rate_and_leaves_nothing_else(fit):
    code, out, err = fit("--find_lr", "--trainer.accumulate_grad_batches=2", "--model.ema_decay=0.9")
    assert (code, err) == (0, "")
    assert files("runs/tiny/000-lr") == {"config.yaml", "lr.png"}
    with Image.open("runs/tiny/000-lr/lr.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    rate = float(re.search(r"--model\.lr (\S+)", out)[1])
    assert 1e-4 < rate < 1


class TakesOne(nn.Module):
    def forward(self, logits):
        return logits.mean()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.accumulate_grad_batches=0"], "`trainer.accumulate_grad_batches` above 0, got 0"),
        (["--trainer.check_val_every_n_epoch=0"], "`trainer.check_val_every_n_epoch` above 0, got 0"),
        (["--trainer.val_check_interval=0"], "`trainer.val_check_interval` above 0, got 0"),
        (["--trainer.gradient_clip_val=-1"], "`trainer.gradient_clip_val` >= 0, got -1"),
        (["--model.lr=1e38"], "`lr, times encoder_lr_factor and weight_decay` below 1e+37"),
        ([f"--model.loss={__name__}.TakesOne"], "Expected the loss to take logits and masks"),
        (["--model.schedule=step"], "model.schedule"),
        (["--model.freeze_encoder=1"], "a part called encoder or backbone"),
        (["--model.ema_decay=1"], "`ema_decay`"),
        (["--trainer.callbacks=segfocal.SampleOverlays", "--trainer.callbacks.count=0"], "`count` >= 1, got 0"),
    ],
)
def test_a_mistake_is_one_message(fit, words, message):
    code, _, err = fit(*words)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
