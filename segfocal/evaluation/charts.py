"""Charts for people: shares of classes; and those of a report, for light and for dark pages.

A line is known by its dashes and its mark as well as by its colour.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segfocal.evaluation.pictures import Colour
from segfocal.evaluation.record import Curve
from segfocal.evaluation.samples import shortened
from segfocal.evaluation.scores import Scores, Values, ratio


class Theme(NamedTuple):
    """Colours of a chart: of its text, of what is less important, and of lines, each 3:1 against the page or more."""

    ink: str
    faint: str
    lines: tuple[str, ...]


LIGHT = Theme("#1c2430", "#8b95a3", ("#0063a8", "#c44500", "#00735a", "#a03e86", "#7a6000", "#4a4a4a", "#5b3fc4"))
DARK = Theme("#e6eaf0", "#7d8795", ("#5cb8f0", "#ff9a52", "#3fd0a4", "#f0a3d3", "#f0e442", "#ffffff", "#b9a6ff"))
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
_MARKS = "osD^vPX"
_SIZE = 4.8, 3.3  # inches: on a phone the letters are still as large as those of the text around
_LETTERS = 22


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Draw in the colours of a theme, in the same bytes each time."""
    named = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "axes.titlecolor")
    settings: dict[Any, Any] = dict.fromkeys(named, theme.ink)
    settings |= {
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "segfocal",
        "text.parse_math": False,
        "grid.color": theme.faint,
    }
    settings["grid.color"] = theme.faint
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")  # names in any script
        yield


def as_svg(figure: Figure) -> bytes:
    """A figure without a background, whose letters are those of the reader's browser."""
    held = io.BytesIO()
    figure.savefig(held, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return held.getvalue()


def as_png(figure: Figure) -> bytes:
    """A figure on white."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return held.getvalue()


def reliability(bins: Sequence[Mapping[str, float]], theme: Theme) -> Figure:
    """How often the net is right, over how sure it is."""
    figure, axes = _axes("confidence", "share that is right")
    axes.plot([0, 1], [0, 1], "--", color=theme.faint, linewidth=1.2)
    lows, highs = ([row[end] for row in bins] for end in ("low", "high"))
    widths = [high - low for low, high in zip(lows, highs, strict=True)]
    axes.bar(lows, [row["accuracy"] for row in bins], widths, align="edge", color=theme.lines[0], alpha=0.45)
    held = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    axes.plot(*held, "o-", color=theme.lines[1], markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def losses(curves: Mapping[str, Curve], theme: Theme) -> Figure:
    """Loss of training and validation over the epochs."""
    figure, axes = _axes("epoch", "loss")
    for place, (key, label) in enumerate({"train/loss_epoch": "train", "val/loss": "val"}.items()):
        if key in curves:
            _line(axes, curves[key], theme, place, label)
    _legend(axes, 2)
    return figure


def mean_iou(curve: Curve, theme: Theme) -> Figure:
    """The mean IoU over the epochs, its best marked."""
    figure, axes = _axes("epoch", "mIoU on val")
    _line(axes, curve, theme, 0, "")
    best = max(curve, key=lambda epoch: curve[epoch])
    axes.annotate(f"{curve[best]:.3f}", (best, curve[best]), (0, 7), textcoords="offset points", ha="center")
    axes.margins(y=0.15)
    return figure


def per_class(curves: Mapping[str, Curve], shown: Sequence[str], label: str, theme: Theme) -> Figure:
    """A line per class over the epochs: those shown have colours, the others are grey."""
    figure, axes = _axes("epoch", label)
    others = [name for name in curves if name not in shown]
    for name in others:
        axes.plot(*_points(curves[name]), color=theme.faint, linewidth=0.8, alpha=0.6)
    for place, name in enumerate(shown):
        if name in curves:
            _line(axes, curves[name], theme, place, name)
    if others:
        axes.plot([], [], color=theme.faint, linewidth=0.8, label=f"{len(others)} others")
    axes.set_ylim(bottom=0)
    _legend(axes, 2)
    return figure


def confusion(scores: Scores, theme: Theme) -> Figure:
    """The confusion matrix in shares of its rows; of classes that may overlap, what of each is found."""
    names = [shortened(name, _LETTERS) for name in scores.class_names]
    if scores.matrix.ndim == 3:
        return _found(scores, names, theme)
    count = len(names)
    side = min(16.0, 2.2 + max(0.2, 0.45 - 0.005 * count) * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = row_shares(scores.matrix)
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= 30 else 5
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="truth")
    for row, column in np.argwhere(shares >= 0.005) if count <= 15 else ():
        white = shares[row, column] > 0.5
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color="white" if white else theme.ink, fontsize=8)
    return figure


def row_shares(matrix: NDArray[np.int64]) -> Values:
    """Each row of a confusion matrix (C, C) divided by its sum; NaN for a class that is not in the target.

    Example:
        >>> row_shares(np.array([[3, 1], [0, 0]])).tolist()
        [[0.75, 0.25], [nan, nan]]
    """
    return ratio(matrix, np.broadcast_to(matrix.sum(1, keepdims=True), matrix.shape))


def share_chart(file: Path, names: Sequence[str], shares: Sequence[float], palette: Sequence[Colour]) -> None:
    """Write a bar per class, the most frequent above, on a logarithmic axis: rare classes would be invisible otherwise.

    Args:
        file: The PNG.
        names: The classes.
        shares: Share of each in the pixels, in 0..1; a class of share 0 has no bar.
        palette: A colour for each.
    """
    order = sorted(range(len(names)), key=lambda index: shares[index])
    figure = Figure(figsize=(7, 0.9 + 0.28 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    percents = [100 * shares[index] for index in order]
    colours = [tuple(channel / 255 for channel in palette[index]) for index in order]
    bars = axes.barh(range(len(order)), percents, color=colours, edgecolor="0.3", linewidth=0.6)
    axes.set_yticks(range(len(order)), [shortened(names[index], 40) for index in order], parse_math=False)
    axes.bar_label(bars, [f"{percent:.3g} %" if percent else "never" for percent in percents], padding=3)
    axes.set_xscale("log")
    least = min((percent for percent in percents if percent), default=1)
    axes.set_xlim(least / 2, 300)
    axes.set_xticks([tick for tick in (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100) if tick >= least / 2])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("share of the labelled pixels, % (logarithmic)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=120)


def _found(scores: Scores, names: Sequence[str], theme: Theme) -> Figure:
    figure = Figure(figsize=(6, 1.3 + 0.3 * min(len(names), 80)), layout="constrained")
    axes = figure.add_subplot()
    found = 100 * np.nan_to_num(scores.recall)
    false = 100 * np.nan_to_num(ratio(scores.matrix[:, 0, 1], scores.support))
    rows = np.arange(len(names))
    axes.barh(rows, found, color=theme.lines[0], label="found")
    missed = np.where(scores.support > 0, 100 - found, 0)
    axes.barh(rows, missed, left=found, color="none", edgecolor=theme.lines[0], hatch="//", label="missed")
    axes.barh(rows, np.minimum(false, 100), left=100, color=theme.lines[1], label="wrongly claimed")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel("% of the class's pixels")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot(xlabel=across, ylabel=up)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if across == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _line(axes: Axes, curve: Curve, theme: Theme, place: int, label: str) -> None:
    kind = place % len(theme.lines)
    marks = max(1, len(curve) // 8)
    style: dict[str, Any] = {"color": theme.lines[kind], "linestyle": _DASHES[kind], "marker": _MARKS[kind]}
    (line,) = axes.plot(*_points(curve), linewidth=1.7, markersize=4.5, markevery=marks, **style)
    line.set_label(f" {shortened(label, _LETTERS)}" if label else "_")  # a label that begins with _ is left out


def _points(curve: Curve) -> tuple[list[int], list[float]]:
    epochs = sorted(curve)
    return epochs, [curve[epoch] for epoch in epochs]


def _legend(axes: Axes, columns: int) -> None:
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)
