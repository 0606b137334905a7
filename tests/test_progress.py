"""The lines that a fit leaves in the terminal or a log file."""

import re

import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from segfocal import FocalDiceLoss, SegmentationTask
from segfocal.progress import Progress


def batches():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mask = (image[:, 0] > 127).to(torch.uint8)
    return DataLoader([{"image": image, "mask": mask}] * 4, batch_size=None)


def test_an_epoch_without_validation_repeats_no_old_scores(capsys):
    loader = batches()
    task = SegmentationTask(nn.Conv2d(3, 2, 1), FocalDiceLoss(), ["dark", "bright"])
    options = {"logger": False, "enable_checkpointing": False, "check_val_every_n_epoch": 2}
    trainer = Trainer(accelerator="cpu", max_epochs=3, callbacks=[Progress()], **options)
    trainer.fit(task, loader, loader)
    lines = re.findall(r"^epoch +\d/3  train.*$", capsys.readouterr().out, re.MULTILINE)
    assert ["val/miou" in line for line in lines] == [False, True, False]


def test_a_line_per_epoch_with_a_star_where_miou_is_the_best_so_far(capsys):
    loader = batches()
    task = SegmentationTask(nn.Conv2d(3, 2, 1), FocalDiceLoss(), ["dark", "bright"], lr=0.01)
    trainer = Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, callbacks=[Progress()])
    trainer.fit(task, loader, loader)
    lines = re.findall(
        r"^epoch +\d/3  train/loss [\d.]+  val/loss [\d.]+  val/miou ([\d.]+)  0:\d\d( \*)?",
        capsys.readouterr().out,
        re.M,
    )
    assert len(lines) == 3
    assert lines[0][1] == " *"
    mious = [float(miou) for miou, _ in lines]
    assert [star == " *" for _, star in lines] == [miou > max(mious[:i], default=-1) for i, miou in enumerate(mious)]
