"""The embedded data set: drawn from a seed, no files needed, and as imbalanced as real data.

Blocks, discs and triangles overlap on a textured ground under uneven light. Wires and dots, the classes that matter,
cover well under 1 % of the pixels, and scratches and specks that belong to no class look much like them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfocal.data.datasets import SegmentationDataset
from segfocal.data.drawing import CLASSES, dense_mask, draw, flat_mask
from segfocal.data.labels import Labels
from segfocal.data.layouts import SPLITS, Split
from segfocal.data.loading import LabelledImages, check_at_least, check_size
from segfocal.data.transforms import AlbumentationsAugment, Entry

Array = NDArray[Any]
Thing = Literal["block", "disc", "triangle", "wire", "dot"]

_PALETTE = [(72, 76, 84), (0, 114, 178), (0, 158, 115), (230, 159, 0), (204, 121, 167), (240, 228, 66)]
_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (), None: SPLITS,
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A drawn sample: pixels (H, W, 3) uint8 and labels (H, W) or (C, H, W)."""

    name: str
    pixels: Array
    labels: Array
    path: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def image(self) -> Array:
        """Return the pixels, a copy that may be written to."""
        return self.pixels.copy()

    def mask(self, labels: Labels) -> Array:
        """Return the labels, which are legal, a copy that may be written to."""
        return self.labels.copy()


class ShapesDataModule(LabelledImages):
    """The embedded data set: overlapping shapes, thin wires and small dots, drawn from a seed in about a second.

    Classes: background, block, disc, triangle, wire (0.6 % of the pixels), dot (0.2 %).

    Args:
        n_train: Images to train on.
        n_val: Images to validate on.
        n_test: Images for test and prediction.
        size: (H, W) of the images.
        seed: Decides every picture.
        noise: Standard deviation of the pixel noise, in grey levels of 0..255.
        multilabel: Masks are dense (C, H, W) of 0 and 1: each class but the background has its own plane, which shows
            its objects whole even where others cover them.
        only: Name of one class to find among the rest: a binary task.
        ignore_index: Label of the outlines of large objects, which count nowhere.
        palette: RGB colour per class for pictures; None: the data set's own.
        augment: For training: light, street, aerial or medical, or a list of these and of albumentations transforms.
        batch_size: Images per training batch.
        eval_batch_size: Images per batch in validation, test and prediction; None: `batch_size`.
        num_workers: Worker processes; the images lie in memory, so none are needed.
        images: What to predict on in place of the test split: an image, a folder, a pattern such as photos/*.jpg, a
            .txt file with a path in each line, or a list of these.

    Raises:
        ValueError: If an argument is out of its range.

    >>> ShapesDataModule(only="wire").class_names
    ['wire']
    """

    def __init__(
        self,
        *,
        n_train: int = 160,
        n_val: int = 40,
        n_test: int = 40,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        noise: float = 6.0,
        multilabel: bool = False,
        only: Thing | None = None,
        ignore_index: int = 255,
        palette: list[tuple[int, int, int]] | None = None,
        augment: str | list[Entry] | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        images: list[str] | str | Path | None = None,
    ) -> None:
        if only is not None and (multilabel or only not in CLASSES[1:]):
            names = ", ".join(CLASSES[1:])
            raise ValueError(f"Expected `only` to be one of {names}, without `multilabel`, got {only!r}. Drop one.")
        chosen = [CLASSES.index(only)] if only else list(range(1 if multilabel else 0, len(CLASSES)))
        super().__init__(
            classes=[CLASSES[label] for label in chosen],
            ignore_index=ignore_index,
            palette=[_PALETTE[label] for label in chosen] if palette is None else palette,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            images=images,
        )
        self.counts: dict[Split, int] = {"train": n_train, "val": n_val, "test": n_test}
        for split, count in self.counts.items():
            check_at_least(f"n_{split}", count, 1)
        check_at_least("seed", seed, 0)
        if not 0 <= noise <= 255:
            raise ValueError(f"Expected `noise` in grey levels of 0..255, got {noise}. Correct it.")
        self.size, self.seed, self.noise = check_size(size, 32), seed, noise
        self.labels = replace(self.labels, form="channels" if multilabel else "index")
        self.only = only
        self.augment = AlbumentationsAugment(augment, ignore_index) if augment else None

    def setup(self, stage: str | None = None) -> None:
        """Draw the splits, or find the images, that the stage (fit, validate, test, predict; None for all) needs."""
        for split in _STAGES[stage]:
            if split not in self.datasets:
                train = split == "train"
                scenes = [self.scene(split, index) for index in range(self.counts[split])]
                augment = self.augment if train else None
                self.datasets[split] = SegmentationDataset(scenes, self.labels, train=train, augment=augment)
        if stage in ("predict", None):
            self.set_up_prediction()

    def test_images(self) -> tuple[list[Scene], list[str]]:
        """The images of the test split; nothing can be wrong with them."""
        return [self.scene("test", index) for index in range(self.counts["test"])], []

    def scene(self, split: Split, index: int) -> Scene:
        """Draw one sample; it is the same whatever the size of its split."""
        random = np.random.default_rng([self.seed, SPLITS.index(split), index])
        pixels, objects = draw(random, self.size, self.noise, opacity=0.7 if self.multilabel else 1.0)
        mask = (dense_mask if self.multilabel else flat_mask)(objects, self.size, self.ignore_index)
        if self.only is not None:
            mask = np.where(mask == self.ignore_index, mask, mask == CLASSES.index(self.only)).astype(mask.dtype)
        return Scene(f"{split}/{index:04d}", pixels, mask)


def write_tree(
    root: str | Path,
    *,
    n_train: int = 24,
    n_val: int = 8,
    n_test: int = 8,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Write shapes as files: images/{train,val,test}, masks/{train,val,test} and classes.txt.

    Returns:
        `root` as a path, ready for `SegmentationDataModule(root=root)`.
    """
    root = Path(root)
    shapes = ShapesDataModule(n_train=n_train, n_val=n_val, n_test=n_test, size=size, seed=seed)
    for split, count in shapes.counts.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            scene = shapes.scene(split, index)
            Image.fromarray(scene.pixels).save(root / "images" / split / f"{index:04d}.png")
            Image.fromarray(scene.labels).save(root / "masks" / split / f"{index:04d}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return root
