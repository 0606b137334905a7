"""Checks of samples before the first step: headers, labels, sizes, leaks between splits.

A fault is a sentence that begins with a path; all of them are collected, so that a data set can be mended in one go.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from segfocal.data.datasets import FileSample, read_size
from segfocal.data.layouts import Split
from segfocal.data.loading import default_workers
from segfocal.data.masks import DataError, Labels, open_header, present_labels, read_mask

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_PATIENCE = 2.0  # seconds before a progress bar appears


def check_samples(
    samples: Sequence[FileSample], labels: Labels, *, decode: bool
) -> tuple[list[FileSample], list[str], set[int]]:
    """Read every header, and with `decode` the labels of every mask.

    Returns:
        The samples with their sizes, the faults, and the labels that occur (with `decode`).
    """

    def check(sample: FileSample) -> tuple[FileSample, list[str], list[int]]:
        faults: list[str] = []
        present: list[int] = []
        try:
            sample = replace(sample, size=read_size(sample.image_path, sample.name))
        except DataError as error:
            faults.append(str(error))
        try:
            if sample.mask_path is not None and decode:
                mask = read_mask(sample.mask_path, sample.mask_name)
                faults += sample.mask_faults(mask, labels)
                present = present_labels(mask)
            elif sample.mask_path is not None:
                with open_header(sample.mask_path, sample.mask_name) as header:
                    faults += sample.size_faults((header.height, header.width))
        except DataError as error:
            faults.append(str(error))
        return sample, faults, present

    results = in_parallel(check, samples, "Checking masks" if decode else "Reading headers")
    return (
        [sample for sample, _, _ in results],
        [fault for _, faults, _ in results for fault in faults],
        {label for _, _, present in results for label in present},
    )


def in_parallel(function: Callable[[_In], _Out], items: Sequence[_In], title: str) -> list[_Out]:
    """Map `function` over `items` in threads; a progress bar on stderr appears once it takes long."""
    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=len(items))
    start, shown = time.monotonic(), False
    results = []
    with ThreadPoolExecutor(max(2, default_workers())) as pool:
        try:
            for result in pool.map(function, items):
                results.append(result)
                progress.advance(task)
                if not shown and progress.console.is_terminal and time.monotonic() - start > _PATIENCE:
                    progress.start()
                    shown = True
        finally:
            if shown:
                progress.stop()
    return results


def shared_images(splits: Mapping[Split, list[FileSample]]) -> list[str]:
    """List the images that appear in two splits, which would make the scores worthless."""
    first: dict[Path, str] = {}
    faults = []
    for split, samples in splits.items():
        for sample in samples:
            path = sample.image_path.resolve()
            if (other := first.setdefault(path, split)) != split:
                faults.append(f"{sample.name}: is in the splits {other} and {split}. Keep it in one of them.")
    return faults


def unequal_sizes(samples: Sequence[FileSample]) -> list[str]:
    """List the fault of images that cannot be stacked to a batch."""
    sizes = {sample.size: sample.name for sample in samples if sample.size != (0, 0)}
    if len(sizes) < 2:
        return []
    shown = ", ".join(f"{height} x {width} ({name})" for (height, width), name in list(sizes.items())[:3])
    remedy = "Set `size`, or add RandomCrop with `pad_if_needed: true` to `augment`."
    return [f"train: images of a batch must have one size, got {len(sizes)}: {shown}. {remedy}"]
