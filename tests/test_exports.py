"""What `import segfocal` offers, and what it costs."""

import subprocess
import sys

import pytest

import segfocal


def test_every_public_name_loads():
    for name in segfocal.__all__:
        assert getattr(segfocal, name) is not None
    assert set(segfocal.__all__) <= set(dir(segfocal))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="FocalDiceLoss"):
        segfocal.FocalDyceLoss  # noqa: B018


def test_import_and_loss_need_torch_and_nothing_heavier():
    code = "import segfocal, sys; segfocal.FocalDiceLoss(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pytorch_lightning", "albumentations", "segmentation_models_pytorch", "torchvision", "cv2", "torchmetrics"}
    assert not heavy & {name.split(".")[0] for name in loaded}
