#!/usr/bin/env python
"""How much memory a TIFF takes that is predicted by windows: its peak above that of the net, and the time.

    python scripts/measure_streaming.py --side 20000 --classes 12 --layout tiles

Writes a TIFF of noise into a temporary folder and predicts it with a small random net. The layouts are how a TIFF may
be stored: tiles, strips of a few rows, or one strip, compressed or not.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from pytorch_lightning.plugins.precision import Precision
from rasterio.windows import Window
from torch import nn

from segfocal import FocalDiceLoss, SegmentationTask
from segfocal.data.palettes import default_palette
from segfocal.data.samples import FileSample
from segfocal.inference import Inference
from segfocal.prediction.large import by_windows, predict_large
from segfocal.prediction.outputs import Outputs

LAYOUTS = {
    "tiles": {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1},
    "strips": {"blockysize": 8, "compress": "deflate", "zlevel": 1},
    "strip": {"compress": "deflate", "zlevel": 1},
    "plain_strip": {},
}


def write(path: Path, side: int, layout: str) -> None:
    """A georeferenced RGB image whose rows are all different; 256 random rows, shifted, are fast to make."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 256, 2 * side), dtype=np.uint8) // 16
    where = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    options = LAYOUTS[layout] | ({"blockysize": side} if layout.endswith("strip") else {}) | where
    shape = {"height": side, "width": side, "count": 3, "dtype": "uint8", "interleave": "pixel", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        for top in range(0, side, 256):
            rows = noise[:, : min(256, side - top), top % side : top % side + side]
            file.write(rows, window=Window(0, top, side, rows.shape[1]))


def peak() -> float:
    """Of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=20_000, help="height and width in pixels")
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--layout", choices=LAYOUTS, default="tiles")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--overlap", type=float, default=0.25)
    asked = parser.parse_args(words)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, asked.classes, 1))
    names, how = [str(index) for index in range(asked.classes)], Inference((asked.window,) * 2, asked.overlap)
    task = SegmentationTask(net, FocalDiceLoss(), names, inference=how).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tif"
        # In a process of its own, whose memory does not count.
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, asked.side, asked.layout))
        writer.start()
        writer.join()
        print(f"{asked.side} x {asked.side}, {asked.layout}, {path.stat().st_size / 1e6:.0f} MB", flush=True)
        height, width = by_windows(how).window or (0, 0)
        task.predict_labels(torch.zeros(how.windows_at_once, 3, height, width, dtype=torch.uint8))
        net_alone, start = peak(), time.monotonic()
        outputs = Outputs(Path(folder), names, default_palette(len(names)))
        predict_large(task, Precision(), FileSample(path.name, path, None), outputs)
        seconds = time.monotonic() - start
        written = Path(folder) / "masks" / "large.tif"
        print(f"{'layout':<12} {'classes':>7} {'seconds':>8} {'GB, net':>8} {'GB above':>9} {'MB written':>11}")
        above, size = peak() - net_alone, written.stat().st_size / 1e6
        print(f"{asked.layout:<12} {asked.classes:>7} {seconds:>8.1f} {net_alone:>8.2f} {above:>9.2f} {size:>11.1f}")


if __name__ == "__main__":
    main()
