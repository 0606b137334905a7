"""Images and masks: from files or generated, checked, augmented, and batched.

>>> from segfocal.data import ShapesDataModule
>>> shapes = ShapesDataModule(n_train=4, n_val=2, batch_size=2)
>>> shapes.setup("fit")
>>> batch = next(iter(shapes.train_dataloader()))
>>> batch["image"].shape, batch["mask"].shape
(torch.Size([2, 3, 96, 128]), torch.Size([2, 96, 128]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segfocal.data.datamodule import SegmentationDataModule as SegmentationDataModule
    from segfocal.data.files import DataError as DataError
    from segfocal.data.shapes import ShapesDataModule as ShapesDataModule
    from segfocal.data.statistics import ClassStatistics as ClassStatistics
    from segfocal.data.statistics import class_statistics as class_statistics
    from segfocal.data.transforms import Transform as Transform

_HOME = {
    "ClassStatistics": "statistics",
    "DataError": "files",
    "SegmentationDataModule": "datamodule",
    "ShapesDataModule": "shapes",
    "Transform": "transforms",
    "class_statistics": "statistics",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a public name on first use: what reads files alone needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'segfocal.data' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(import_module(f"segfocal.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
