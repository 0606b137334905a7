"""The pictures of a report: drawn charts, and the gallery's, made small; within the page, and as files beside it."""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from segfocal.evaluation.charts import (
    DARK,
    LIGHT,
    Theme,
    as_png,
    as_svg,
    confusion,
    losses,
    mean_iou,
    per_class,
    reliability,
    themed,
)
from segfocal.evaluation.gallery import GALLERY, PARTS, encoded
from segfocal.evaluation.intervals import iou_of
from segfocal.evaluation.record import Curve, Record, number
from segfocal.evaluation.words import decimal, grouped, named, percent, plain_name

CHARTS = "charts"  # the folder of the PNG files in that of a run
_BUDGET = 1_700_000  # bytes of all embedded pictures of the gallery together, before base64
_WIDTHS = 480, 360, 240, 160  # pixels
_COLOURED = 6  # classes that have a colour of their own, where there are too many for all
_TITLES = {"image": "image", "truth": "truth", "prediction": "prediction", "errors": "errors"}

Chart = dict[str, str]


def write_confusion(record: Record) -> None:
    """The confusion matrix as a file; the page has it as a table."""
    with themed(LIGHT):
        _write(record.folder, "confusion", as_png(confusion(record.scores, LIGHT)))


def reliability_chart(record: Record) -> Chart | None:
    """Confidence against accuracy, if it was measured."""
    bins = record.bins
    if not bins:
        return None
    ece, pixels = number(record.metrics["calibration"].get("ece")), sum(row["pixels"] for row in bins)
    gap = sum(row["pixels"] * (row["confidence"] - row["accuracy"]) for row in bins) / pixels
    side = "too sure" if gap > 0.01 else "not sure enough" if gap < -0.01 else "about as sure as it should be"
    told = f"Over {grouped(pixels)} pixels the expected calibration error is {decimal(ece)}; the net is {side}."
    worst = max(bins, key=lambda row: abs(row["confidence"] - row["accuracy"]))
    alt = f"Reliability diagram. {told} The widest gap: where it is {percent(worst['confidence'])} sure, "
    alt += f"{percent(worst['accuracy'])} is right."
    note = f"{told} Bars and line: what is right of the pixels of a confidence; dashed: as it should be."
    return _chart(record, "reliability", "Reliability", alt, note, partial(reliability, bins))


def curve_charts(record: Record) -> list[Chart]:
    """Loss, mIoU, IoU and share of the loss per class over the epochs, as far as they were logged."""
    curves, found = record.curves, []
    kinds = {"train/loss_epoch": "train", "val/loss": "val"}
    if told := [f"{name} {_course(curves[key])}" for key, name in kinds.items() if key in curves]:
        alt = f"Loss over the epochs: {'; '.join(told)}."
        found.append(_chart(record, "curves_loss", "Loss", alt, "", partial(losses, curves)))
    if miou := curves.get("val/miou"):
        best = max(miou, key=lambda epoch: miou[epoch])
        alt = f"mIoU on val over the epochs: {_course(miou)}; best {decimal(miou[best])} in epoch {best}."
        found.append(_chart(record, "curves_miou", "mIoU", alt, "", partial(mean_iou, miou)))
    shown = _coloured(record)
    for kind, title in (("iou", "IoU of each class"), ("loss_share", "Share of the loss")):
        keys = {name: f"val/{kind}/{name}" for name in record.scores.class_names}
        own = {name: curves[key] for name, key in keys.items() if key in curves}
        if own:
            last = {name: decimal(curve[max(curve)]) for name, curve in own.items()}
            ends = ", ".join(f"{plain_name(name)} {last[name]}" for name in shown if name in own)
            which = "each class" if len(shown) == len(own) else f"the {len(shown)} classes of the lowest IoU"
            alt = f"{title} over the epochs. At the end, for {which}: {ends}."
            note = "" if len(shown) >= len(own) else f"Coloured are {which}."
            draw = partial(per_class, own, shown, "IoU on val" if kind == "iou" else "share of the loss on val")
            found.append(_chart(record, f"curves_{kind}", title, alt, note, draw))
    return found


def gallery_section(record: Record) -> dict[str, Any] | None:
    """The worst and the best images."""
    rows = record.gallery.get("images") or []
    if not rows:
        return None
    small = _small(record.folder / GALLERY, rows)
    groups = []
    for kind, heading in (("worst", "The worst images"), ("best", "The best images")):
        shots = [_shot(record, row, small) for row in rows if row["kind"] == kind]
        groups.append({"heading": heading, "shots": shots if kind == "worst" else shots[::-1]})
    note = "Errors are orange on the dark image, ignored pixels striped. "
    if record.gallery.get("overlap"):
        note = "Errors: blue is missed, orange claimed wrongly, white both; ignored pixels are striped. "
    held = [group for group in groups if group["shots"]]
    return {
        "groups": held,
        "note": note + "Images are ranked by the mean IoU of their classes.",
        "legend": record.gallery["legend"],
    }


def _shot(record: Record, row: dict[str, Any], small: dict[str, tuple[bytes, int, int]]) -> dict[str, Any]:
    wrong, name = percent(float(row["wrong"])), str(row["name"])
    caption = Markup("{}: mIoU {}, {} of the pixels wrong").format(named(name), decimal(row["miou"]), wrong)
    if name in record.counts:
        ious = iou_of(record.counts[name])[:-1]
        lowest = [place for place in np.argsort(ious, kind="stable") if ious[place] < 0.5][:3]
        if lowest and row["kind"] == "worst":
            told = [Markup("{} {:.2f}").format(named(record.scores.class_names[at]), ious[at]) for at in lowest]
            caption += Markup("; lowest: ") + Markup(", ").join(told)
    alts = {
        "image": f"The image {plain_name(name)}",
        "truth": f"True classes of {plain_name(name)}",
        "prediction": f"Predicted classes of {plain_name(name)}, mean IoU {decimal(row['miou'])}",
        "errors": f"Errors in {plain_name(name)}: {wrong} of the pixels",
    }
    parts = []
    for part in PARTS:
        if row.get(part) in small:
            data, width, height = small[row[part]]
            file = f"{GALLERY}/{Path(row[part]).name}"
            held = {"title": _TITLES[part], "file": file, "data": _data(data, "jpeg"), "alt": alts[part]}
            parts.append({**held, "width": width, "height": height})
    return {"caption": caption, "parts": parts}


def _small(folder: Path, rows: list[dict[str, Any]]) -> dict[str, tuple[bytes, int, int]]:
    """The pictures as they are embedded, by their file: bytes, width and height; as large as there is room for."""
    names = [str(row[part]) for row in rows for part in PARTS if row.get(part)]
    files = {name: folder / Path(name).name for name in names}
    there = {name: np.fromfile(file, np.uint8) for name, file in files.items() if file.is_file()}
    pictures = {name: cv2.imdecode(data, cv2.IMREAD_COLOR_BGR) for name, data in there.items() if data.size}
    held: dict[str, tuple[bytes, int, int]] = {}
    for width in _WIDTHS:
        held = {name: _reduced(picture, width) for name, picture in pictures.items() if picture is not None}
        if sum(len(data) for data, *_ in held.values()) <= _BUDGET:
            break
    return held


def _reduced(picture: Any, width: int) -> tuple[bytes, int, int]:  # noqa: ANN401
    factor = min(1.0, width / picture.shape[1], 2 * width / picture.shape[0])
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    reduced = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return encoded(reduced[..., ::-1], 80), *size


def _chart(record: Record, name: str, title: str, alt: str, note: str, draw: Callable[[Theme], Figure]) -> Chart:
    chart = {"title": title, "alt": alt, "note": note}
    for theme, key in ((LIGHT, "light"), (DARK, "dark")):
        with themed(theme):
            figure = draw(theme)
            chart[key] = _data(as_svg(figure), "svg+xml")
            if theme is LIGHT:
                _write(record.folder, name, as_png(figure))
    return chart


def _write(folder: Path, name: str, data: bytes) -> None:
    (folder / CHARTS).mkdir(exist_ok=True)
    (folder / CHARTS / f"{name}.png").write_bytes(data)


def _data(held: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(held).decode()}"


def _coloured(record: Record) -> list[str]:
    """The classes of the lowest IoU, the lowest first; all, if their lines can be told apart."""
    scores = record.scores
    order = [scores.class_names[row] for row in np.argsort(scores.iou, kind="stable") if scores.support[row] > 0]
    return order if len(order) <= len(LIGHT.lines) else order[:_COLOURED]


def _course(curve: Curve) -> str:
    first, last = min(curve), max(curve)
    return f"from {decimal(curve[first])} in epoch {first} to {decimal(curve[last])} in epoch {last}"
