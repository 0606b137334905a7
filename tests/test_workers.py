"""A worker that dies or hangs: the sample that it was reading is named."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from segfocal.data import loading
from segfocal.data.datasets import SegmentationDataset
from segfocal.data.labels import Labels
from segfocal.data.loading import make_loader
from segfocal.data.shapes import Scene, write_tree
from segfocal.data.workers import read_by_workers


def loader(spoil, workers=2):
    """Twelve scenes; `spoil` is called with the grey level of each, which is its number."""
    scenes = [
        Scene(f"train/{i:02d}.png", np.full((8, 8, 3), i, np.uint8), np.zeros((8, 8), np.uint8)) for i in range(12)
    ]

    def augment(image, mask, seed):
        spoil(int(image[0, 0, 0]))
        return image, mask

    return make_loader(SegmentationDataset(scenes, Labels(2, 255), train=True, augment=augment), 2, workers, seed=0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_names_its_sample(number):
    def spoil(level):
        if level == 7:
            os.kill(os.getpid(), number)

    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid") as raised:
        list(loader(spoil))
    assert read_by_workers(str(raised.value)) == "train/07.png"


def test_a_worker_that_hangs_names_its_sample(monkeypatch):
    monkeypatch.setattr(loading, "PATIENCE", 2.0)

    def spoil(level):
        if level == 4:
            time.sleep(30)

    with pytest.raises(RuntimeError, match="timed out after 2") as raised:
        list(loader(spoil))
    assert "train/04.png" in read_by_workers(str(raised.value))


def test_a_death_while_another_loader_starts_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "PATIENCE", 5.0)
    go = tmp_path / "go"

    def spoil(level):
        while not go.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    dying = iter(loader(spoil, workers=1))

    class SwallowsWhatIsRaised:
        def __del__(self):  # as a callback around fork does: what a signal's handler raises here is only printed
            go.touch()
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            time.sleep(0.1)

    starting = loader(lambda level: None, workers=1)
    monkeypatch.setattr(type(starting.sampler), "__iter__", lambda self: SwallowsWhatIsRaised() and iter(range(12)))
    batches = iter(starting)
    with pytest.raises(RuntimeError, match="killed by signal") as raised:
        next(batches)
    assert read_by_workers(str(raised.value)) in [f"train/{i:02d}.png" for i in range(12)]
    del dying


def test_a_death_is_told_when_a_batch_is_waited_for_and_not_in_between(tmp_path):
    read = []

    def spoil(level):
        read.append(level)
        while len(read) > 2 and not (tmp_path / "go").exists():
            time.sleep(0.01)
        if len(read) > 2:
            os.kill(os.getpid(), signal.SIGKILL)

    batches = iter(loader(spoil, workers=1))
    next(batches)
    (tmp_path / "go").touch()
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # which would be interrupted
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(batches)


@pytest.mark.parametrize(("error", "printed"), [(ConnectionResetError, False), (KeyError, True)])
def test_a_worker_is_silent_when_it_cannot_hand_over_and_only_then(capfd, error, printed):
    def spoil(level):
        if level == 3:
            sys.excepthook(error, error("x"), None)

    list(loader(spoil, workers=1))
    assert (error.__name__ in capfd.readouterr().err) == printed


def test_a_fit_says_which_file_a_killed_worker_was_reading(tmp_path):
    write_tree(tmp_path / "data", n_train=6, n_val=2, n_test=1, size=(32, 48))
    (tmp_path / "deadly.py").write_text(
        textwrap.dedent("""
        import os, signal
        import albumentations

        class Deadly(albumentations.HorizontalFlip):
            def apply(self, image, **given):
                os.kill(os.getpid(), signal.SIGKILL)

            apply_to_mask = apply
        """)
    )
    (tmp_path / "fit.yaml").write_text(
        textwrap.dedent("""
        data:
          class_path: segfocal.SegmentationDataModule
          init_args:
            {root: data, batch_size: 2, num_workers: 1, augment: [{class_path: deadly.Deadly, init_args: {p: 1.0}}]}
        model:
          loss: {class_path: segfocal.FocalLoss}
          net: {class_path: segfocal.smp_net, init_args: {encoder_name: tu-mobilenetv3_small_050}}
        trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}
        """)
    )
    command = [sys.executable, "-m", "segfocal", "fit", "--config", "fit.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 6, ended.stderr
    assert "a worker was killed while it read images/train/000" in ended.stderr
    assert "Traceback" not in ended.stderr
