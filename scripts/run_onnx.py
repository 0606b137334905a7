"""Run an ONNX file of segfocal export with onnxruntime and NumPy alone: run_onnx.py model.onnx image.npy labels.npy."""

import json
import sys

import numpy as np
import onnxruntime

model, source, result = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["segfocal"])  # classes, palette, ...
image = np.load(source)  # (H, W, 3), uint8, RGB
(labels,) = session.run(None, {"images": np.moveaxis(image, -1, 0)[None]})  # (1, H, W), uint8
for index, name in enumerate(about["class_names"]):
    print(f"{name:20} {np.mean(labels == index):7.2%}")
np.save(result, labels[0])
