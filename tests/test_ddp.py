"""Two processes on the CPU do what one does: the same fit, every image once, one run directory, one end."""

import csv
import os
import signal
import subprocess
import sys

import pytest
import torch

from segfocal.cli import main

NETS = """
import os

from pytorch_lightning import Callback
from torch import nn

from segfocal.data import DataError

class Net(nn.Sequential):
    def __init__(self, classes=6, drop=0.0):
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Dropout2d(drop)
        super().__init__(*layers, nn.Conv2d(8, classes, 1))

class Parts(nn.Module):
    def __init__(self, classes=6):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        return self.head(self.encoder(images))

class Ended(Callback):
    def on_train_batch_start(self, trainer, task, batch, index):
        if (trainer.current_epoch, index, trainer.global_rank) == (1, 0, 1):
            if os.environ["ENDED_BY"] == "data":
                raise DataError("train/0000.png: is truncated.")
            os.kill(os.getpid(), int(os.environ["ENDED_BY"]))
"""
# torch shards on a CPU if it is told so; Lightning, which refuses it by name, does not tell. And a CPU needs a copy of
# the optimiser's states, which torch gathers in one buffer, where a GPU's are copied to the CPU.
SHARDS = """
import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch.distributed import fsdp
from torch.distributed.fsdp import _optim_utils

class OnCpu(fsdp.FullyShardedDataParallel):
    def __init__(self, *args, **options):
        super().__init__(*args, **options | {"device_id": torch.device("cpu")})

unflatten = _optim_utils._unflatten_orig_param_states

def unflatten_and_copy(info, states, name, *args):
    unflatten(info, states, name, *args)
    for state in states.values():
        state[name] = state[name].clone()

class Shards(FSDPStrategy):
    def _setup_model(self, model):
        fsdp.FullyShardedDataParallel = OnCpu
        _optim_utils._unflatten_orig_param_states = unflatten_and_copy
        return super()._setup_model(model)
"""
CONFIG = """
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
model: {net: shared_nets.Net, loss: segfocal.FocalDiceLoss, lr: 0.01}
data:
  class_path: segfocal.ShapesDataModule
  init_args:
    n_train: 20
    n_val: 5
    n_test: 5
    size: [32, 48]
    batch_size: 8
    augment:
      - {class_path: albumentations.HorizontalFlip}
"""
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
FSDP = ["--config=shards.yaml"]
DROP = ["--model.net.drop=0.3"]
DOUBLE = ["--trainer.precision=64-true"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which fits are typed."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "shared_nets.py").write_text(NETS)
    (folder / "c.yaml").write_text(CONFIG)
    (folder / "shards.py").write_text(SHARDS)
    sharded = "trainer: {devices: 2, strategy: {class_path: shards.Shards}}\ndata: {init_args: {batch_size: 4}}"
    (folder / "shards.yaml").write_text(sharded)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def typed(home):
    """Types a command for two processes; 120 seconds are more than any takes that does not hang."""

    def run(command, *words, launcher=(), **environment):
        here = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | environment
        words = [sys.executable, *launcher, "-m", "segfocal", command, *words, *(() if FSDP[0] in words else TWO)]
        return subprocess.run(words, env=os.environ | here, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="module")
def one(home):
    """The fit in one process."""
    assert main(["fit", "--config", "c.yaml", "--name", "one", *DOUBLE]) == 0
    return home / "runs/one/000"


def checkpoint(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def curve(run):
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def is_the_same_fit(got, want):
    torch.testing.assert_close(curve(got), curve(want), rtol=1e-6, atol=1e-6)  # metrics are float32
    # In float64, as AdamW makes a difference of the size of the learning rate of the least one in a gradient near 0.
    torch.testing.assert_close(checkpoint(got)["state_dict"], checkpoint(want)["state_dict"], rtol=1e-12, atol=1e-12)
    assert (got / "per_class.csv").read_text() == (want / "per_class.csv").read_text()
    pictures = [{path.name: path.read_bytes() for path in (run / "gallery").iterdir()} for run in (got, want)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["lightning", "torchrun"])
def test_a_fit_in_two_processes_is_the_fit_in_one(one, typed, launcher):
    name = "torchrun" if launcher else "lightning"
    done = typed("fit", "--config=c.yaml", "--name", name, *DOUBLE, launcher=launcher)
    assert done.returncode == 0, done.stderr
    home = one.parent.parent / name
    assert sorted(path.name for path in home.iterdir()) == ["000", "latest"]
    assert [done.stdout.count(word) for word in ("training: ", "mean ", "scores: ")] == [1, 1, 1]
    assert done.stderr.count("WARN") == done.stderr.count("Warning:") == 0, done.stderr
    is_the_same_fit(home / "000", one)


def test_one_image_counts_once_and_the_process_without_any_waits(one, typed):
    words = ["--ckpt_path=runs/one/000", "--data.n_test=1"]
    done = typed("test", *words, "--name=shared")
    assert done.returncode == 0, done.stderr
    assert main(["test", *words, "--name=alone"]) == 0
    two, alone = (one.parent.parent / name / "000-test" for name in ("shared", "alone"))
    assert (two / "per_class.csv").read_text() == (alone / "per_class.csv").read_text()


def test_every_image_is_predicted_into_one_directory(one, typed):
    done = typed("predict", "--ckpt_path=runs/one/000", "--name=predicted", "--data.eval_batch_size=2")
    assert done.returncode == 0, done.stderr
    (run,) = (path for path in (one.parent.parent / "predicted").iterdir() if not path.is_symlink())
    assert sorted(path.name for path in (run / "masks/test").iterdir()) == [f"{n:04d}.png" for n in range(5)]
    assert "5 images" in done.stdout


@pytest.mark.parametrize(("by", "code", "said"), [("data", 3, "process 1: train/0000.png"), ("9", 137, "signal 9")])
def test_what_ends_one_process_ends_both_with_its_exit_code(typed, by, code, said):
    ended = typed("fit", "--config=c.yaml", "--name=fails", "--trainer.callbacks=shared_nets.Ended", ENDED_BY=by)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp"])
def test_a_terminated_fit_goes_on_in_the_same_bits(home, typed, sharded):
    """With ddp amid the accumulation of a step's gradients."""
    more = ["--trainer.accumulate_grad_batches=2", "--model.ema_decay=0.9"]
    name, words = ("shards", FSDP) if sharded else ("copies", more)
    words = ["--config=c.yaml", *words, *DROP]
    assert typed("fit", *words, f"--name={name}").returncode == 0
    callback = "--trainer.callbacks=shared_nets.Ended"
    term = str(int(signal.SIGTERM))
    ended = typed("fit", *words, f"--name=ended_{name}", callback, ENDED_BY=term)
    assert ended.returncode == 143, ended.stderr
    resumed = typed("fit", *words, f"--name=ended_{name}", "--ckpt_path=last")
    assert resumed.returncode == 0, resumed.stderr
    assert "after epoch 1 and 1 batches" in resumed.stdout
    want, got = checkpoint(home / f"runs/{name}/000"), checkpoint(home / f"runs/ended_{name}/001")
    torch.testing.assert_close(got["state_dict"], want["state_dict"], rtol=0, atol=0)
    first, second = (state["torch"] for state in want["random"])
    assert not torch.equal(first, second), "each process drops other channels"


def test_a_net_in_pieces_is_trained_as_a_whole_one(home, typed):
    """Weight decay, frozen encoder, clipping to the norm of all pieces; scored and tested like any other."""
    words = ["--model.weight_decay=1", "--trainer.gradient_clip_val=0.1", "--model.net=shared_nets.Parts"]
    words += ["--model.freeze_encoder=1", "--model.encoder_lr_factor=0.5"]
    assert main(["fit", "--config=c.yaml", "--name=whole", *words]) == 0
    done = typed("fit", "--config=c.yaml", "--name=pieces", *FSDP, *words)
    assert done.returncode == 0, done.stderr
    got, want = (home / f"runs/{name}/000" for name in ("pieces", "whole"))
    torch.testing.assert_close(curve(got), curve(want), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(checkpoint(got)["state_dict"], checkpoint(want)["state_dict"], rtol=1e-4, atol=1e-5)
    tested = typed("test", "--config=c.yaml", "--name=pieces", *FSDP, *words, "--ckpt_path=best")
    assert tested.returncode == 0, tested.stderr
    refused = typed("fit", "--config=c.yaml", *FSDP, "--model.ema_decay=0.9")
    assert refused.returncode == 2
    assert "Expected no `ema_decay` with trainer.strategy fsdp" in refused.stderr
