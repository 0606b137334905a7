"""Labels as data: which values or colours of a mask file mean which class.

Shapes: H x W pixels, C classes. A raw mask holds what the file holds; a legal one holds class indices and ignore_index.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MaskForm = Literal["index", "per_class", "channels"]
FORMS: tuple[MaskForm, ...] = get_args(MaskForm)
Unlisted = Literal["error", "ignore", "background"] | tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """Which values a mask may hold, and what they become.

    A single class means a binary task, where 0 is the background and 1 the class. Without `values` a mask holds the
    classes' indices, which are handed on as they are.

    Attributes:
        num_classes: C.
        ignore_index: Marks pixels that count nowhere, in the file (unless it is listed) and in the batch.
        values: The raw values of each class; with `colours` as 0xRRGGBB.
        colours: Raw values are RGB colours.
        unlisted: What becomes of all other raw values: an "error", "ignore", or "background", the 0 of a single class;
            or the values that are ignored, all others being errors.
        form: "index", one value per pixel; "per_class", a file of 0 and 1 per class; "channels", one file with C such
            channels. The last two give dense masks (C, H, W), in which classes may overlap.

    Example:
        >>> Labels(num_classes=3, ignore_index=255).illegal(np.array([[0, 2], [3, 255]], np.uint8))
        [3]
        >>> merged = Labels(2, 255, values=((7, 8), (26,)), unlisted="ignore")
        >>> merged.legal(np.array([[7, 8], [26, 3]], np.uint8)).tolist()
        [[0, 0], [1, 255]]
    """

    num_classes: int
    ignore_index: int
    values: tuple[tuple[int, ...], ...] | None = None
    colours: bool = False
    unlisted: Unlisted = "error"
    form: MaskForm = "index"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"Expected `masks` to be one of {', '.join(FORMS)}, got {self.form!r}. Choose one.")
        if self.unlisted == "background" and not self.dense and self.num_classes > 1:
            raise ValueError(
                f"Expected `unlisted: background` with a single class, got {self.num_classes}. Choose error or ignore, "
                "or list the background as a class."
            )

        if isinstance(self.unlisted, tuple):
            classes = replace(self, unlisted="error", ignore_index=-1)
            own = {value for plane in range(self.num_classes) for value in classes._targets(plane)}
            if both := [value for value in self.unlisted if value in own]:
                raise ValueError(
                    f"Expected `unlisted` to name values that are no class's, got {self._shown(both[0])}. "
                    "Take it out there, or leave it out of `classes`."
                )

    @property
    def dense(self) -> bool:
        """Whether masks are (C, H, W), with classes that may overlap."""
        return self.form != "index"

    @property
    def count(self) -> int:
        """Number of labels besides `ignore_index`: the classes, or background and class."""
        return 2 if self.dense else max(self.num_classes, 2)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest type that holds every legal label."""
        return np.uint8 if max(self.count - 1, self.ignore_index) <= 255 else np.uint16

    def illegal(self, raw: Array, plane: int = 0) -> list[int]:
        """List the values of a raw mask, or of its plane of this number, that mean nothing."""
        if self.unlisted in ("ignore", "background"):
            return []
        if self.colours:
            table = _table(self, plane)
            return [int(value) for value in np.unique(raw[table.keys[raw % table.modulus] != raw])]
        if raw.dtype == np.uint8 and not cv2.hasNonZero(cv2.LUT(raw, _strays(self, plane))):
            return []  # at a third of the time of what follows
        return [value for value in present_labels(raw) if value not in self._targets(plane)]

    def fault(self, raw: Array, name: str, plane: int = 0) -> str | None:
        """Say what is wrong with the values of the mask file called `name`; None if nothing is."""
        bad = self.illegal(raw, plane)
        if not bad:
            return None
        shown = ", ".join(map(self._shown, bad[:8])) + (", ..." if len(bad) > 8 else "")
        if self.values is None:
            rule = f"0..{self.count - 1} or {self.ignore_index} (ignored)"
            remedy = "Add the missing classes, or set `ignore_index` to the value that marks void."
        else:
            rule = "listed in `classes`" + ("" if self.colours else f", or {self.ignore_index} (ignored)")
            remedy = f"List it there, or, if it means nothing, set `unlisted: [{self._shown(bad[0])}]`."
        if self.count == 2 and self.values is None and bad == [255]:
            remedy = "If 255 means the class, say so: `classes: {NAME: 255}`."
        return f"{name}: labels must be {rule}, got {shown}. {remedy}"

    def legal(self, raw: Array, plane: int = 0) -> Array:
        """Turn a raw mask (H, W) into labels (H, W); of a dense mask, the plane of this number into 0 and 1."""
        if self.values is None and self.unlisted == "error":
            return raw
        table = _table(self, plane)
        if not self.colours:
            return table.labels[raw]
        place = raw % table.modulus
        return np.where(table.keys[place] == raw, table.labels[place], table.rest)

    def counts(self, mask: Array) -> Array:
        """The pixels of each class, (C,), in a legal mask, (H, W) or dense (C, H, W)."""
        if mask.ndim == 3:
            return np.asarray(np.count_nonzero(mask == 1, axis=(1, 2)))
        first = 1 if self.num_classes == 1 else 0  # the background of a binary task is no class
        if mask.dtype == np.uint8:  # three times as fast as bincount
            pixels = cv2.calcHist([mask], [0], None, [256], [0, 256]).reshape(-1)
            return np.asarray(pixels[first : self.count], np.int64)
        return np.bincount(mask.ravel(), minlength=self.count)[first : self.count]

    def present(self, mask: Array) -> set[int]:
        """The indices of the classes that occur in a legal mask."""
        return set(np.flatnonzero(self.counts(mask)).tolist())

    def where(self, mask: Array, index: int) -> Array:
        """The pixels (H, W) of a class in a legal mask."""
        if mask.ndim == 3:
            return np.asarray(mask[index] == 1)
        return np.asarray(mask == (1 if self.num_classes == 1 else index))

    def _targets(self, plane: int) -> dict[int, int]:
        """What each listed raw value becomes."""
        if self.values is None:
            own = {label: label for label in range(self.count)}
        elif self.dense or self.num_classes == 1:
            own = {0: 0} | dict.fromkeys(self.values[plane], 1)
        else:
            own = {value: index for index, values in enumerate(self.values) for value in values}
        ignored = self.unlisted if isinstance(self.unlisted, tuple) else ()
        if not self.colours:
            ignored = (self.ignore_index, *ignored)
        return dict.fromkeys(ignored, self.ignore_index) | own

    def _shown(self, value: int) -> str:
        return str([value >> 16, value >> 8 & 255, value & 255]) if self.colours else str(value)


class _Table(NamedTuple):
    """What raw values become, found at value % modulus; where `keys` is another value, nothing is listed."""

    modulus: int
    keys: Array
    labels: Array
    rest: Array  # what unlisted values become; those that are errors are ignored here, for `fault` reports them


@lru_cache(maxsize=256)
def _table(labels: Labels, plane: int) -> _Table:
    targets = labels._targets(plane)
    modulus = 65536
    if labels.colours:  # a table of all 2^24 would leave the cache; this one has no two listed colours in one place
        modulus = next(m for m in count(256) if len({value % m for value in targets}) == len(targets))
    rest = np.array(0 if labels.unlisted == "background" else labels.ignore_index, labels.dtype)
    keys, becomes = np.full(modulus, -1, np.int32), np.full(modulus, rest)
    for value, label in targets.items():
        keys[value % modulus], becomes[value % modulus] = value, label
    return _Table(modulus, keys, becomes, rest)


@lru_cache(maxsize=256)
def _strays(labels: Labels, plane: int) -> Array:
    """1 for each of the values 0..255 that means nothing, else 0."""
    strays = np.ones(256, np.uint8)
    strays[[value for value in labels._targets(plane) if value <= 255]] = 0
    return strays


def present_labels(mask: Array) -> list[int]:
    """List the distinct values of a uint8 or uint16 mask of any shape, in rising order."""
    if mask.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(cv2.calcHist([mask.reshape(-1, 1)], [0], None, [256], [0, 256]))]
    return [int(v) for v in np.unique(mask)]
