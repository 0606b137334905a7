"""From images of any size to logits: whole, by a sliding window, and averaged over flips and scales. Plain torch.

>>> import torch
>>> net = torch.nn.Conv2d(3, 5, 1)
>>> infer(net, torch.zeros(1, 3, 90, 120), Inference(window=(32, 32), flips=["left_right"])).shape
torch.Size([1, 5, 90, 120])
"""

from segfocal.inference.augmented import average_logits
from segfocal.inference.logits import normalise, predict_all_logits, predict_logits, resize_logits
from segfocal.inference.options import Inference
from segfocal.inference.windows import infer, slide

__all__ = [
    "Inference",
    "average_logits",
    "infer",
    "normalise",
    "predict_all_logits",
    "predict_logits",
    "resize_logits",
    "slide",
]
