"""Scores for people and programs: a table in the terminal, per_class.csv, metrics.json."""

import csv
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segfocal.evaluation.scores import Scores, Values, mean_of_present
from segfocal.evaluation.tally import COUNTS, Tally

COLUMNS = ("iou", "dice", "precision", "recall", "share")
_WIDE = 100  # columns of a terminal that has room for bars
_BAR = 8  # cells of the bar beside the IoU
_WORST = 3  # classes printed in red, at most one in three


def table(scores: Scores, title: str, *, tally: Tally | None = None, wide: bool = True) -> Table:
    """One row per class with IoU, Dice, precision, recall and share of pixels, and the mean below.

    An absent class shows dashes. The worst classes are red and marked with an arrow. With a `tally` of images the table
    has the 95 % interval of each IoU and the IoU near boundaries. Unless it is `wide` it fits 80 columns: without IoU
    as bars, and with a `tally` without Dice.

    Example:
        >>> table(Scores([[3, 1], [0, 4]], ["road", "car"]), "val").row_count  # rich.print shows it
        3
    """
    columns = {"IoU": _with_mean(scores.iou)}
    if tally:
        ends = [*tally.intervals.iou, tally.intervals.miou]
        columns |= {"95 %": [_range(*map(float, pair)) for pair in ends], "boundary": _with_mean(tally.boundary_iou)}
    if wide or not tally:
        columns["Dice"] = _with_mean(scores.dice)
    columns |= {"precision": _with_mean(scores.precision), "recall": _with_mean(scores.recall)}
    columns["pixels"] = [*map(_share, scores.share.tolist()), ""]
    view = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("class", no_wrap=True, max_width=24)
    for heading, cells in columns.items():  # long names give way to numbers
        view.add_column(heading, justify="right", no_wrap=True, min_width=max(map(len, [heading, *cells])))
    view.add_column("", no_wrap=True)
    worst = _worst(scores)
    ious = [*scores.iou.tolist(), scores.miou]
    for row, (name, *cells) in enumerate(zip([*scores.class_names, "mean"], *columns.values(), strict=True)):
        last = row == len(scores.class_names)
        if last:
            view.add_section()
        style = "bold" if last else "red" if row in worst else "dim" if math.isnan(ious[row]) else ""
        mark = (" ◀ worst" if wide or not tally else "◀") if row in worst else ""
        view.add_row(Text(name), *cells, (_bar(ious[row]) if wide else "") + mark, style=style)
    return view


def show(tally: Tally, split: str, folder: Path, about: dict[str, Any]) -> None:
    """Print the table of a tally, write its files into a folder, and say where they are."""
    console = Console()
    console.print()
    low, high = map(float, tally.intervals.miou)
    interval = "" if math.isnan(low) else f", 95 % interval {low:.3f} to {high:.3f}"
    count = len(tally.names)
    title = f"{split}: mIoU {_number(tally.scores.miou)}{interval}, {count} image{'' if count == 1 else 's'}"
    console.print(table(tally.scores, title, tally=tally, wide=console.width >= _WIDE))
    labelled = int(tally.scores.matrix.sum())
    if not labelled:
        print(f"warning: no pixel of {split} has a label that counts. Look at ignore_index, and at the masks.")
    if tally.probabilities and (lost := labelled - int(tally.probabilities.reliability[:, 0].sum())):
        print(f"warning: what the net gives is NaN at {lost} of {labelled} labelled pixels. Look at its weights.")
    write(tally.scores, folder, about, tally)
    print(f"scores: {', '.join(str(folder / name) for name in ('metrics.json', 'per_class.csv', 'per_image.csv'))}")


def as_dict(scores: Scores, tally: Tally | None = None) -> dict[str, Any]:
    """The scores as plain data for JSON: NaN, which JSON lacks, becomes None. A `tally` adds what it knows.

    Example:
        >>> as_dict(Scores([[3, 1], [0, 4]], ["road", "car"]))["per_class"]["car"]["recall"]
        1.0
    """
    values = {column: getattr(scores, column).tolist() for column in COLUMNS}
    per_class = {
        name: {**{column: _known(values[column][row]) for column in COLUMNS}, "support": int(scores.support[row])}
        for row, name in enumerate(scores.class_names)
    }
    summary: dict[str, Any] = {
        name: _known(getattr(scores, name)) for name in ("miou", "frequency_weighted_iou", "pixel_accuracy")
    }
    if tally:
        ends = tally.intervals
        summary |= {"miou_interval": list(map(_known, ends.miou)), "images": len(tally.names)}
        summary["boundary_miou"] = _known(mean_of_present(tally.boundary_iou))
        for row, (interval, boundary) in zip(
            per_class.values(), zip(ends.iou, tally.boundary_iou, strict=True), strict=True
        ):
            row |= {"iou_low": _known(interval[0]), "iou_high": _known(interval[1]), "boundary_iou": _known(boundary)}
        if known := tally.probabilities:
            summary["calibration"] = {"ece": _known(known.ece), "bins": [_all_known(bin_) for bin_ in known.bins]}
            for row, auroc, precision in zip(per_class.values(), known.auroc, known.average_precision, strict=True):
                row |= {"auroc": _known(auroc), "average_precision": _known(precision)}
    return {**summary, "per_class": per_class, "confusion_matrix": scores.matrix.tolist()}


def write(scores: Scores, folder: Path, about: dict[str, Any], tally: Tally | None = None) -> None:
    """Write metrics.json (with `about` at its head) and per_class.csv into a folder.

    A `tally` adds per_image.csv, the worst image first, and counts.npz, from which `segfocal compare` draws images.
    """
    plain = as_dict(scores, tally)
    document = json.dumps({**about, **plain}, indent=2)
    (folder / "metrics.json").write_text(document + "\n", encoding="utf-8")
    per_class = list(plain["per_class"].items())
    with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["class", *per_class[0][1]])
        for name, row in per_class:
            rows.writerow([name, *("" if value is None else value for value in row.values())])
    if tally:
        _write_images(tally, folder)


def versions() -> dict[str, str]:
    """Of the libraries that scores depend on, those that are loaded.

    Example:
        >>> "numpy" in versions()
        True
    """
    names = ("numpy", "cv2", "torch", "pytorch_lightning", "segmentation_models_pytorch")
    loaded = {name: sys.modules[name] for name in names if name in sys.modules}
    return {"python": platform.python_version(), **{name: str(held.__version__) for name, held in loaded.items()}}


def _write_images(tally: Tally, folder: Path) -> None:
    ious = tally.per_image
    with (folder / "per_image.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "miou"])
        for place in np.argsort(ious, kind="stable"):  # those without a labelled pixel last
            rows.writerow([tally.names[place], "" if math.isnan(ious[place]) else ious[place]])
    names = np.array([name.encode("utf-8", "surrogateescape") for name in tally.names], np.bytes_)
    np.savez_compressed(folder / COUNTS, names=names, counts=tally.images, classes=np.array(tally.class_names))


def _with_mean(values: Values) -> list[str]:
    return [_number(float(value)) for value in (*values, mean_of_present(values))]


def _worst(scores: Scores) -> set[int]:
    known = [(float(iou), row) for row, iou in enumerate(scores.iou) if not math.isnan(iou)]
    count = min(_WORST, len(known) // 3)
    return {row for _, row in sorted(known)[:count]}


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _range(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low:.3f}–{high:.3f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) or value == 0 else f"{100 * value:.2f} %"


def _bar(value: float) -> str:
    return "" if math.isnan(value) else "█" * round(_BAR * value) + "░" * (_BAR - round(_BAR * value))


def _all_known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _known(value) for name, value in values.items()}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
