"""Charts for people, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from segfocal.evaluation.painting import Colour


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
    axes.set_yticks(range(len(order)), [_plain(names[index]) for index in order])
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


def _plain(name: str) -> str:
    """Matplotlib reads what stands between dollar signs as a formula."""
    return name[:40].replace("$", r"\$")
