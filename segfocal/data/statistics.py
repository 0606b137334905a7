"""How the pixels of a data set are shared among its classes, and the alpha that follows.

Shapes: C classes. Where masks are dense (C, H, W), or there is a single class, classes are counted one by one against
everything else.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segfocal.data.datasets import SegmentationDataset
from segfocal.data.labels import Labels
from segfocal.data.parallel import in_parallel
from segfocal.data.samples import FileSample, Sample

Method = Literal["inverse", "median", "effective"]
METHODS: tuple[Method, ...] = get_args(Method)
AUTO: dict[str, Any] = {"method": "inverse", "power": 0.5}  # what `alpha: auto` means

Array = NDArray[Any]


@dataclass(frozen=True)
class ClassStatistics:
    """Counts over the stored masks of a split.

    Attributes:
        class_names: The C names.
        images: Number of images.
        pixels: Pixels of each class.
        labelled: Pixels that are labelled for each class: all but the ignored ones.
        images_with: Images in which each class occurs.
        labelled_there: Pixels that are labelled for each class in the images in which it occurs.

    Example:
        >>> statistics = ClassStatistics(["road", "pole"], 2, [90, 10], [100, 100], [2, 1], [100, 50])
        >>> statistics.shares.tolist()
        [0.9, 0.1]
        >>> statistics.alpha("inverse", power=0.5)
        [0.8333, 2.5]
    """

    class_names: list[str]
    images: int
    pixels: list[int]
    labelled: list[int]
    images_with: list[int]
    labelled_there: list[int]

    @property
    def shares(self) -> Array:
        """Share of each class in its labelled pixels, (C,); 0 for a class that never occurs."""
        return np.array(self.pixels) / np.maximum(self.labelled, 1)

    def alpha(
        self, method: Method = "inverse", power: float = 1.0, activation: Literal["softmax", "sigmoid"] = "softmax"
    ) -> list[float]:
        """The weight of each class that makes up for its rarity, to four digits.

        softmax: scaled so that the mean over all pixels is 1, which leaves the size of the loss as it is. sigmoid: of
        the positives of a class, in [0, 1]; its negatives get the rest. A class that never occurs gets the largest.

        Args:
            method: "inverse", 1 / share. "median", the median frequency over the class's own, with the frequency within
                the images that show it (Eigen and Fergus, 2015). "effective", 1 / (1 - b^n) with n pixels and b = 1 -
                1 / N, where N is the mean of n over the classes, so that common classes are weighed alike (after Cui
                et al., 2019).
            power: Exponent of the weights: 0 is no weighting, 0.5 half way.
            activation: Of the loss.

        Raises:
            ValueError: An unknown method, a power outside [0, 1], or masks without a labelled pixel.
        """
        if method not in METHODS:
            raise ValueError(f"Expected `method` to be one of {', '.join(METHODS)}, got {method!r}. Choose one.")
        if isinstance(power, bool) or not isinstance(power, int | float) or not 0 <= power <= 1:
            raise ValueError(f"Expected `power` in [0, 1], got {power!r}. 1 is the method itself, 0 no weighting.")
        if not any(self.pixels):
            raise ValueError("Expected masks with labelled pixels, got none. Set `alpha` to numbers, or leave it out.")
        n = np.array(self.pixels, np.float64)
        of = np.array(self.labelled_there if method == "median" else self.labelled, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # classes that never occur, which `_fill` looks after
            if activation == "softmax":
                weights = self._fill(_weights(method, n, of, n.mean()) ** power)
                weights = weights / (self.shares * weights).sum()
            else:
                positive, negative = (_weights(method, count, of, of / 2) ** power for count in (n, of - n))
                weights = self._fill(positive / (positive + negative))
        return [float(f"{weight:.4g}") for weight in weights]

    def _fill(self, weights: Array) -> Array:
        """Give the classes that never occur the largest weight of the others."""
        occurs = np.array(self.pixels) > 0
        return np.where(occurs, weights, weights[occurs].max())


def _weights(method: Method, n: Array, of: Array, volume: Any) -> Array:  # noqa: ANN401
    """The weight of n pixels out of `of`; `volume` is the N of "effective"."""
    if method == "effective":
        return np.asarray(1 / -np.expm1(n * np.log1p(-1 / np.maximum(volume, 1))))
    return of / n


def class_statistics(samples: Sequence[Sample], labels: Labels, class_names: Sequence[str]) -> ClassStatistics:
    """Count the pixels of every class in the masks of `samples`, at their stored size; a progress bar if it takes long.

    Raises:
        DataError: If a mask cannot be read.
    """
    count = len(class_names)

    def counted(sample: Sample) -> Array:
        mask = sample.mask(labels)
        if mask.ndim == 2 and count > 1:
            pixels = np.bincount(mask.ravel(), minlength=count)[:count]
            return np.stack([pixels, np.full(count, pixels.sum())])
        planes = mask.reshape(count, -1)
        return np.stack([(planes == 1).sum(1), (planes != labels.ignore_index).sum(1)])

    counts = np.stack(in_parallel(counted, samples, "Counting classes"))  # (images, 2, C)
    pixels, labelled = counts[:, 0], counts[:, 1]
    return ClassStatistics(
        class_names=list(class_names),
        images=len(counts),
        pixels=pixels.sum(0).tolist(),
        labelled=labelled.sum(0).tolist(),
        images_with=(pixels > 0).sum(0).tolist(),
        labelled_there=np.where(pixels > 0, labelled, 0).sum(0).tolist(),
    )


def cached_statistics(dataset: SegmentationDataset, class_names: Sequence[str], folder: Path) -> ClassStatistics:
    """The statistics of a data set, from `folder` if its files and labels are what they were, else counted and kept.

    Raises:
        DataError: If a mask cannot be read.
    """
    known = [list(class_names), asdict(dataset.labels), _traces(dataset, lambda sample: [p for p, _ in sample.masks])]
    counted = _cached(
        "statistics", known, folder, lambda: asdict(class_statistics(dataset.samples, dataset.labels, class_names))
    )
    return ClassStatistics(**counted)


def cached_bands(dataset: SegmentationDataset, folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band in units of 0..1, as the task's `mean` and `std` want them.

    From `folder` if the files are what they were, else computed and kept.

    Raises:
        DataError: If an image cannot be read.
    """
    bands = [asdict(sample.bands) for sample in dataset.samples[:1] if isinstance(sample, FileSample)]
    known = [bands, _traces(dataset, lambda sample: [sample.image_path])]
    computed = _cached("bands", known, folder, lambda: band_statistics(dataset.samples))
    return computed["mean"], computed["std"]


def band_statistics(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Mean and standard deviation over all pixels of `samples`, per band, in units of 0..1, to four digits."""

    def summed(sample: Sample) -> Array:
        image = sample.image()
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        return np.stack([np.full(pixels.shape[1], len(pixels)), pixels.sum(0), np.square(pixels).sum(0)])

    count, total, squares = np.sum(in_parallel(summed, samples, "Measuring bands"), axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {"mean": (mean / 255).round(4).tolist(), "std": (std / 255).round(4).tolist()}


def _cached(kind: str, known: list[Any], folder: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` returns, kept in a file that is named after all that it depends on, `known`."""
    if None in known:
        return compute()
    file = folder / f"{kind}-{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]}.json"
    if (kept := _kept(file)) is not None:
        return kept
    computed = compute()
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(computed, indent=1) + "\n", encoding="utf-8")
    part.replace(file)
    return computed


def _kept(file: Path) -> dict[str, Any] | None:
    """What the file holds; None if it is not there, or not what was written, for it can be computed again."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    names = {field.name for field in fields(ClassStatistics)}
    return kept if isinstance(kept, dict) and set(kept) in (names, {"mean", "std"}) else None


def _traces(dataset: SegmentationDataset, paths: Callable[[FileSample], list[Path]]) -> list[Any] | None:
    """What tells the files from others without reading them; None for drawn samples, which are as quickly drawn."""
    files = [sample for sample in dataset.samples if isinstance(sample, FileSample)]
    if len(files) < len(dataset.samples):
        return None
    about = [(path, path.stat()) for sample in files for path in paths(sample)]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in about]
