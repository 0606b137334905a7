"""A fit that is killed and resumed ends in the same bits as one that is not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segfocal.cli import main

NETS = """
import json
import os

from pytorch_lightning import Callback
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=6):
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3)
        super().__init__(*layers, nn.Conv2d(8, classes, 1))

class Parts(nn.Module):
    def __init__(self, classes=6):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3))
        self.heads = nn.ModuleList([nn.Conv2d(8, classes, 1), nn.Conv2d(8, classes, 1)])

    def forward(self, images):
        features = self.encoder(images)
        return [head(features) for head in self.heads]

class Ended(Callback):
    def on_train_batch_start(self, trainer, task, batch, index):
        if f"{trainer.current_epoch}.{index}" == os.environ.get("ENDED_AT"):
            os.kill(os.getpid(), int(os.environ["ENDED_BY"]))
"""
CONFIG = """
trainer: {max_epochs: 4, accelerator: cpu, enable_progress_bar: false}
model:
  net: {class_path: killable_nets.Net}
  loss: {class_path: segfocal.FocalDiceLoss}
  lr: 0.01
data:
  class_path: segfocal.ShapesDataModule
  init_args:
    n_train: 24
    n_val: 4
    n_test: 4
    size: [32, 48]
    batch_size: 4
    augment:
      - {class_path: albumentations.HorizontalFlip}
      - {class_path: albumentations.RandomCrop, init_args: {height: 24, width: 32}}
"""


@pytest.fixture(params=[0, 2], ids=["no workers", "two workers"])
def words(request, tmp_path, monkeypatch):
    """A fit, typed in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killable_nets.py").write_text(NETS)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return ["fit", "--config", "c.yaml", f"--data.num_workers={request.param}"]


@pytest.fixture
def fit(words):
    """Runs it to its end."""
    return lambda name, *more: main([*words, "--name", name, *more])


@pytest.fixture
def ended_by(words):
    """Runs it in a process that a signal ends at the beginning of a batch, "epoch.batch"."""

    def run(number, at, *more):
        environment = os.environ | {"ENDED_BY": str(int(number)), "ENDED_AT": at}
        callback = ["--name", "ended", "--trainer.callbacks", "killable_nets.Ended"]
        command = [sys.executable, "-m", "segfocal", *words, *callback, *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def weights(run):
    checkpoint = torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)
    trained = checkpoint["state_dict"] | checkpoint.get("averaging_state", {})
    trained |= {f"current.{name}": value for name, value in checkpoint.get("current_model_state", {}).items()}
    return (checkpoint["epoch"], checkpoint["global_step"]), trained, checkpoint["optimizer_states"]


def ends_in_the_same_bits(run, epoch=3, step=24):
    (whole, want, want_state), (resumed, got, got_state) = weights("whole/000"), weights(run)
    assert whole == resumed == (epoch, step)
    assert want.keys() == got.keys()
    assert all(torch.equal(want[key], got[key]) for key in want)
    torch.testing.assert_close(got_state, want_state, rtol=0, atol=0)


def test_a_killed_fit_goes_on_in_the_same_bits(fit, ended_by):
    assert fit("whole") == 0
    assert ended_by(signal.SIGKILL, "2.3").returncode == -9
    torch.rand(7)  # what else has been drawn must not matter
    for kind, run in (("last", "ended/001"), ("best", "ended/002")):
        assert fit("ended", "--ckpt_path", f"runs/ended/000/checkpoints/{kind}.ckpt") == 0
        ends_in_the_same_bits(run)


def test_a_terminated_fit_saves_and_goes_on_with_the_next_batch(fit, ended_by, capsys):
    assert fit("whole") == 0
    ended = ended_by(signal.SIGTERM, "2.3")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (143, "segfocal fit: terminated.")
    assert "--ckpt_path runs/ended/000 goes on from it" in ended.stdout
    assert fit("ended", "--ckpt_path", "last") == 0
    assert "after epoch 2 and 4 batches" in capsys.readouterr().out
    ends_in_the_same_bits("ended/001")


def test_a_fit_that_is_ended_again_and_again(fit, ended_by):
    assert fit("whole") == 0
    assert ended_by(signal.SIGKILL, "1.0").returncode == -9
    assert ended_by(signal.SIGTERM, "1.4", "--ckpt_path", "last").returncode == 143
    assert ended_by(signal.SIGTERM, "2.0", "--ckpt_path", "last").returncode == 143
    assert ended_by(signal.SIGKILL, "3.5", "--ckpt_path", "last").returncode == -9
    assert fit("ended", "--ckpt_path", "last") == 0
    ends_in_the_same_bits("ended/004")


@pytest.mark.parametrize("words", [0], indirect=True, ids=["no workers"])
def test_every_option_of_training_goes_on_in_the_same_bits(fit, ended_by):
    """Six batches, two steps an epoch; the average begins in epoch 1, where the encoder begins to train."""
    options = [
        "--model.net=killable_nets.Parts",
        "--model.freeze_encoder=1",
        "--model.ema_decay=0.9",
        "--model.ema_start=0.3",
        "--model.schedule=one_cycle",
        "--model.encoder_lr_factor=0.5",
        "--trainer.accumulate_grad_batches=4",
        "--trainer.gradient_clip_val=0.5",
    ]
    resume = ["--ckpt_path", "last"]
    assert fit("whole", *options) == 0
    assert ended_by(signal.SIGTERM, "0.3", *options).returncode == 143  # frozen, and three batches accumulated
    assert ended_by(signal.SIGTERM, "1.1", *options, *resume).returncode == 143
    assert ended_by(signal.SIGKILL, "3.1", *options, *resume).returncode == -9
    assert fit("ended", *options, *resume) == 0
    ends_in_the_same_bits("ended/003", step=8)


BAR = "--trainer.enable_progress_bar=true"  # which prints a line per epoch


def test_the_best_checkpoint_so_far_is_kept(fit, capsys):
    """A resumed fit that only gets worse is scored by what was best before."""
    assert fit("whole") == 0
    before = json.loads(Path("runs/whole/000/metrics.json").read_text())["miou"]
    capsys.readouterr()
    assert fit("whole", "--ckpt_path", "last", "--trainer.max_epochs=6", "--model.lr=30", BAR) == 0
    epochs = [line for line in capsys.readouterr().out.splitlines() if "val/miou" in line]
    assert len(epochs) == 2
    assert not any(line.endswith("*") for line in epochs), "neither is the best so far"
    best = [torch.load(f"runs/whole/{run}/checkpoints/best.ckpt", weights_only=True) for run in ("000", "001")]
    assert best[0]["global_step"] == best[1]["global_step"]
    assert json.loads(Path("runs/whole/001/metrics.json").read_text())["miou"] == before


def test_a_best_checkpoint_that_is_gone_is_said_and_begins_anew(fit, caplog):
    assert fit("whole") == 0
    Path("runs/whole/000/checkpoints/best.ckpt").unlink()
    assert fit("whole", "--ckpt_path", "runs/whole/000/checkpoints/last.ckpt", "--trainer.max_epochs=5") == 0
    assert "best.ckpt is not there. The best checkpoint is that of the epochs to come." in caplog.text
    assert Path("runs/whole/001/checkpoints/best.ckpt").is_file()


def test_another_batch_size_within_an_epoch_is_refused(fit, ended_by, capsys):
    assert ended_by(signal.SIGTERM, "2.3").returncode == 143
    assert fit("ended", "--ckpt_path", "last", "--data.batch_size=8") == 2
    assert "Expected `batch_size` 4, with which the epoch began" in capsys.readouterr().err
