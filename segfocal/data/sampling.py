"""Showing rare classes more often: which images an epoch has, and where they are cropped.

Both draw a class first, with a probability that goes as 1 / sqrt(share of its pixels): as `alpha: auto` weighs it.

Shapes: N images, C classes, H x W pixels, D bands.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segfocal.data.labels import Labels

Array = NDArray[Any]


def class_probabilities(pixels: Array) -> Array:
    """With what probability each class is drawn, (C,), given its pixels, (C,); 0 for one that never occurs.

    >>> class_probabilities(np.array([900, 100, 0])).tolist()
    [0.25, 0.75, 0.0]
    """
    weights = np.where(pixels > 0, 1 / np.sqrt(np.maximum(pixels, 1)), 0.0)
    return np.asarray(weights / max(weights.sum(), 1e-300))


def check_shares(crop: tuple[int, int] | None, rare_crops: float, rare_images: float) -> None:
    """Raise a ValueError unless both are shares, and `crop` says how large the windows are."""
    for name, share in (("rare_crops", rare_crops), ("rare_images", rare_images)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"Expected `{name}` to be a share in [0, 1], got {share}. Correct it.")
    if rare_crops and crop is None:
        raise ValueError("Expected `crop`, as `rare_crops` says where its windows lie. Set it, such as [256, 256].")


@dataclass(frozen=True)
class RareImages:
    """Gives a share of an epoch's places to images that are drawn for a class they show.

    A class is drawn, then an image with a probability that goes as its pixels of that class; the other places keep the
    image they have.

    Attributes:
        share: Of the places, in (0, 1].
        probabilities: Of each image, (N,).
    """

    share: float
    probabilities: Array

    @classmethod
    def of(cls, share: float, counts: Array) -> "RareImages":
        """From the pixels of every class in every image, (N, C)."""
        per_image = counts / np.maximum(counts.sum(0), 1) * class_probabilities(counts.sum(0))
        if not per_image.any():  # nothing but ignored pixels
            return cls(share, np.full(len(counts), 1 / len(counts)))
        return cls(share, per_image.sum(1) / per_image.sum())

    def replaced(self, order: Array, random: np.random.Generator) -> Array:
        """The order of an epoch, indices (N,), with some places given to others."""
        rare = random.random(len(order)) < self.share
        drawn = random.choice(len(order), len(order), p=self.probabilities)
        return np.where(rare, drawn, order)


@dataclass(frozen=True)
class Crop:
    """Cuts a window out of an image and its mask, at random, or around a pixel of a class that is drawn.

    Images smaller than the window are padded below and to the right: their border is repeated, the mask ignored.

    Attributes:
        size: (H, W) of the window.
        labels: What masks hold.
        rare: Share of the windows that are laid around a pixel of a class.
        probabilities: Of each class, (C,); those that an image does not show are left out.
    """

    size: tuple[int, int]
    labels: Labels
    rare: float
    probabilities: Array

    def __call__(self, image: Array, mask: Array, seed: int) -> tuple[Array, Array]:
        """Cut an image (H0, W0, D) and its mask (H0, W0) or (C, H0, W0); the same for the same seed."""
        random = np.random.default_rng([seed, 1])  # not the stream of the augmentation
        image, mask = self._padded(image, mask)
        place = self._rare_pixel(mask, random) if random.random() < self.rare else None
        window = []
        for axis, wanted in enumerate(self.size):
            low, high = 0, image.shape[axis] - wanted
            if place is not None:  # so that the window holds it, anywhere
                low, high = max(low, place[axis] - wanted + 1), min(high, place[axis])
            start = int(random.integers(low, high + 1))
            window.append(slice(start, start + wanted))
        return image[tuple(window)], mask[..., window[0], window[1]]

    def _rare_pixel(self, mask: Array, random: np.random.Generator) -> tuple[int, int] | None:
        shown = sorted(self.labels.present(mask))
        weights = self.probabilities[shown]
        if not weights.sum():
            return None
        index = shown[random.choice(len(shown), p=weights / weights.sum())]
        there = self.labels.where(mask, index)
        row, column = divmod(int(random.choice(np.flatnonzero(there))), there.shape[1])
        return row, column

    def _padded(self, image: Array, mask: Array) -> tuple[Array, Array]:
        below, right = (max(0, wanted - has) for wanted, has in zip(self.size, image.shape, strict=False))
        if not below and not right:
            return image, mask
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE).reshape(
            image.shape[0] + below, image.shape[1] + right, image.shape[2]
        )
        wide = np.uint16 if mask.dtype == np.uint8 and self.labels.ignore_index > 255 else mask.dtype
        around = [(0, 0)] * (mask.ndim - 2) + [(0, below), (0, right)]
        return np.asarray(padded), np.pad(mask.astype(wide), around, constant_values=self.labels.ignore_index)
