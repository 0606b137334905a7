"""From images to files of labels: what `segfocal predict` writes, and the same in Python."""
