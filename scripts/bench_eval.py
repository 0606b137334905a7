"""Time from logits to a confusion matrix, beside other libraries, and of scoring masks, beside decoding them.

    python scripts/bench_eval.py [--device cpu|cuda] [--classes 19 150] [--masks FOLDER] [--json FILE]

Contenders take turns, so that a busy machine slows all alike; times are medians, and ratios are of one run. All must
come to the same matrix. `--masks` is a folder of index masks, such as CamVid's testannot; without it masks are drawn.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from segfocal.data.labels import Labels
from segfocal.data.parallel import in_parallel
from segfocal.data.samples import FileSample
from segfocal.evaluation.counts import count_image
from segfocal.pixels import confusion, labels_of

IGNORE = 255
Contender = Callable[[Tensor, Tensor], Any]


def ours(logits: Tensor, mask: Tensor) -> Tensor:
    return confusion(labels_of(logits), mask, logits.shape[1], IGNORE)


def bincount(logits: Tensor, mask: Tensor) -> Tensor:
    """The usual idiom: argmax, then one bincount over pairs of labels."""
    classes, valid = logits.shape[1], mask != IGNORE
    pairs = mask[valid].long() * classes + logits.argmax(1)[valid]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def numpy_loop(logits: Tensor, mask: Tensor) -> np.ndarray:
    """Class by class, as one writes it first: right, predicted and true pixels."""
    labels, target = logits.cpu().numpy().argmax(1), mask.cpu().numpy()
    valid = target != IGNORE
    counts = [
        [((labels == c) & (target == c)).sum(), ((labels == c) & valid).sum(), (target == c).sum()]
        for c in range(logits.shape[1])
    ]
    return np.array(counts)


def contenders(classes: int, device: str) -> dict[str, Contender]:
    metric = MulticlassJaccardIndex(classes, ignore_index=IGNORE, validate_args=False).to(device)

    def jaccard(prediction: Tensor, mask: Tensor) -> Tensor:
        metric.reset()
        metric.update(prediction, mask.long())
        return metric.confmat

    return {
        "segfocal": ours,
        "torchmetrics JaccardIndex": jaccard,
        "argmax + torchmetrics JaccardIndex": lambda logits, mask: jaccard(logits.argmax(1), mask),
        "argmax + bincount": bincount,
        "NumPy, class by class": numpy_loop,
    }


def agree(matrix: Tensor, other: Any) -> bool:  # noqa: ANN401
    """Whether it is the matrix, or its diagonal and sums, which is all that a loop over classes knows."""
    matrix, found = matrix.cpu().numpy(), np.asarray(torch.as_tensor(other).cpu())
    sums = np.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)], 1)
    return np.array_equal(found, matrix) or np.array_equal(found, sums)


def in_turns(todo: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each in each round."""
    times: dict[str, list[float]] = {name: [] for name in todo}
    for round_ in range(rounds + 1):  # the first one compiles and fills caches
        for name, work in todo.items():
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def summary(times: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    return {
        name: {
            "ms": round(statistics.median(values), 2),
            "ratio": round(statistics.median(v / b for v, b in zip(values, times[base], strict=True)), 2),
        }
        for name, values in times.items()
    }


def from_logits(classes: int, layout: str, pixels: int, rounds: int, device: str) -> dict[str, dict[str, float]]:
    height = max(8, int((pixels / 2 * 3 / 4) ** 0.5))
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, height, height * 4 // 3, generator=random).to(device)
    logits = logits.contiguous(memory_format=getattr(torch, layout))
    mask = torch.randint(0, classes, (2, *logits.shape[2:]), generator=random, dtype=torch.uint8).to(device)
    mask[:, : height // 10] = IGNORE
    rivals = contenders(classes, device)
    matrix = ours(logits, mask)
    for name, rival in rivals.items():
        if not agree(matrix, rival(logits, mask)):
            raise SystemExit(f"{name} comes to another matrix: nothing to compare.")
    todo = {name: lambda rival=rival: rival(logits, mask) for name, rival in rivals.items()}
    return summary(in_turns(todo, rounds, device), "segfocal")


def of_masks(folder: Path, rounds: int) -> dict[str, Any]:
    """Scoring a folder of masks against itself shifted by two pixels, beside decoding alone."""
    files = sorted(folder.glob("*.png"))
    labels = Labels(1 + max(int(cv2.imread(str(file), cv2.IMREAD_UNCHANGED).max()) for file in files), IGNORE)
    samples = [FileSample(file.name, file, file, file.name) for file in files]

    def decode(sample: FileSample) -> np.ndarray:
        return sample.mask(labels)

    def both(sample: FileSample) -> None:
        decode(sample), decode(sample)

    def score(sample: FileSample) -> None:
        target, prediction = decode(sample), np.roll(decode(sample), 2, 1)
        count_image(prediction, target, labels.num_classes, IGNORE)

    work = {"decoding": both, "scoring": score}
    todo = {name: lambda each=each: in_parallel(each, samples, "Timing") for name, each in work.items()}
    result = summary(in_turns(todo, rounds, "cpu"), "decoding")
    return {"pairs": len(files), "classes": labels.num_classes, **result}


def draw_masks(folder: Path, count: int = 60) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 11, (30, 40), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.png"), cv2.resize(small, (480, 360), interpolation=cv2.INTER_NEAREST))


def machine(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    packages = {package: version(package) for package in ("torch", "torchmetrics", "numba", "numpy")}
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(), **packages}


def show(results: dict[str, Any]) -> None:
    for row in results["logits"]:
        table = Table(title=f"{row['classes']} classes, {row['layout']}, {row['megapixels']} megapixels")
        for heading in ("from logits to a confusion matrix", "ms", "times ours"):
            table.add_column(heading)
        for name, cells in row["contenders"].items():
            table.add_row(name, f"{cells['ms']:.1f}", f"{cells['ratio']:.1f}")
        Console().print(table)
    masks = results["masks"]
    rate = 1000 * masks["pairs"] / masks["scoring"]["ms"]
    print(f"{masks['pairs']} pairs of masks: decoding {masks['decoding']['ms']:.0f} ms, ", end="")
    print(
        f"scoring, decoding included, {masks['scoring']['ms']:.0f} ms ({masks['scoring']['ratio']} times), {rate:.0f}/s"
    )


def main(args: list[str] | None = None) -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    words.add_argument("--classes", type=int, nargs="+", default=[2, 12, 19, 150])
    words.add_argument("--megapixels", type=float, default=0.6)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--masks", type=Path)
    words.add_argument("--json", type=Path)
    asked = words.parse_args(args)
    results: dict[str, Any] = {"date": date.today().isoformat(), **machine(asked.device), "logits": []}
    pixels = int(1e6 * asked.megapixels)
    for classes in asked.classes:
        for layout in ("contiguous_format", "channels_last"):
            found = from_logits(classes, layout, pixels, asked.rounds, asked.device)
            row = {"classes": classes, "layout": layout, "megapixels": asked.megapixels, "contenders": found}
            results["logits"].append(row)
    with tempfile.TemporaryDirectory() as folder:
        if asked.masks is None:
            draw_masks(Path(folder))
        results["masks"] = of_masks(asked.masks or Path(folder), asked.rounds)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
