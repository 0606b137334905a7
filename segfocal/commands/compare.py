"""`segfocal compare`: which class got better from one run to another, and whether that is more than chance."""

import argparse
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segfocal.commands.score import Parser
from segfocal.data.files import DataError
from segfocal.evaluation.intervals import Counts, bootstrap_difference, iou_of
from segfocal.evaluation.tally import COUNTS
from segfocal.mistakes import ConfigError


class _Run(NamedTuple):
    folder: Path
    names: list[str]
    classes: list[str]
    counts: Counts


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = Parser("segfocal compare", description=__doc__, allow_abbrev=False)
    words.add_argument("before", type=Path, help="a run of segfocal score, test or validate, such as runs/a/001-test")
    words.add_argument("after", type=Path, help="another one, with the same images and classes")
    words.add_argument("--json", type=Path, metavar="FILE", help="write the differences to a file too")
    return words


def compare(options: list[str]) -> None:
    """Print the differences with their intervals."""
    asked = parser().parse_args(options)
    if asked.json is not None and (asked.json.is_dir() or not asked.json.absolute().parent.is_dir()):
        raise ConfigError(
            f"Expected `--json` to be a file in a folder that is there, got {str(asked.json)!r}. Correct it."
        )
    before, after = _read(asked.before), _read(asked.after)
    _check_alike(before, after)
    place = {name: number for number, name in enumerate(after.names)}
    counts = after.counts[[place[name] for name in before.names]]
    ends = bootstrap_difference(before.counts, counts)
    intervals = [*ends.iou, ends.miou]
    scores = [iou_of(part.sum(0).astype(np.float64)) for part in (before.counts, counts)]
    rows = [
        (name, *map(float, (*pair, *interval)))
        for name, *pair, interval in zip([*before.classes, "mean"], *scores, intervals, strict=True)
    ]
    Console().print(_table(rows, f"IoU on {len(before.names)} images: {before.folder} → {after.folder}"))
    print("95 % intervals of the difference, over the images; one that holds 0 may be chance.")
    if asked.json is not None:
        keys = ("before", "after", "low", "high")
        told = [dict(zip(keys, map(_known, row[1:]), strict=True)) for row in rows]
        named = {"per_class": dict(zip(before.classes, told, strict=False)), "mean": told[-1]}
        asked.json.write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(folder: Path) -> _Run:
    file = folder / COUNTS
    if not file.is_file():
        raise DataError(
            f"{folder} holds no {COUNTS}, which `segfocal score`, test and validate write. Name the folder of a run."
        )
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            names, classes, counts = (held[key] for key in ("names", "classes", "counts"))
        shapes = names.shape, classes.shape, counts.shape
        sound = shapes == ((len(names),), (len(classes),), (len(names), len(classes), 3)) and counts.size
        if not sound or (names.dtype.kind, classes.dtype.kind, counts.dtype) != ("S", "U", np.int64):
            raise ValueError(f"it holds {', '.join(map(str, shapes))}, not names, classes and counts")
        if counts.min() < 0 or len(set(names.tolist())) < len(names):
            raise ValueError("it holds negative counts, or a name twice")
    # What is raised depends on which bytes are damaged.
    except (OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}). Score the masks again.") from error
    return _Run(folder, [bytes(name).decode("utf-8", "surrogateescape") for name in names], classes.tolist(), counts)


def _check_alike(before: _Run, after: _Run) -> None:
    if before.classes != after.classes:
        raise DataError(
            f"{before.folder} and {after.folder} must have the same classes, got {', '.join(before.classes)} and "
            f"{', '.join(after.classes)}. Score both with the same `--classes`."
        )
    if other := sorted(set(before.names) ^ set(after.names)):
        raise DataError(
            f"{before.folder} and {after.folder} must be of the same images; {len(other)} are only in one, such as "
            f"{other[0]}. Score both on the same targets."
        )


def _table(rows: list[tuple[str, float, float, float, float]], title: str) -> Table:
    view = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("class", no_wrap=True, max_width=24)
    for heading, width in (("before", 6), ("after", 6), ("difference", 10), ("95 %", 18)):
        view.add_column(heading, justify="right", no_wrap=True, min_width=width)
    view.add_column("", no_wrap=True)
    for name, before, after, low, high in rows:
        if name == "mean" and (name, before, after, low, high) == rows[-1]:
            view.add_section()
        if math.isnan(low):
            known = ["-" if math.isnan(value) else f"{value:.3f}" for value in (before, after)]
            view.add_row(Text(name), *known, "-", "-", "", style="dim")
            continue
        style, verdict = _verdict(low, high)
        change = after - before
        digits = 4 if min(abs(low), abs(high)) < 0.0005 < max(abs(low), abs(high)) else 3  # an end that is not quite 0
        ends = f"{low:+z.{digits}f} to {high:+z.{digits}f}"
        numbers = f"{before:.3f}", f"{after:.3f}", f"{change:+z.3f}", ends
        view.add_row(Text(name), *numbers, verdict, style=style)
    return view


def _verdict(low: float, high: float) -> tuple[str, str]:
    if low == high == 0:
        return "dim", "the same"
    return ("green", "▲ better") if low > 0 else ("red", "▼ worse") if high < 0 else ("", "may be chance")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
