"""How many images a second the data loader gives, beside the plainest loop, and how long a training step waits for it.

    python scripts/bench_data.py [FOLDER OF CAMVID]

The plain loop is a `Dataset` with `cv2.imread`, `albumentations.Compose` and a `DataLoader`; it checks nothing. Without
a folder, pictures of the same size are drawn first. What is compared runs in turns; medians of the ratios count.
Writes scripts/results/bench_data.json.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segfocal import FocalDiceLoss, SegmentationDataModule, smp_net
from segfocal.data.layouts import Layout
from segfocal.data.shapes import write_tree

RESULTS = Path(__file__).parent / "results" / "bench_data.json"
SIZE, BATCH, REPEATS = (192, 256), 4, 7
CLASSES = {"camvid": [f"class {label}" for label in range(11)], "folders": None}


def augment() -> list[Any]:
    """As in configs/camvid_cpu.yaml."""
    return [albumentations.RandomCrop(270, 360, p=0.5), albumentations.HorizontalFlip()]


class Plain(Dataset):
    """What one writes first."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        resize = albumentations.Resize(*SIZE, interpolation=cv2.INTER_AREA)
        self.transform = albumentations.Compose([*augment(), resize])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = cv2.cvtColor(cv2.imread(self.pairs[index][0]), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(self.pairs[index][1], cv2.IMREAD_UNCHANGED)
        out = self.transform(image=image, mask=mask)
        image = torch.from_numpy(np.ascontiguousarray(out["image"].transpose(2, 0, 1)))
        return {"image": image, "mask": torch.from_numpy(np.ascontiguousarray(out["mask"]))}


def ours(root: Path, layout: Layout, workers: int, cache: bool) -> DataLoader:
    torch.manual_seed(0)
    data = SegmentationDataModule(
        root=root, layout=layout, classes=CLASSES[layout], ignore_index=11 if layout == "camvid" else 255, size=SIZE,
        batch_size=BATCH, num_workers=workers, augment=augment(), cache=cache,
    )  # fmt: skip
    data.setup("fit")
    return data.train_dataloader()


def plain(pairs: list[tuple[str, str]], workers: int) -> DataLoader:
    start = (lambda _: cv2.setNumThreads(0)) if workers else None
    keep = {"persistent_workers": workers > 0, "worker_init_fn": start}
    return DataLoader(Plain(pairs), BATCH, shuffle=True, drop_last=True, num_workers=workers, **keep)


def speed(loader: DataLoader) -> float:
    """Images a second over one epoch."""
    start = time.perf_counter()
    count = sum(len(batch["image"]) for batch in loader)
    return count / (time.perf_counter() - start)


def compare(root: Path, layout: str, workers: int) -> dict[str, Any]:
    own = ours(root, layout, workers, cache=False)
    samples = own.dataset.samples
    pairs = [(str(sample.image_path), str(sample.mask_path)) for sample in samples]
    loaders = {"plain": plain(pairs, workers), "segfocal": own, "cache": ours(root, layout, workers, cache=True)}
    for loader in loaders.values():  # starts the workers, fills caches
        speed(loader)
    speeds = {name: [] for name in loaders}
    for _ in range(REPEATS):
        for name, loader in loaders.items():
            speeds[name].append(speed(loader))
    row: dict[str, Any] = {"workers": workers, "images": len(pairs)}
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, speeds["plain"], strict=True)]
        row[name] = {
            "images_per_second": round(median(values)), "slowest": round(min(values)), "fastest": round(max(values)),
            "times_plain": round(median(ratios), 2), "least": round(min(ratios), 2), "most": round(max(ratios), 2),
        }  # fmt: skip
    return row


def parts(root: Path, layout: str) -> dict[str, float]:
    """Milliseconds of what the plain loop cannot do without, per image, and of an item of ours."""
    cv2.setNumThreads(0)
    samples = ours(root, layout, 0, cache=False).dataset.samples[:100]
    images = [np.frombuffer(sample.image_path.read_bytes(), np.uint8) for sample in samples]
    masks = [np.frombuffer(sample.mask_path.read_bytes(), np.uint8) for sample in samples]
    pictures = [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in images]
    data = ours(root, layout, 0, cache=False).dataset
    todo = {
        "decode image": lambda i: cv2.imdecode(images[i], cv2.IMREAD_COLOR),
        "decode mask": lambda i: cv2.imdecode(masks[i], cv2.IMREAD_UNCHANGED),
        "resize image": lambda i: cv2.resize(pictures[i], SIZE[::-1], interpolation=cv2.INTER_AREA),
        "item of segfocal": lambda i: data[i, i],
    }
    times: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(REPEATS):
        for name, function in todo.items():
            start = time.perf_counter()
            for index in range(len(samples)):
                function(index)
            times[name].append(1000 * (time.perf_counter() - start) / len(samples))
    return {name: round(median(values), 2) for name, values in times.items()}


def timed(loader: DataLoader) -> Iterator[tuple[float, dict[str, Any]]]:
    """Batches, each with the seconds it was waited for."""
    batches = iter(loader)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield time.perf_counter() - start, batch


def waiting(root: Path, layout: str, cache: bool, workers: int) -> dict[str, Any]:
    """Share of the time in which a training step, with the net of configs/camvid_cpu.yaml, waits for data."""
    loader = ours(root, layout, workers, cache)
    options = {"decoder_channels": [64, 48, 24, 16, 8]}
    net = smp_net("Unet", "tu-mobilenetv3_small_100", num_classes=11, options=options)
    loss = FocalDiceLoss(ignore_index=11 if layout == "camvid" else 255)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.002)
    steps, waits = [], []
    for epoch in range(2):
        end = time.perf_counter()
        for index, (waited, batch) in enumerate(islice(timed(loader), 20)):
            loss(net(batch["image"] / 255), batch["mask"]).backward()
            optimizer.step()
            optimizer.zero_grad()
            if epoch and index:  # the first batch of an epoch is waited for in any case
                waits.append(waited)
                steps.append(time.perf_counter() - end)
            end = time.perf_counter()
    late = sum(wait > 0.1 * median(steps) for wait in waits)
    return {
        "workers": workers, "cache": cache, "steps": len(steps), "step_ms": round(1000 * median(steps), 1),
        "wait_ms": round(1000 * median(waits), 2), "share_waited": round(sum(waits) / sum(steps), 4),
        "steps_that_waited_a_tenth": late,
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, layout = (Path(sys.argv[1]), "camvid") if len(sys.argv) > 1 else (Path(folder), "folders")
        if layout == "folders":
            write_tree(root, n_train=200, n_val=4, n_test=4, size=(360, 480))
        rows = [compare(root, layout, workers) for workers in (0, 2)]
        result = {
            "about": {
                "data": layout, "size": SIZE, "batch": BATCH, "repeats": REPEATS, "date": str(date.today()),
                "cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0],
                "torch": torch.__version__, "albumentations": albumentations.__version__, "opencv": cv2.__version__,
            },
            "speed": rows, "parts_ms": parts(root, layout),
            "training": [waiting(root, layout, cache, 2) for cache in (False, True)],
        }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("workers  loader     images/s  times plain (least, most)")
    for row in rows:
        for name in ("plain", "segfocal", "cache"):
            value = row[name]
            ratio = f"{value['times_plain']:5.2f} ({value['least']:.2f}, {value['most']:.2f})"
            print(f"{row['workers']:7}  {name:9}  {value['images_per_second']:8}  {ratio}")
    print(json.dumps(result["parts_ms"]))
    for row in result["training"]:
        print(json.dumps(row))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
