"""`segfocal preview`: what the net will be shown, on one picture."""

import argparse
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule

from segfocal.commands.common import start_run
from segfocal.commands.look import data_configuration
from segfocal.data import DataError, SegmentationDataModule
from segfocal.data.choice import evenly_spread, samples_of_all_classes
from segfocal.data.datasets import SegmentationDataset
from segfocal.data.loading import LabelledImages
from segfocal.data.palettes import default_palette
from segfocal.data.samplers import SeededSampler
from segfocal.evaluation.pictures import Picture, as_picture
from segfocal.evaluation.samples import LabelPainter, shortened
from segfocal.evaluation.sheets import contact_sheet
from segfocal.mistakes import ConfigError

Row = tuple[str, list[Picture]]  # a name and its pictures

_WIDTH = 320  # of a picture, in pixels
_LETTER = 8  # the width of a letter of the sheet, about


def preview(options: list[str]) -> None:
    """Write a sheet of training samples: as stored, and as the first epochs of a fit see them."""
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--count", nargs="?", default="6", const="")
    words.add_argument("--draws", nargs="?", default="3", const="")
    known, others = words.parse_known_args(options)
    count, draws = _number("--count", known.count, 100), _number("--draws", known.draws, 20)
    configuration = data_configuration("preview", others)
    data = configuration.datamodule
    painter = _painter(data)
    dataset = _training_data(data)
    if isinstance(dataset, SegmentationDataset):
        rows = _rows(dataset, painter, count, draws)
        # With `rare_images` an epoch need not show an image, or shows it twice.
        drawn = "epoch" if dataset.rare is None else "draw"
        titles = ["image", "mask", *(f"{drawn} {epoch}" for epoch in range(1, draws + 1))]
    else:
        rows = _foreign_rows(dataset, painter, count, draws)
        titles = [f"draw {draw}" for draw in range(1, draws + 1)]
    letters = len(titles) * _WIDTH // _LETTER
    names = [shortened(name, letters) for name, _ in rows]
    sheet = contact_sheet([row for _, row in rows], titles, painter.legend, names=names, width=_WIDTH)
    file = start_run(configuration, options, "preview", None) / "preview.png"
    Image.fromarray(sheet).save(file)
    print("\n".join(f"{number:3} {name}" for number, name in enumerate(names, 1)))
    if isinstance(dataset, SegmentationDataset) and dataset.augment is None:
        print("data.augment is empty: every epoch sees the images as they are")
    print(f"{len(rows)} of {len(dataset)} training images: {file}")


def _number(option: str, written: str, most: int) -> int:
    if written.isdecimal() and 1 <= int(written) <= most:
        return int(written)
    raise ConfigError(f"Expected `{option}` to be a whole number from 1 to {most}, got {written!r}. Correct it.")


def _painter(data: LightningDataModule) -> LabelPainter:
    names, ignore_index = (getattr(data, name, None) for name in ("class_names", "ignore_index"))
    if names is None or ignore_index is None:
        kind = type(data).__name__
        raise ConfigError(f"{kind} lacks class_names or ignore_index. Give your data module both as attributes.")
    palette = getattr(data, "palette", None) or default_palette(len(names))
    return LabelPainter(list(names), [(red, green, blue) for red, green, blue in palette], ignore_index)


def _training_data(data: LightningDataModule) -> Any:  # noqa: ANN401
    """The data set behind the training batches: one of ours, or any other that has a length and indices."""
    if isinstance(data, SegmentationDataModule):
        data.verify = False  # the masks that are shown are checked when they are read
    data.prepare_data()
    data.setup("fit")
    dataset = (
        data.datasets["train"]
        if isinstance(data, LabelledImages)
        else getattr(data.train_dataloader(), "dataset", None)
    )
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise ConfigError(
            f"preview needs a training data set with a length and indices, which {type(data).__name__} has not. "
            "Return a DataLoader over such a data set from train_dataloader."
        )
    if not len(dataset):
        raise DataError(f"{type(data).__name__}: there are no training images. Add some.")
    return dataset


def _rows(dataset: SegmentationDataset, painter: LabelPainter, count: int, draws: int) -> list[Row]:
    """Stored image, stored mask, and the items of the first epochs, with the seeds that training gives them."""
    sampler = SeededSampler(len(dataset), torch.initial_seed())
    epochs = [dict(sampler) for _ in range(draws)]
    rows = []
    for index in samples_of_all_classes(dataset.samples, dataset.labels, count):
        sample = dataset.samples[index]
        image = sample.image()
        items = [dataset[index, seeds[index]] for seeds in epochs]
        drawn = [_painted(painter, item) for item in items]
        rows.append((sample.name, [as_picture(image), painter.paint(image, sample.mask(dataset.labels)), *drawn]))
    return rows


def _foreign_rows(dataset: Any, painter: LabelPainter, count: int, draws: int) -> list[Row]:  # noqa: ANN401
    """Items of a data set of which only its items are known, each drawn several times."""
    rows = []
    for index in evenly_spread(len(dataset), count):
        items = [dataset[index] for _ in range(draws)]
        if not all(_is_sample(item) for item in items):
            raise ConfigError(
                'preview needs items with an "image" (N, H, W) and a "mask" (H, W) or (C, H, W), which '
                f"{type(dataset).__name__} does not return. Return a dictionary of both from __getitem__."
            )
        rows.append((str(items[0].get("name", index)), [_painted(painter, item) for item in items]))
    return rows


def _is_sample(item: object) -> bool:
    if not isinstance(item, Mapping) or not {"image", "mask"} <= item.keys():
        return False
    return np.ndim(item["image"]) == 3 and np.ndim(item["mask"]) in (2, 3)


def _painted(painter: LabelPainter, item: Mapping[str, Any]) -> Picture:
    """The picture of an item: image (N, H, W), mask (H, W) or (C, H, W), tensors or arrays."""
    image, mask = (np.asarray(item[key]) for key in ("image", "mask"))
    return painter.paint(np.moveaxis(image, 0, -1), mask)
