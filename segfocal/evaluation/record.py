"""What the folder of a scored run holds, read for its report. Without torch.

Shapes: N images, C classes.
"""

import csv
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segfocal.evaluation.gallery import GALLERY, INDEX
from segfocal.evaluation.scores import Scores, Values
from segfocal.evaluation.tally import COUNTS

Curve = dict[int, float]  # value by epoch, counted from 1


@dataclass(frozen=True)
class Record:
    """A scored run.

    Attributes:
        folder: Its folder.
        metrics: What metrics.json holds.
        scores: The scores of its confusion matrix.
        counts: Of each image, by its name, the pixels per class (C, 3): right, predicted, in the target.
        bins: Of the calibration, by confidence: low, high, pixels, confidence and accuracy; those with pixels.
        gallery: What gallery/gallery.json holds; empty without one.
        configuration: The text of config.yaml; empty without one.
        curves: What the training logged, by its name such as val/miou.
    """

    folder: Path
    metrics: Mapping[str, Any]
    scores: Scores
    counts: Mapping[str, Values]
    bins: Sequence[Mapping[str, float]]
    gallery: Mapping[str, Any]
    configuration: str
    curves: Mapping[str, Curve]

    @property
    def options(self) -> dict[str, Any]:
        """The configuration as data; empty where it is not YAML."""
        try:
            read = yaml.safe_load(self.configuration)
        except yaml.YAMLError:  # people edit it, and a report does without
            return {}
        return read if isinstance(read, dict) else {}

    def column(self, name: str) -> list[float]:
        """A number of each class from metrics.json, (C,); NaN where it is not known."""
        rows = self.metrics["per_class"]
        return [number(rows.get(of_class, {}).get(name)) for of_class in self.scores.class_names]


def read_record(folder: Path, training: Iterable[Path] = ()) -> Record:
    """Read a run.

    Args:
        folder: The folder of a run that was scored.
        training: The folders of the fits behind it, the first one first.

    Raises:
        ValueError: It holds no scores, or damaged ones.

    Example:
        >>> read_record(Path("runs"))
        Traceback (most recent call last):
        ...
        ValueError: Expected runs to hold metrics.json, got none. Name the folder of a run that was scored.
    """
    file = folder / "metrics.json"
    if not file.is_file():
        raise ValueError(f"Expected {folder} to hold {file.name}, got none. Name the folder of a run that was scored.")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        names = [str(name) for name in metrics["per_class"]]
        scores = Scores(np.array(metrics["confusion_matrix"], np.int64), names)
        counts, gallery = _counts(folder / COUNTS), _gallery(folder / GALLERY / INDEX)
        if not names or not all(isinstance(row, dict) for row in metrics["per_class"].values()):
            raise ValueError("per_class must hold a row for each class")
        metrics["calibration"] = metrics.get("calibration") or {}
        metrics["miou_interval"] = metrics.get("miou_interval") or [None, None]
        if len(metrics["miou_interval"]) != 2:
            raise ValueError("miou_interval must hold two numbers")
        bins = [row for row in metrics["calibration"].get("bins", []) if row["pixels"]]
        bins = [{key: float(row[key]) for key in ("low", "high", "pixels", "confidence", "accuracy")} for row in bins]
        config = folder / "config.yaml"
        text = config.read_bytes().decode("utf-8", "replace") if config.is_file() else ""
        return Record(folder, metrics, scores, counts, bins, gallery, text, read_curves(training))
    # What is raised depends on which bytes are damaged.
    except (
        OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, csv.Error,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        why = str(error).rstrip(".")
        raise ValueError(f"Expected the files of {folder} to be whole, got: {why}. Score the run again.") from error


def read_curves(training: Iterable[Path]) -> dict[str, Curve]:
    """What fits logged in their metrics.csv, per epoch; one that goes on from another replaces its later epochs."""
    curves: dict[str, Curve] = {}
    for folder in training:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [row for row in csv.DictReader(file) if row.get("epoch")]
        first = min((int(float(row["epoch"])) + 1 for row in rows), default=1)
        kept = {name: {at: y for at, y in curve.items() if at < first} for name, curve in curves.items()}
        curves = {name: curve for name, curve in kept.items() if curve}
        for row in rows:
            for name, value in row.items():
                if value and name.startswith(("train/loss_epoch", "val/")):
                    curves.setdefault(name, {})[int(float(row["epoch"])) + 1] = float(value)
    return curves


def number(value: object) -> float:
    """A number of a JSON file; NaN for none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _counts(file: Path) -> dict[str, Values]:
    if not file.is_file():
        return {}
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
        names = [bytes(name).decode("utf-8", "surrogateescape") for name in held["names"]]
        return dict(zip(names, held["counts"].astype(np.float64), strict=True))


def _gallery(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    held = json.loads(file.read_text(encoding="utf-8"))
    rows = [{**row, "miou": float(row["miou"]), "wrong": float(row["wrong"])} for row in held["images"]]
    if not all(isinstance(row[key], str) for row in rows for key in ("name", "kind")):
        raise ValueError(f"{file.name} must name each image")
    legend = [(str(name), f"#{bytes(colour).hex()}") for name, colour in held["legend"]]
    return {"images": rows, "legend": legend, "overlap": bool(held["overlap"])}
