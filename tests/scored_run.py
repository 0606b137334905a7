"""A scored run's folder with everything that a report shows, and names that are meant to break it."""

import csv
import json

import numpy as np

from segfocal.data.palettes import default_palette
from segfocal.evaluation.counts import count_image
from segfocal.evaluation.gallery import Gallery, write_gallery
from segfocal.evaluation.report import write
from segfocal.evaluation.samples import LabelPainter
from segfocal.evaluation.tally import Tally

NASTY = [
    "<script>alert(1)</script>",
    r"$x_1 \frac{$",
    "\"quoted\" & 'single'",
    "</style></script><b>bold",
    "שלום עולם",
    "道路 🚗",
    "_underscore",
    "Haltestellenhäuschen" * 8,
    "{{ 7 * 7 }}",
    "{% raw %}",
    "\u202eoverride",
    "a\\b\x07",
]
CONFIG = """# segfocal 0.1.0
# segfocal fit --config "<b>.yaml"
model:
  loss: {class_path: segfocal.FocalDiceLoss, init_args: {gamma: 2.0, alpha: null, dice_weight: 1.0}}
data: {class_path: segfocal.SegmentationDataModule, init_args: {crop: null, rare_crops: 0.0, size: [64, 96]}}
"""


def names_of(count):
    return (NASTY + [f"class with a rather long name, number {place}" for place in range(count)])[:count]


def score_images(folder, names, *, overlap=False, images=12):
    """Write metrics, gallery and so on of random images into the folder; one class is never predicted."""
    random, tally, gallery, count = np.random.default_rng(0), Tally(names), Gallery(), len(names)
    for place in range(images):
        if overlap:
            target = random.integers(0, 2, (count, 24, 32), dtype=np.uint8)
        else:
            target = np.kron(random.integers(0, count, (6, 8)), np.ones((4, 4), int)).astype(np.uint8)
        target[..., :2, :] = 255
        guess = np.where(random.random(target.shape) < 0.7, target, np.roll(target, 3, -1))
        guess[guess == 255] = 0
        guess[-1 if overlap else guess == 1] = 0
        counted, name = count_image(guess, target, count, 255), f"<i>im\udce9 {place}"
        tally.add(name, counted)
        gallery.offer(name, counted, guess, target, random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    about = {"segfocal": "0.1.0", "command": "test", "split": "test", "checkpoint": "<u>best\udcff.ckpt"}
    write(tally.scores, folder, about | {"versions": {"numpy": "1"}}, tally)
    write_gallery(gallery, folder, LabelPainter(names, default_palette(count), 255), lambda kept: kept.image)


def add_curves(folder, names, epochs=5):
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        keys = ["epoch", "train/loss_epoch", "val/loss", "val/miou"]
        keys += [f"val/{kind}/{name}" for kind in ("iou", "loss_share") for name in names]
        rows = csv.DictWriter(file, keys)
        rows.writeheader()
        for epoch in range(epochs):
            rows.writerow({"epoch": epoch, "train/loss_epoch": 1 / (epoch + 1)})
            rest = {key: 0.1 * epoch / (place + 1) for place, key in enumerate(keys[3:])}
            rows.writerow({"epoch": epoch, "val/loss": 1.2 / (epoch + 1), **rest})


def add_calibration(folder):
    """What another part of the package writes into metrics.json."""
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text())
    ends = [(0.1 * place, 0.1 * place + 0.1) for place in range(10)]
    bins = [
        {"low": low, "high": high, "pixels": 100, "confidence": low + 0.05, "accuracy": 0.8 * low + 0.03}
        for low, high in ends
    ]
    bins[0] |= {"pixels": 0, "confidence": None, "accuracy": None}
    metrics["calibration"] = {"ece": 0.087, "bins": bins}
    for place, row in enumerate(metrics["per_class"].values()):
        row |= {"auroc": 0.9, "average_precision": None if place else 0.6}
    file.write_text(json.dumps(metrics))


def whole_run(folder, count=6, *, overlap=False):
    """Everything at once."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names_of(count)
    score_images(folder, names, overlap=overlap)
    add_curves(folder, names)
    add_calibration(folder)
    (folder / "config.yaml").write_text(CONFIG)
    return folder
