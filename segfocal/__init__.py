"""segfocal: train semantic segmentation on imbalanced images."""

__version__ = "0.1.0"
