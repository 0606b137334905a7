"""What to try next, as it follows from the figures of a run."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from segfocal.evaluation.record import Curve, Record
from segfocal.evaluation.words import confusions, listed, named, percent

_LOW = 0.05  # an IoU as good as none
_RARE = 0.02  # share of the pixels
_OFTEN = 0.5  # share of a class that is called another one


def advice(record: Record) -> list[Markup]:
    """Sentences, the most important first; none if nothing stands out."""
    said = [*_swapped(record), *_of_curves(record.curves), *_near_zero(record)]
    return [*said, *_of_balance(record), *_unasked(record)]


def _near_zero(record: Record) -> list[Markup]:
    scores = record.scores
    low = [row for row, iou in enumerate(scores.iou) if iou < _LOW]
    if not low:
        return []
    low.sort(key=lambda row: -scores.share[row])
    said = [_story(record, row) for row in low[:5]]
    if len(low) > 5:
        said.append(Markup("{} more classes are at or near 0: {}.").format(len(low) - 5, _names(record, low[5:])))
    training = _training(record.options)
    if training is None:
        return said
    if unknown := [row for row in low if not _predicted(record, row)]:
        text = "Do the training masks hold {} at all? <code>segfocal stats</code> with this configuration counts them. "
        text += "A class that is not there cannot be learnt."
        said.append(Markup(text).format(_names(record, unknown)))
    if rare := [row for row in low if scores.share[row] < _RARE]:
        said += _for_rare(record, rare, training)
    return said


def _story(record: Record, row: int) -> Markup:
    """What became of a class that is at or near 0."""
    scores, name = record.scores, record.scores.class_names[row]
    iou, share = scores.iou[row], percent(float(scores.share[row]))
    text = Markup("{} has an IoU of {} and {} of the pixels").format(named(name), f"{iou:.3f}" if iou else "0", share)
    found = Markup(": {} of it was found").format(percent(float(scores.recall[row])))
    text += found if _predicted(record, row) else Markup(": it was never predicted")
    instead = [pair for pair in confusions(scores, scores.matrix.size) if pair.true == name]
    if instead:
        text += Markup("; {} of it was called {}").format(percent(instead[0].share), named(instead[0].predicted))
    curve = record.curves.get(f"val/iou/{name}", {})
    if curve and max(curve.values()) > max(_LOW, 2 * curve[max(curve)]):
        best = max(curve, key=lambda epoch: curve[epoch])
        text += Markup(
            ". In epoch {} it had an IoU of {:.2f} on val, so it can be learnt: try a lower <code>model.lr</code>, or "
            "<code>model.ema_decay: 0.999</code>, which hold on to it"
        ).format(best, curve[best])
    return text + Markup(".")


def _predicted(record: Record, row: int) -> bool:
    matrix = record.scores.matrix
    return bool((matrix[row, :, 1] if matrix.ndim == 3 else matrix[:, row]).any())


def _for_rare(record: Record, rare: list[int], training: Mapping[str, Any]) -> list[Markup]:
    """What gives rare classes more weight, and has not been done yet."""
    loss, data, names = training["loss"], training["data"], _names(record, rare)
    said = []
    shares = [_last(record.curves.get(f"val/loss_share/{record.scores.class_names[row]}", {})) for row in rare]
    small = [share for share in shares if share < 0.05]
    because = Markup(", as they make {} of the loss").format(percent(sum(small))) if small else Markup("")
    if loss.get("alpha") is None:
        text = "To weigh {} more{}: <code>model.loss.alpha: auto</code>, which counts how rare each class is."
        said.append(Markup(text).format(names, because))
    elif small:
        text = "The loss has an alpha, and still hardly sees {}{}: raise their alpha."
        said.append(Markup(text).format(names, because))
    if "dice_weight" not in loss:
        said.append(Markup("Try <code>segfocal.FocalDiceLoss</code>: Dice counts every class alike, however rare."))
    elif loss["dice_weight"] <= 1:
        text = "<code>model.loss.dice_weight: {:g}</code> in place of {:g}: Dice counts every class alike."
        said.append(Markup(text).format(max(1.0, 2 * loss["dice_weight"]), loss["dice_weight"]))
    if "crop" in data and not data.get("rare_crops"):
        text = "With <code>data.crop</code>, <code>data.rare_crops: 0.5</code> lays half of the windows around "
        said.append(Markup(text + "rare classes."))
    if size := data.get("size"):
        text = "The net sees images of {} pixels: at a larger <code>data.size</code> small and thin things keep theirs."
        said.append(Markup(text).format(" × ".join(map(str, size)) if isinstance(size, list) else size))
    return said


def _swapped(record: Record) -> list[Markup]:
    """Two classes that are called each other, as when a label map is wrong."""
    pairs = {(pair.true, pair.predicted) for pair in confusions(record.scores, 200) if pair.share > _OFTEN}
    both = sorted({tuple(sorted(pair)) for pair in pairs if pair[::-1] in pairs})
    text = "{} and {} are called each other: is the order of the classes the same in the predictions and in the truth?"
    return [Markup(text).format(named(one), named(other)) for one, other in both]


def _unasked(record: Record) -> list[Markup]:
    """Classes that were predicted without being in the target."""
    scores = record.scores
    predicted = scores.matrix[:, :, 1].sum(1) if scores.matrix.ndim == 3 else scores.matrix.sum(0)
    rows = np.flatnonzero((scores.support == 0) & (predicted > 0)).tolist()
    if not rows:
        return []
    pixels = percent(float(sum(predicted[row] for row in rows) / max(1, scores.matrix[..., :].sum())))
    text = "{} of the pixels were called {}, which these targets do not hold: such classes are left out of the mean."
    return [Markup(text).format(pixels, _names(record, rows))]


def _of_curves(curves: Mapping[str, Curve]) -> list[Markup]:
    """Trained too short, or too long."""
    said, miou, loss = [], curves.get("val/miou", {}), curves.get("val/loss", {})
    if len(miou) >= 4:
        epochs = sorted(miou)
        before = epochs[: -max(1, len(epochs) // 4)]
        gain = miou[epochs[-1]] - max(miou[epoch] for epoch in before)
        if gain > 0.01:
            text = "mIoU on val was still rising, by {:.3f} since epoch {}: raise <code>trainer.max_epochs</code>."
            said.append(Markup(text).format(gain, before[-1]))
    if len(loss) >= 4:
        best, last = min(loss, key=lambda epoch: loss[epoch]), max(loss)
        if loss[last] > 1.15 * loss[best]:
            text = (
                "The loss on val was lowest in epoch {}, and {} higher at the end: the net learns the training images "
                "by heart. Try a stronger <code>data.augment</code>, more images, or fewer epochs."
            )
            said.append(Markup(text).format(best, percent(loss[last] / loss[best] - 1)))
    return said


def _of_balance(record: Record) -> list[Markup]:
    """The worst class that is above 0: called too often, or too rarely."""
    scores = record.scores
    rows = [row for row, iou in enumerate(scores.iou) if _LOW <= iou < 0.5]
    if not rows or _training(record.options) is None:
        return []
    row = min(rows, key=lambda one: scores.iou[one])
    name, precision, recall = named(scores.class_names[row]), float(scores.precision[row]), float(scores.recall[row])
    figures = percent(recall), percent(precision)
    if recall > 1.5 * precision:
        text = (
            "{} is claimed too often: {} of it is found, but only {} of what is called so is right. Lower its "
            "<code>alpha</code>, or try <code>absent: keep</code>."
        )
        return [Markup(text).format(name, *figures)]
    if precision > 1.5 * recall:
        text = "{} is missed: only {} of it is found, while {} of what is called so is right. "
        text += "Raise its <code>alpha</code>."
        return [Markup(text).format(name, *figures)]
    return []


def _training(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of the loss and of the data; None for a run without training behind it."""
    model, data = options.get("model"), options.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict):
        return None
    loss = model.get("loss")
    held = {"loss": loss.get("init_args") if isinstance(loss, dict) else None, "data": data.get("init_args")}
    return {part: value if isinstance(value, dict) else {} for part, value in held.items()}


def _names(record: Record, rows: list[int]) -> Markup:
    return listed([record.scores.class_names[row] for row in rows])


def _last(curve: Curve) -> float:
    return curve[max(curve)] if curve else math.nan
