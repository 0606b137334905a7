"""What the tables of a report hold: texts, and the numbers that they are sorted by.

Shapes: C classes.
"""

import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from segfocal.evaluation.charts import row_shares
from segfocal.evaluation.record import Record, number
from segfocal.evaluation.scores import Scores, mean_of_present, ratio
from segfocal.evaluation.words import confusions, decimal, grouped, named, percent

_LEGIBLE = 15  # classes, up to which the cells of a matrix have room for numbers
_SHOWN = 64  # classes that a matrix on a page shows
_WORST = 3

_MEANINGS = {
    "IoU": "intersection over union of the pixels, 0 to 1; beside it, and as a line on the bar, its 95 % interval: how "
    "far it would move with other images of the same kind",
    "boundary": "IoU of the pixels near boundaries (Boundary IoU, Cheng et al. 2021)",
    "Dice": "2 × intersection / (predicted + true pixels), the F1 of the pixels",
    "precision": "share of what is called so that is right",
    "recall": "share of the class's pixels that is found",
    "AUROC": "probability that a pixel of the class gets a higher score for it than another pixel",
    "AP": "average precision over all thresholds",
    "pixels": "the class's share of the labelled pixels",
    "–": "the class is not in the target, or was never predicted; such numbers are left out of means",
}


def cards(record: Record) -> list[dict[str, str]]:
    """The figures of the whole split."""
    metrics, scores = record.metrics, record.scores
    low, high = map(number, metrics["miou_interval"])
    interval = "" if math.isnan(low) else f"95 %: {low:.3f} to {high:.3f}"
    boundary, ece = number(metrics.get("boundary_miou")), number(metrics["calibration"].get("ece"))
    present = int((scores.support > 0).sum())
    found = [
        ("mIoU", decimal(scores.miou), interval),
        ("frequency-weighted IoU", decimal(scores.frequency_weighted_iou), "each class by its pixels"),
        ("pixel accuracy", decimal(scores.pixel_accuracy), ""),
        ("boundary mIoU", decimal(boundary), "near boundaries only"),
        ("calibration error", decimal(ece), "ECE, 0 is best"),
    ]
    kept = [row for row in found if row[1] != decimal(math.nan) or row[0] == "mIoU"]
    if "images" in metrics:
        absent = len(scores.class_names) - present
        note = f"{present} classes" + (f", {absent} more absent" if absent else "")
        kept.append(("images", grouped(number(metrics["images"])), note))
    return [dict(zip(("label", "value", "note"), row, strict=True)) for row in kept]


def class_table(record: Record) -> dict[str, Any]:
    """A row per class, in the order of the labels, and their means."""
    scores = record.scores
    columns: dict[str, list[float]] = {"IoU": scores.iou.tolist(), "boundary": record.column("boundary_iou")}
    columns |= {"Dice": scores.dice.tolist(), "precision": scores.precision.tolist(), "recall": scores.recall.tolist()}
    columns |= {"AUROC": record.column("auroc"), "AP": record.column("average_precision")}
    columns = {name: values for name, values in columns.items() if name == "IoU" or not np.isnan(values).all()}
    ends = list(zip(record.column("iou_low"), record.column("iou_high"), strict=True))
    known = [row for row in np.argsort(scores.iou, kind="stable") if not math.isnan(scores.iou[row])]
    low = set(known[: min(_WORST, len(known) // 3)])
    rows = []
    for row, name in enumerate(scores.class_names):
        iou, (start, end) = columns["IoU"][row], ends[row]
        cells = [_cell(values[row], decimal) for column, values in columns.items() if column != "IoU"]
        share = _cell(float(scores.share[row]) if scores.support[row] else 0.0, percent)
        sure = None if math.isnan(start) else (f"{100 * start:.1f}", f"{100 * end:.1f}")
        between = "" if math.isnan(start) else f"{start:.2f}–{end:.2f}"
        bar = None if math.isnan(iou) else f"{100 * iou:.1f}"
        shown = {"name": name, "iou": _cell(iou, decimal), "range": between, "bar": bar, "ends": sure}
        rows.append({**shown, "low": row in low, "cells": [*cells, share]})
    means = [decimal(mean_of_present(np.array(values))) for values in columns.values()]
    caption = "Click on a heading to sort." + (" The lowest IoU are coloured." if low else "")
    names = ["class", *columns, "pixels"]
    meanings = [(term, text) for term, text in _MEANINGS.items() if term in names or term == "–"]
    return {"columns": names, "rows": rows, "means": [*means, ""], "caption": caption, "meanings": meanings}


def matrix_table(record: Record) -> dict[str, Any] | None:
    """The cells of the confusion matrix of exclusive classes; of many the most confused ones."""
    scores = record.scores
    if scores.matrix.ndim == 3:
        return None
    matrix, count = scores.matrix, len(scores.class_names)
    shown = np.arange(count)
    if count > _SHOWN:
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diagonal(matrix)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_SHOWN])
    shares, many = row_shares(matrix), len(shown) > _LEGIBLE
    rows = []
    for row in shown.tolist():
        cells = [_matrix_cell(float(shares[row, column]), int(matrix[row, column]), many) for column in shown.tolist()]
        rows.append({"name": scores.class_names[row], "total": int(scores.support[row]), "cells": cells})
    note = (
        "" if count <= _SHOWN else f"Of {count} classes the {_SHOWN} with the most wrong pixels; metrics.json has all."
    )
    return {"names": [scores.class_names[row] for row in shown], "rows": rows, "many": many, "note": note}


def found_table(scores: Scores) -> list[dict[str, Any]] | None:
    """What is found, missed and claimed wrongly of each class, where classes are decided one by one."""
    if scores.matrix.ndim == 2:
        return None
    false, missed, hits = scores.matrix[:, 0, 1], scores.matrix[:, 1, 0], scores.matrix[:, 1, 1]
    rows = []
    for row, name in enumerate(scores.class_names):
        counts = hits[row], missed[row], false[row]
        cells = [
            {"sort": int(count), "text": f"{grouped(count)} ({percent(float(ratio(count, scores.support[row])))})"}
            for count in counts
        ]
        rows.append({"name": name, "cells": cells, "bar": f"{100 * float(np.nan_to_num(scores.recall[row])):.1f}"})
    return rows


def pair_sentences(scores: Scores) -> list[Markup]:
    """The most confused pairs."""
    text = "{} of the pixels of {} were called {}."
    return [
        Markup(text).format(percent(pair.share), named(pair.true), named(pair.predicted)) for pair in confusions(scores)
    ]


def about(record: Record) -> list[tuple[str, str]]:
    """The command, the versions, and what was scored."""
    head = [line[2:] for line in record.configuration.splitlines() if line.startswith("# ")]
    command = next((line for line in head if line.startswith("segfocal ") and not line[9:10].isdigit()), "")
    metrics = record.metrics
    if "options" in metrics:
        command = f"segfocal {metrics.get('command', '')} {_line(metrics['options'])}"
    versions = {"segfocal": metrics.get("segfocal", ""), **(metrics.get("versions") or {})}
    told = [("command", command), *((key, str(metrics.get(key) or "")) for key in ("split", "checkpoint"))]
    told.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)))
    return [(term, text) for term, text in told if text]


def _line(options: Sequence[Any]) -> str:
    return shlex.join(map(str, options))


def _cell(value: float, text: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"sort": "" if math.isnan(value) else f"{value:.6g}", "text": text(value)}


def _matrix_cell(share: float, pixels: int, many: bool) -> dict[str, Any]:
    level = 0 if math.isnan(share) else math.ceil(20 * share) if share < 0.05 else round(20 * share)
    text = "" if many or math.isnan(share) or share < 0.005 else f"{100 * share:.0f}"
    return {"level": level, "pixels": pixels, "text": text}
