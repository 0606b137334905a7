"""Scores for people and programs: a table in the terminal, per_class.csv, metrics.json."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from segfocal.evaluation.scores import Scores, mean_of_present

COLUMNS = ("iou", "dice", "precision", "recall", "share")
_BAR = 8  # cells of the bar beside the IoU
_WORST = 3  # classes printed in red, at most one in three


def table(scores: Scores, title: str, *, bars: bool = True) -> Table:
    """One row per class with IoU, Dice, precision, recall and share of pixels, and the mean below.

    An absent class shows dashes. The worst classes are red and marked with an arrow. `bars` shows IoU as bars too.

    Example:
        >>> table(Scores([[3, 1], [0, 4]], ["road", "car"]), "val").row_count  # rich.print shows it
        3
    """
    view = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("class", no_wrap=True, max_width=24)
    for heading in ("IoU", "Dice", "precision", "recall", "pixels"):  # long names give way to numbers
        view.add_column(heading, justify="right", no_wrap=True, min_width=max(7, len(heading)))
    view.add_column("", no_wrap=True)
    worst = _worst(scores)
    values = {column: getattr(scores, column) for column in COLUMNS}
    for row, name in enumerate(scores.class_names):
        iou = float(values["iou"][row])
        style = "red" if row in worst else "dim" if math.isnan(iou) else ""
        cells = [_number(float(values[column][row])) for column in COLUMNS[:-1]]
        mark = " ◀ worst" if row in worst else ""
        bar = _bar(iou) if bars else ""
        view.add_row(Text(name), *cells, _share(float(values["share"][row])), bar + mark, style=style)
    view.add_section()
    means = [_number(mean_of_present(values[column])) for column in COLUMNS[:-1]]
    view.add_row("mean", *means, "", _bar(scores.miou) if bars else "", style="bold")
    return view


def as_dict(scores: Scores) -> dict[str, Any]:
    """The scores as plain data for JSON: NaN, which JSON lacks, becomes None.

    Example:
        >>> as_dict(Scores([[3, 1], [0, 4]], ["road", "car"]))["per_class"]["car"]["recall"]
        1.0
    """
    values = {column: getattr(scores, column).tolist() for column in COLUMNS}
    per_class = {
        name: {**{column: _known(values[column][row]) for column in COLUMNS}, "support": int(scores.support[row])}
        for row, name in enumerate(scores.class_names)
    }
    summary = {"miou": _known(scores.miou), "pixel_accuracy": _known(scores.pixel_accuracy)}
    return {**summary, "per_class": per_class, "confusion_matrix": scores.matrix.tolist()}


def write(scores: Scores, folder: Path, about: dict[str, Any]) -> None:
    """Write metrics.json (with `about` at its head) and per_class.csv into a folder."""
    document = json.dumps({**about, **as_dict(scores)}, indent=2)
    (folder / "metrics.json").write_text(document + "\n", encoding="utf-8")
    with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["class", *COLUMNS, "support"])
        for name, row in as_dict(scores)["per_class"].items():
            rows.writerow([name, *("" if value is None else value for value in row.values())])


def _worst(scores: Scores) -> set[int]:
    known = [(float(iou), row) for row, iou in enumerate(scores.iou) if not math.isnan(iou)]
    count = min(_WORST, len(known) // 3)
    return {row for _, row in sorted(known)[:count]}


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) or value == 0 else f"{100 * value:.2f} %"


def _bar(value: float) -> str:
    return "" if math.isnan(value) else "█" * round(_BAR * value) + "░" * (_BAR - round(_BAR * value))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
