"""Images and masks: from files or generated, checked, augmented, and batched.

>>> from segfocal.data import ShapesDataModule
>>> shapes = ShapesDataModule(n_train=4, n_val=2, batch_size=2)
>>> shapes.setup("fit")
>>> batch = next(iter(shapes.train_dataloader()))
>>> batch["image"].shape, batch["mask"].shape
(torch.Size([2, 3, 96, 128]), torch.Size([2, 96, 128]))
"""

from segfocal.data.datamodule import SegmentationDataModule
from segfocal.data.files import DataError
from segfocal.data.shapes import ShapesDataModule
from segfocal.data.statistics import ClassStatistics, class_statistics
from segfocal.data.transforms import Transform

__all__ = [
    "ClassStatistics",
    "DataError",
    "SegmentationDataModule",
    "ShapesDataModule",
    "Transform",
    "class_statistics",
]
