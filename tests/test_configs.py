"""Every shipped configuration runs through fit, test and predict, shortened, on generated data."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segfocal.cli import main

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
SHORT = {
    "trainer": {
        "max_epochs": 1,
        "check_val_every_n_epoch": 1,
        "limit_train_batches": 1,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "limit_predict_batches": 1,
        "accelerator": "cpu",
        "precision": "32-true",  # bf16 is slow on a CPU without it; test_cli.py and test_task.py use it on small nets
        "enable_progress_bar": False,
    },
    "model": {"compile": False},  # takes minutes; test_task.py compiles a small net
}


def write_camvid(root, labels=12):
    """A tree in SegNet's layout with every label once or more."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for index in range(4):
            mask = np.arange(labels, dtype=np.uint8).repeat(32)[None].repeat(288, 0)
            Image.fromarray(rng.integers(0, 256, (288, 384, 3), dtype=np.uint8)).save(root / split / f"{index}.jpg")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{index}.png")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(SHORT))
    shared = ["--config", str(path), "--config", "short.yaml", "--name", "short"]
    if "camvid" in path.stem:
        write_camvid(tmp_path / "camvid")
        shared += ["--data.num_workers", "0", "--data.batch_size", "2", "--data.eval_batch_size", "2"]
    else:
        shared += ["--data.n_train", "8", "--data.n_val", "4", "--data.n_test", "4"]
    assert main(["fit", *shared]) == 0
    assert main(["test", *shared, "--ckpt_path", "best"]) == 0
    metrics = json.loads((tmp_path / "runs/short/001-test/metrics.json").read_text())
    assert 0 <= metrics["miou"] <= 1
    assert 0 <= metrics["calibration"]["ece"] <= 1
    assert all(0 <= row["auroc"] <= 1 for row in metrics["per_class"].values() if row["auroc"] is not None)
    assert main(["predict", *shared, "--ckpt_path", "best"]) == 0
    assert list((tmp_path / "runs/short/002-predict/masks").rglob("*.png"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_head_says_command_hardware_minutes_and_score(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for word in (f"segfocal fit --config configs/{path.name}", "Hardware: ", "Minutes: ", "Score: "):
        assert word in head
