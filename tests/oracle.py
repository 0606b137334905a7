"""The losses as a loop over pixels in Python floats: slow, obvious, and sharing nothing with segfocal."""

import math

import numpy as np

NAN = math.nan


def loss(
    logits,
    target,
    weight=None,
    *,
    part,
    activation="softmax",
    focal_weight=1.0,
    dice_weight=1.0,
    gamma=2.0,
    alpha=None,
    ignore_index=255,
    label_smoothing=0.0,
    reduction="mean",
    fp_weight=0.5,
    fn_weight=0.5,
    exponent=1.0,
    smooth=1.0,
    per_image=False,
    squared=False,
    log=False,
    absent="skip",
    classes=None,
):
    """The loss of NumPy arrays; the map of shape (B, *S) or (B, C, *S) for reduction="none"."""
    elements = list(_elements(logits, target, weight, activation, ignore_index))
    total = 0.0
    if part in ("focal", "focal_dice"):
        focal = _focal(elements, logits.shape, activation, gamma, alpha, label_smoothing, reduction)
        if reduction == "none":
            return focal
        total += focal_weight * focal
    if part != "focal":
        region = "dice" if part == "focal_dice" else part
        images = sorted({e["image"] for e in elements}) if per_image else [None]
        losses = []
        for image in images:
            chosen = [e for e in elements if image is None or e["image"] == image]
            if any(e["m"] > 0 for e in chosen):
                losses.append(
                    _region(
                        chosen,
                        logits.shape[1] if classes is None else classes,
                        region,
                        (fp_weight, fn_weight, exponent, smooth, squared, log, absent),
                    )
                )
        total += dice_weight * (sum(losses) / len(losses) if losses else 0.0)
    return total


def _elements(logits, target, weight, activation, ignore_index):
    """One dict for each image, pixel and class: its place, x, y, m, p and the negative logs of p and 1 - p."""
    num_classes, dense = logits.shape[1], target.ndim == logits.ndim
    for image in range(len(logits)):
        for place in np.ndindex(*logits.shape[2:]):
            x = [float(logits[(image, c, *place)]) for c in range(num_classes)]
            if dense:
                labels = [float(target[(image, c, *place)]) for c in range(num_classes)]
                ignored = [label == ignore_index for label in labels]
                if activation == "softmax":
                    ignored = [any(ignored)] * num_classes
                y = labels
            else:
                label = int(target[(image, *place)])
                ignored = [label == ignore_index] * num_classes
                y = [1.0 * (label == (1 if num_classes == 1 else c)) for c in range(num_classes)]
            m = 1.0 if weight is None else float(weight[(image, *place)])
            for c in range(num_classes):
                counts = m > 0 and not ignored[c]
                element = {"image": image, "place": place, "class": c, "y": y[c] if counts else 0.0}
                element["m"] = m if counts else 0.0
                element["p"], element["miss"], element["hit"] = _probability(x, c, activation) if counts else (0, 0, 0)
                yield element


def _probability(x, c, activation):
    """p, -log p and -log(1 - p) of channel c."""
    others = [x[j] for j in range(len(x)) if j != c] if activation == "softmax" else [0.0]
    odds = x[c] - _logsumexp(others)
    return 1 / (1 + math.exp(-odds)), _logsumexp([0.0, -odds]), _logsumexp([0.0, odds])


def _logsumexp(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def _focal(elements, shape, activation, gamma, alpha, label_smoothing, reduction):
    softmax = activation == "softmax"
    batch, num_classes, *spatial = shape
    result = np.zeros((batch, *spatial) if softmax else shape)
    valid = alphas = positives = units = 0.0
    for e in elements:
        c, p, m = e["class"], e["p"], e["m"]
        g = gamma if np.isscalar(gamma) else gamma[c]
        a = 1.0 if alpha is None else alpha if np.isscalar(alpha) else alpha[c]
        y = (1 - label_smoothing) * e["y"] + label_smoothing / (num_classes if softmax else 2)
        loss = m * a * y * (1 - p) ** g * e["miss"]
        if not softmax:
            loss += m * (1.0 if alpha is None else 1 - a) * (1 - y) * p**g * e["hit"]
        result[(e["image"], *e["place"]) if softmax else (e["image"], c, *e["place"])] += loss
        valid += m / num_classes if softmax else m
        alphas += m * a * e["y"]
        positives += m * e["y"]
        units += m > 0
    if reduction == "none":
        return result
    unit = valid / units if units and not softmax else 1.0
    divisor = {"mean": valid, "sum": 1.0, "weighted": alphas, "positive": max(unit, positives)}[reduction]
    return result.sum() / divisor if divisor > 0 else 0.0


def _region(elements, classes, region, options):
    fp_weight, fn_weight, exponent, smooth, squared, log, absent = options
    losses = []
    for c in range(classes) if isinstance(classes, int) else classes:
        mine = [e for e in elements if e["class"] == c]
        overlap = sum(e["m"] * e["p"] * e["y"] for e in mine)
        predicted = sum(e["m"] * e["p"] for e in mine)
        actual = sum(e["m"] * e["y"] for e in mine)
        if region == "dice":
            power = 2 if squared else 1
            top, size = 2 * overlap, sum(e["m"] * (e["p"] ** power + e["y"] ** power) for e in mine)
        elif region == "jaccard":
            top, size = overlap, predicted + actual - overlap
        else:
            top, size = overlap, overlap + fp_weight * (predicted - overlap) + fn_weight * (actual - overlap)
        score = (top + smooth) / (size + smooth) if size + smooth > 0 else 1.0
        loss = (-math.log(max(score, 1e-7)) if log else 1 - score) ** exponent
        if actual > 0 or absent == "keep":
            losses.append(loss)
        elif absent == "zero":
            losses.append(0.0)
    return sum(losses) / len(losses) if losses else 0.0
