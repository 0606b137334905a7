"""segfocal: train semantic segmentation on imbalanced images.

The public names are loaded on first use, so that `import segfocal` needs torch and nothing heavier.

Example:
    >>> import segfocal, torch
    >>> loss = segfocal.FocalDiceLoss(gamma=2.0, ignore_index=255)
    >>> loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)).shape
    torch.Size([])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segfocal import functional as functional
    from segfocal.checks import check_target as check_target
    from segfocal.data import SegmentationDataModule as SegmentationDataModule
    from segfocal.data import ShapesDataModule as ShapesDataModule
    from segfocal.evaluation.scores import Scores as Scores
    from segfocal.functional import background_alpha as background_alpha
    from segfocal.losses import DiceLoss as DiceLoss
    from segfocal.losses import FocalDiceLoss as FocalDiceLoss
    from segfocal.losses import FocalLoss as FocalLoss
    from segfocal.losses import JaccardLoss as JaccardLoss
    from segfocal.losses import TverskyLoss as TverskyLoss
    from segfocal.models import smp_net as smp_net
    from segfocal.predictor import Predictor as Predictor
    from segfocal.task import SegmentationTask as SegmentationTask
    from segfocal.training.overlays import SampleOverlays as SampleOverlays

__version__ = "0.1.0"

_HOME = {
    "functional": "segfocal",
    "background_alpha": "segfocal.functional",
    "check_target": "segfocal.checks",
    "DiceLoss": "segfocal.losses",
    "FocalDiceLoss": "segfocal.losses",
    "FocalLoss": "segfocal.losses",
    "JaccardLoss": "segfocal.losses",
    "TverskyLoss": "segfocal.losses",
    "smp_net": "segfocal.models",
    "Scores": "segfocal.evaluation.scores",
    "SegmentationDataModule": "segfocal.data",
    "ShapesDataModule": "segfocal.data",
    "Predictor": "segfocal.predictor",
    "SegmentationTask": "segfocal.task",
    "SampleOverlays": "segfocal.training.overlays",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOME:
        raise AttributeError(f"module 'segfocal' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = import_module("segfocal.functional") if name == "functional" else getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
