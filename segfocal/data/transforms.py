"""Augmentation: the only file that knows albumentations.

Everything else sees an `Augment`: a function of an image (H, W, 3) uint8, a mask (H, W) or dense (C, H, W), and a seed,
that returns a new image and mask, and the same ones for the same seed.
"""

import os
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from segfocal.data.files import DataError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for a newer version at import otherwise
from albumentations import BaseCompose, BasicTransform, Compose

Array = NDArray[Any]
Augment = Callable[[Array, Array, int], tuple[Array, Array]]
Transform: TypeAlias = BasicTransform | BaseCompose

_MASK_FILLS = ("fill_mask", "mask_drop_value")  # what albumentations' transforms call it
_NO_FILL = ("GridElasticDeform",)  # the only one that fills masks with 0 and offers no choice


class AlbumentationsAugment:
    """Apply a list of albumentations transforms to an image and its mask.

    Pixels that a transform brings in from outside (rotation, padding) are `ignore_index` in the mask, whatever
    `fill_mask` the transform was given; a `fill_mask` of None (CoarseDropout's default) leaves the mask alone. Masks
    are always interpolated by the nearest pixel.

    Args:
        transforms: Applied in order, each with its own probability `p`.
        ignore_index: Label of the pixels that come from outside.

    Raises:
        ValueError: If an entry is no albumentations transform, was given an argument that it does not know, or fills
            masks with a class.

    >>> import albumentations
    >>> augment = AlbumentationsAugment([albumentations.HorizontalFlip(p=1.0)], ignore_index=255)
    >>> augment(np.zeros((1, 2, 3), np.uint8), np.array([[0, 1]], np.uint8), 0)[1]
    array([[1, 0]], dtype=uint8)
    """

    def __init__(self, transforms: Sequence[Transform], ignore_index: int) -> None:
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"Expected `augment` to hold albumentations transforms, got {type(transform).__name__}. "
                    "In YAML write `- class_path: albumentations.HorizontalFlip` with its `init_args`."
                )
        _fill_masks(transforms, ignore_index)
        try:
            self.compose = Compose(list(transforms), strict=True, mask_interpolation=cv2.INTER_NEAREST)
        except ValueError as error:
            raise ValueError(f"Expected `augment` with arguments that albumentations 2 knows: {error}.") from error

    def __call__(self, image: Array, mask: Array, seed: int) -> tuple[Array, Array]:
        """Return the image and the mask transformed with the random numbers of this seed.

        Raises:
            DataError: If a transform fails on this image, or returns something other than uint8 pixels.
        """
        # One stream for all transforms; `Compose.set_random_seed` would give each the same numbers.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        # `masks` handles a dense mask plane by plane, whatever the number of classes.
        key = "mask" if mask.ndim == 2 else "masks"
        try:
            out = self.compose(**{"image": image, key: mask})
        except Exception as error:  # whatever a transform raises
            raise DataError(f"`augment` fails on an image of {image.shape[0]} x {image.shape[1]}: {error}") from error
        new_image, new_mask = out["image"], np.asarray(out[key])
        if not isinstance(new_image, np.ndarray) or new_image.dtype != np.uint8 or new_image.shape[2:] != (3,):
            raise DataError(
                f"Expected `augment` to return uint8 RGB images, got {getattr(new_image, 'dtype', type(new_image))}. "
                "Take Normalize, ToFloat and ToTensorV2 out: the task normalises on the device."
            )
        return new_image, new_mask


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
