#!/usr/bin/env python
"""How much more of each class training shows with rare crops and rare images: a table of shares in the pixels.

    python scripts/measure_sampling.py --config configs/camvid_cpu.yaml --data.root FOLDER --data.crop "[192, 256]"

Takes the options of `segfocal fit`; of these it needs the data section. Augmentation is left out.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segfocal.commands.look import data_configuration

EPOCHS = 3
WAYS = {  # rare_crops, rare_images
    "plain": (0.0, 0.0),
    "rare_images 0.5": (0.0, 0.5),
    "rare_crops 0.5": (0.5, 0.0),
    "both 0.5": (0.5, 0.5),
    "both 1": (1.0, 1.0),
}


def main(options: Sequence[str]) -> None:
    shares, names = {}, []
    for way, (crops, images) in WAYS.items():
        words = [f"--data.rare_crops={crops}", f"--data.rare_images={images}", "--data.augment=null"]
        data = data_configuration("fit", [*options, *words]).datamodule
        torch.manual_seed(0)
        data.setup("fit")
        loader, names = data.train_dataloader(), data.class_names
        counts = sum(
            np.bincount(batch["mask"].numpy().ravel(), minlength=len(names))[: len(names)]
            for _ in range(EPOCHS)
            for batch in loader
        )
        shares[way] = counts / counts.sum()
    view = Table(title=f"share of the pixels shown, over {EPOCHS} epochs")
    for heading in ("class", *WAYS):
        view.add_column(heading, justify="right" if heading != "class" else "left")
    for row in np.argsort(shares["plain"]):
        factors = [f"{100 * share[row]:.2f} % ({share[row] / shares['plain'][row]:.1f} x)" for share in shares.values()]
        view.add_row(names[row], *factors)
    Console(width=120).print(view)


if __name__ == "__main__":
    main(sys.argv[1:])
