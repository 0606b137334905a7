"""Augmentation: the only file that knows albumentations.

Everything else sees an `Augment`: a function of an image (H, W, N) uint8 with N channels, a mask (H, W) or dense
(C, H, W), and a seed, that returns a new image and mask, and the same ones for the same seed.
"""

import os
import random
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from segfocal.data.files import DataError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for a newer version at import otherwise
import albumentations as A
from albumentations import BaseCompose, BasicTransform, Compose

Array = NDArray[Any]
Augment = Callable[[Array, Array, int], tuple[Array, Array]]
Transform: TypeAlias = BasicTransform | BaseCompose
Entry: TypeAlias = Transform | str  # a transform, or the name of a preset

_MASK_FILLS = ("fill_mask", "mask_drop_value")  # what albumentations' transforms call it
_NO_FILL = ("GridElasticDeform",)  # the only one that fills masks with 0 and offers no choice


def light() -> list[Transform]:
    """Mirror, and a little light: where nothing is known of the images."""
    return [
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5),
        _If(_rgb, A.HueSaturationValue(hue_shift_limit=5, sat_shift_limit=15, val_shift_limit=0, p=0.5)),
    ]


def street() -> list[Transform]:
    """Seen from a vehicle: the sky stays above; near and far, sun and shade, motion and grain."""
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.75, 1.5), keep_ratio=True, translate_percent=(-0.1, 0.1), p=0.8),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        _If(_rgb, A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=25, val_shift_limit=0, p=0.5)),
        _If(_rgb, A.RandomShadow(shadow_intensity_range=(0.3, 0.5), p=0.2)),
        A.OneOf([A.GaussianBlur(sigma_limit=(0.3, 1.2)), A.MotionBlur((3, 5)), A.GaussNoise((0.01, 0.04))], p=0.3),
    ]


def aerial() -> list[Transform]:
    """Seen from above: no direction is special."""
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        _If(_square, A.Transpose(p=0.5)),  # with the flips, every quarter turn
        A.Affine(scale=(0.8, 1.25), keep_ratio=True, rotate=(-15, 15), p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        _If(_rgb, A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.5)),
        A.OneOf([A.GaussianBlur(sigma_limit=(0.3, 1.0)), A.GaussNoise((0.01, 0.03))], p=0.2),
    ]


def medical() -> list[Transform]:
    """Tissue, scans, microscopy: turned, bent a little, exposed differently; colours, which are stains, are kept."""
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.Affine(scale=(0.9, 1.1), keep_ratio=True, rotate=(-20, 20), p=0.5),
        A.OneOf([A.ElasticTransform(alpha=60, sigma=6), A.GridDistortion(distort_limit=0.2)], p=0.3),
        A.RandomGamma(gamma_limit=(70, 140), p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.3),
        A.GaussNoise((0.01, 0.03), p=0.2),
    ]


PRESETS: dict[str, Callable[[], list[Transform]]] = {
    "light": light, "street": street, "aerial": aerial, "medical": medical,
}  # fmt: skip


def _rgb(image: Array) -> bool:
    return bool(image.shape[2:] == (3,))


def _square(image: Array) -> bool:
    return bool(image.shape[0] == image.shape[1])


class _If(A.Sequential):  # type: ignore[misc]
    """Applies a transform to the images that it fits, and leaves others alone."""

    def __init__(self, fits: Callable[[Array], bool], transform: BasicTransform) -> None:
        super().__init__([transform], p=1.0)
        self.fits = fits

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:  # noqa: ANN401
        return super().__call__(force_apply=force_apply, **data) if self.fits(data["image"]) else data


class AlbumentationsAugment:
    """Apply albumentations transforms to an image and its mask.

    Pixels that a transform brings in from outside (rotation, padding) are `ignore_index` in the mask, whatever
    `fill_mask` the transform was given; a `fill_mask` of None (CoarseDropout's default) leaves the mask alone. Masks
    are always interpolated by the nearest pixel.

    Args:
        augment: The name of a preset, or a list of transforms and presets, applied in order. Each transform has its own
            probability `p`.
        ignore_index: Label of the pixels that come from outside.

    Raises:
        ValueError: If there is no such preset, or an entry is no albumentations transform, was given an argument that
            it does not know, or fills masks with a class.

    >>> augment = AlbumentationsAugment(["light", A.VerticalFlip(p=1.0)], ignore_index=255)
    >>> augment(np.zeros((2, 1, 3), np.uint8), np.array([[0], [1]], np.uint8), 0)[1]
    array([[1],
           [0]], dtype=uint8)
    """

    def __init__(self, augment: str | Sequence[Entry], ignore_index: int) -> None:
        entries = [augment] if isinstance(augment, str) else augment
        transforms = [transform for entry in entries for transform in _transforms(entry)]
        self.ignore_index = ignore_index
        self.keeps_size = all(isinstance(entry, str) for entry in entries)  # as presets do; of others nobody knows
        _fill_masks(transforms, ignore_index)
        try:
            self.compose = Compose(transforms, strict=True, mask_interpolation=cv2.INTER_NEAREST)
        except ValueError as error:
            raise ValueError(f"Expected `augment` with arguments that albumentations 2 knows: {error}.") from error

    def __call__(self, image: Array, mask: Array, seed: int) -> tuple[Array, Array]:
        """Return the image and the mask transformed with the random numbers of this seed.

        Args:
            image: (H, W, N) uint8 with any number N of channels, which is kept.
            mask: (H, W) or dense (C, H, W), labels of 0..65535 in any integer type. It comes back in that type, or as
                uint16 where that type cannot hold `ignore_index`.
            seed: Of the random numbers.

        Raises:
            DataError: If a transform fails on this image, or returns something other than uint8 pixels.
        """
        # One stream for all transforms; `Compose.set_random_seed` would give each the same numbers.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        # `masks` handles a dense mask plane by plane, whatever the number of classes.
        key = "mask" if mask.ndim == 2 else "masks"
        # OpenCV warps 8 and 16 bits but not 32, and cuts a fill that 8 bits cannot hold to 255.
        wide = mask.dtype != np.uint8 or self.ignore_index > 255
        try:
            out = self.compose(**{"image": image, key: mask.astype(np.uint16) if wide else mask})
        except Exception as error:  # whatever a transform raises
            raise DataError(f"`augment` fails on an image of {image.shape[0]} x {image.shape[1]}: {error}") from error
        new_image, new_mask = out["image"], np.asarray(out[key])
        kind = type(new_image).__name__ if not isinstance(new_image, np.ndarray) else str(new_image.dtype)
        if kind != "uint8" or new_image.shape[2:] != image.shape[2:]:
            raise DataError(
                f"Expected `augment` to return uint8 images of {image.shape[2:]} channels, got {kind} of "
                f"{tuple(new_image.shape[2:])}. Take Normalize, ToFloat and ToTensorV2 out: the task normalises on the "
                "device."
            )
        held = self.ignore_index <= np.iinfo(mask.dtype).max
        return new_image, new_mask.astype(mask.dtype if held else np.uint16, copy=False)


def _transforms(entry: Entry) -> list[Transform]:
    if isinstance(entry, Transform):
        return [entry]
    if not isinstance(entry, str) or "." in entry:
        got = repr(entry) if isinstance(entry, str) else type(entry).__name__
        raise ValueError(
            f"Expected `augment` to hold albumentations transforms and names of presets, got {got}. "
            "In YAML write `- class_path: albumentations.HorizontalFlip` with its `init_args`."
        )
    if entry not in PRESETS:
        close = get_close_matches(entry.lower(), PRESETS, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else "Choose one, or list albumentations transforms."
        raise ValueError(f"Expected `augment` to be one of the presets {', '.join(PRESETS)}, got {entry!r}. {remedy}")
    return PRESETS[entry]()


def _fill_masks(transforms: Sequence[Transform], ignore_index: int) -> None:
    for transform in transforms:
        name = type(transform).__name__
        if name in _NO_FILL:
            raise ValueError(
                f"Expected `augment` to hold transforms whose borders can be ignored, got {name}, which fills "
                "masks with class 0. Use ElasticTransform or GridDistortion."
            )
        if isinstance(transform, BaseCompose):
            _fill_masks(transform.transforms, ignore_index)
        for attribute in _MASK_FILLS:
            if getattr(transform, attribute, None) is not None:
                setattr(transform, attribute, ignore_index)
