"""What a prediction leaves behind: indexed palette PNGs and overlays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from segfocal.evaluation.pictures import Colour, Labels, Picture, as_picture, tinted, write_palette_png


class PredictionWriter(Callback):
    """Writes every predicted batch into a folder: masks/NAME.png with class indices, overlays/NAME.jpg.

    With sigmoid and several classes there is one mask per class, masks/NAME.CLASS.png with 0 and 1.

    Args:
        folder: Where to write; its sub-folders are made.
        class_names: The C names.
        palette: One colour per class.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], palette: Sequence[Colour]) -> None:
        self.folder, self.class_names, self.palette = folder, list(class_names), list(palette)
        self.count = 0
        self._written: set[Path] = set()
        safe = ["".join(c if c.isalnum() or c in "-_" else "_" for c in name) for name in class_names]
        # Two classes whose names differ in other characters alone are told apart by their numbers.
        self._suffixes = [f"{index}_{name}" if safe.count(name) > 1 else name for index, name in enumerate(safe)]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the labels (B, H, W) or (B, C, H, W) of one batch."""
        images = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
        for row, name in enumerate(batch["name"]):
            source = batch["path"][row] if "path" in batch else None
            self.write(name, _source_image(images[row], source), outputs[row].cpu().numpy())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what all processes have written."""
        written = torch.tensor(self.count, device=pl_module.device)
        self.count = int(trainer.strategy.reduce(written, reduce_op="sum"))

    def write(self, name: str, image: Picture, labels: Labels) -> None:
        """Write mask(s) and overlay of one image, in the labels' size; `name` may hold folders."""
        stem = Path(name).with_suffix("")
        if stem in self._written:  # a.png and a.jpg
            stem = Path(name)
        self._written.add(stem)
        mask_path = self.folder / "masks" / f"{stem}.png"
        overlay_path = self.folder / "overlays" / f"{stem}.jpg"
        for path in (mask_path, overlay_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if labels.ndim == 2:
            colours = [(0, 0, 0), self.palette[0]] if len(self.class_names) == 1 else self.palette
            write_palette_png(mask_path, labels, colours)
        else:
            for index, suffix in enumerate(self._suffixes):
                colours = [(0, 0, 0), self.palette[index]]
                write_palette_png(mask_path.with_name(f"{mask_path.stem}.{suffix}.png"), labels[index], colours)
        picture = tinted(image, labels, self.class_names, self.palette)
        Image.fromarray(picture).save(overlay_path, quality=92)
        self.count += 1


def _source_image(image: NDArray[Any], path: str | None) -> Picture:
    """The source at its own size, or the image as the net saw it when there is no file, or one of other bands."""
    if path and image.shape[2] == 3:
        encoded = np.fromfile(path, dtype=np.uint8)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
        if decoded is not None:
            return np.asarray(decoded, dtype=np.uint8)
    return as_picture(image)
