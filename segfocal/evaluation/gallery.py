"""The worst and the best images of a split: kept while it is counted, and painted. Without torch.

Shapes: labels (H, W), or (C, H, W) of 0 and 1 where classes may overlap; images (H, W, D).
"""

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segfocal.evaluation.counts import ImageCounts, Labels
from segfocal.evaluation.intervals import iou_of
from segfocal.evaluation.pictures import Picture, as_picture
from segfocal.evaluation.samples import LabelPainter, striped
from segfocal.evaluation.tally import rights

GALLERY = "gallery"  # the folder of the pictures in that of a run
INDEX = "gallery.json"
PARTS = ("image", "truth", "prediction", "errors")
WORST, BEST = 6, 3
_SIDE = 1600  # pixels of a picture's longer side, at most
_WRONG, _MISSED, _FALSE, _BOTH = (255, 176, 0), (86, 180, 233), (255, 176, 0), (255, 255, 255)

Key = tuple[float, str]


class Kept(NamedTuple):
    """An image that is kept.

    Attributes:
        miou: Mean IoU over its classes.
        name: Its name.
        wrong: Share of its labelled pixels, or of its pairs of pixel and class, that are wrong.
        prediction: Predicted labels.
        target: True labels.
        image: A picture of it, if its pixels are known.
    """

    miou: float
    name: str
    wrong: float
    prediction: Labels
    target: Labels
    image: NDArray[Any] | None

    @property
    def key(self) -> Key:
        """What images are ranked by; names decide between equals."""
        return self.miou, self.name


class Gallery:
    """Keeps the worst and the best of any number of images, those of small memory; several threads may add.

    Example:
        >>> from segfocal.evaluation.counts import count_image
        >>> gallery, target = Gallery(), np.uint8([[0, 1]])
        >>> for name, labels in {"good": [[0, 1]], "poor": [[1, 0]]}.items():
        ...     gallery.offer(name, count_image(np.uint8(labels), target, 2, 255), np.uint8(labels), target)
        >>> [kept.name for kept in gallery.kept]
        ['poor', 'good']
    """

    def __init__(self, kept: Iterable[Kept] = ()) -> None:
        self._lock = threading.Lock()
        self._kept: list[Kept] = []
        for one in kept:
            self._insert(one)

    @property
    def kept(self) -> list[Kept]:
        """At most 6 of the worst, and 3 of the best after them; of fewer images two thirds are among the worst."""
        return list(self._kept)

    def offer(
        self, name: str, counted: ImageCounts, prediction: Labels, target: Labels, image: NDArray[Any] | None = None
    ) -> None:
        """Keep an image if it is among the worst or the best so far; one without a labelled pixel never is."""
        matrix = counted.matrix
        miou = float(iou_of(rights(matrix).astype(np.float64))[-1])
        if np.isnan(miou) or not self._is_wanted((miou, name)):
            return
        wrong = 1 - float(np.trace(matrix, axis1=-2, axis2=-1).sum() / matrix.sum())
        small = None if image is None else _shrunk(as_picture(image), cv2.INTER_AREA)
        self._insert(Kept(miou, name, wrong, _small_labels(prediction), _small_labels(target), small))

    def _is_wanted(self, key: Key) -> bool:
        with self._lock:
            keys = [kept.key for kept in self._kept]
            return len(keys) < WORST + BEST or key < keys[WORST - 1] or key > keys[WORST]

    def _insert(self, kept: Kept) -> None:
        with self._lock:
            self._kept = sorted([*self._kept, kept], key=lambda one: one.key)
            if len(self._kept) > WORST + BEST:
                del self._kept[WORST]


def merged(keys: Iterable[Iterable[Key]]) -> set[Key]:
    """Which images of several galleries belong to the gallery of all, by their keys."""
    ranked = sorted({key for of_gallery in keys for key in of_gallery})
    return set(ranked[:WORST] + ranked[WORST:][-BEST:])


def write_gallery(
    gallery: Gallery, run: Path, painter: LabelPainter, image_of: Callable[[Kept], NDArray[Any] | None]
) -> None:
    """Write the pictures into RUN/gallery, with gallery.json, which says what they are.

    Args:
        gallery: The images.
        run: The folder of the run.
        painter: Knows the classes and their colours.
        image_of: The pixels of an image, (H, W, D); None if they are not known.
    """
    folder = run / GALLERY
    folder.mkdir(exist_ok=True)
    all_kept = gallery.kept
    count = -(-2 * len(all_kept) // 3)

    def row_of(place: int) -> dict[str, Any]:
        kept = all_kept[place]
        kind, rank = ("worst", place + 1) if place < count else ("best", len(all_kept) - place)
        row: dict[str, Any] = {"kind": kind, "rank": rank, "name": kept.name, "miou": kept.miou, "wrong": kept.wrong}
        for part, picture in zip(PARTS, _pictures(kept, painter, image_of(kept)), strict=True):
            if picture is not None:
                row[part] = f"{kind}-{rank}-{part}.jpg"
                (folder / row[part]).write_bytes(encoded(picture, 90))
        return row

    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(row_of, range(len(all_kept))))
    overlap = any(kept.target.ndim == 3 for kept in all_kept)
    about = {"images": rows, "legend": painter.legend[:-1], "overlap": overlap}
    (folder / INDEX).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def error_map(prediction: Labels, target: Labels, ignore_index: int, image: Picture | None = None) -> Picture:
    """What is wrong, in light colours on the darkened grey image: told apart by their lightness alone.

    Wrong pixels are orange. Where classes may overlap, pixels that some class misses are blue, those that some class
    claims wrongly orange, and those of both white. Ignored pixels are striped.

    Example:
        >>> error_map(np.uint8([[0, 1]]), np.uint8([[0, 0]]), 255).tolist()
        [[[60, 60, 60], [255, 176, 0]]]
    """
    ignored = target == ignore_index
    if image is None:
        grey = np.full(target.shape[-2:], 60, np.uint8)
    else:
        fitted = cv2.resize(image, target.shape[:-3:-1], interpolation=cv2.INTER_LINEAR)
        grey = (0.4 * cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY)).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    if target.ndim == 2:
        picture[(prediction != target) & ~ignored] = _WRONG
        return striped(picture, ignored)
    missed = ((target == 1) & (prediction == 0) & ~ignored).any(0)
    false = ((target == 0) & (prediction == 1) & ~ignored).any(0)
    for there, colour in ((missed, _MISSED), (false, _FALSE), (missed & false, _BOTH)):
        picture[there] = colour
    return striped(picture, ignored.all(0))


def encoded(picture: Picture, quality: int) -> bytes:
    """A picture as a JPG file."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def _pictures(kept: Kept, painter: LabelPainter, image: NDArray[Any] | None) -> list[Picture | None]:
    """In the order of PARTS; without an image the labels are painted alone."""
    size = kept.target.shape[-2:]
    shown = None if image is None else _shrunk(as_picture(image), cv2.INTER_AREA)
    ground, opacity = (np.full((*size, 3), 225, np.uint8), 1.0) if shown is None else (shown, 0.5)
    labels = [painter.paint(ground, mask, opacity) for mask in (kept.target, kept.prediction)]
    return [shown, *labels, error_map(kept.prediction, kept.target, painter.ignore_index, shown)]


def _small_labels(labels: Labels) -> Labels:
    if labels.ndim == 2:
        return _shrunk(labels, cv2.INTER_NEAREST_EXACT)
    return np.stack([_shrunk(plane, cv2.INTER_NEAREST_EXACT) for plane in labels])


def _shrunk(array: NDArray[Any], how: int) -> NDArray[Any]:
    """A copy (H, W) or (H, W, D) that is not larger than a picture, and holds on to no batch."""
    height, width = array.shape[:2]
    if max(height, width) <= _SIDE:
        return array.copy()
    factor = _SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(array, size, interpolation=how)).reshape(size[1], size[0], *array.shape[2:])
