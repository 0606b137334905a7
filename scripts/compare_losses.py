"""Cross-entropy, focal, focal + Dice, and the last with automatic alpha: same net, budget and data, several seeds.

    python scripts/compare_losses.py [--config FILE] [--seeds 3] [--rarest 2] [--json FILE] [OPTION ...]

Every further option goes to `segfocal fit`. Each loss is trained once per seed, and the checkpoint that is best on val
is scored on test. The table has mean and spread over the seeds.
"""

import argparse
import contextlib
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import segfocal
from segfocal.cli import main as run_segfocal

LOSSES = {
    "cross-entropy": ["--model.loss=segfocal.FocalLoss", "--model.loss.gamma=0"],
    "focal": ["--model.loss=segfocal.FocalLoss", "--model.loss.gamma=2"],
    "focal + Dice": ["--model.loss=segfocal.FocalDiceLoss", "--model.loss.gamma=2"],
    "focal + Dice, alpha: auto": [
        "--model.loss=segfocal.FocalDiceLoss",
        "--model.loss.gamma=2",
        "--model.loss.alpha=auto",
    ],
}
ALPHA = "--model.loss.alpha=null"  # of all the others, whatever the configuration says


def train_and_test(config: str, loss: list[str], seed: int, options: list[str], runs: str) -> dict[str, Any]:
    """The test metrics of one loss and seed."""
    shared = ["--config", config, loss[0], ALPHA, *loss[1:], "--runs", runs, "--name", "x", *options]
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet):
        fitted = run_segfocal(["fit", *shared, f"--seed_everything={seed}"])
        tested = fitted or run_segfocal(["test", *shared, "--ckpt_path", "best"])
    if tested:
        sys.exit(tested)
    metrics: dict[str, Any] = json.loads((Path(runs) / "x" / "latest" / "metrics.json").read_text())
    return metrics


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def main() -> None:
    """Train all, print the table last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--rarest", type=int, default=2, help="number of rare classes to show, and their mean")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments, options = parser.parse_known_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in LOSSES}
    start = time.monotonic()
    for seed in range(arguments.seeds):
        for name, loss in LOSSES.items():
            with tempfile.TemporaryDirectory() as runs:
                results[name].append(train_and_test(arguments.config, loss, seed, options, runs))
            print(f"seed {seed}  {name:26}  test mIoU {results[name][-1]['miou']:.3f}", flush=True)
    minutes = (time.monotonic() - start) / 60
    classes = results["focal"][0]["per_class"]
    rarest = sorted(classes, key=lambda name: classes[name]["share"] or 0.0)[: arguments.rarest]
    table = Table(title=f"{arguments.config}: test IoU, mean ± deviation of {arguments.seeds} seeds")
    for heading in (
        "loss",
        "mIoU",
        "mean of the rare",
        *(f"{name} ({100 * (classes[name]['share'] or 0):.2f} %)" for name in rarest),
    ):
        table.add_column(heading)
    for name, found in results.items():
        ious = [[one["per_class"][label]["iou"] for label in rarest] for one in found]
        rare = [spread(list(of_class)) for of_class in zip(*ious, strict=True)]
        table.add_row(
            name, spread([one["miou"] for one in found]), spread([statistics.mean(row) for row in ious]), *rare
        )
    Console(width=140).print(table)
    print(f"{minutes:.1f} minutes")
    if arguments.json:
        about = {
            "command": f"python scripts/compare_losses.py {' '.join(sys.argv[1:])}",
            "date": date.today().isoformat(),
            "machine": f"{torch.get_num_threads()} CPU threads, {platform.machine()}",
            "versions": {"segfocal": segfocal.__version__, "torch": torch.__version__},
            "minutes": round(minutes, 1),
        }
        figures = {
            name: [
                {"miou": one["miou"], "iou": {label: row["iou"] for label, row in one["per_class"].items()}}
                for one in found
            ]
            for name, found in results.items()
        }
        arguments.json.write_text(json.dumps({**about, "test": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
