"""The backends as fixtures: a test that takes one runs for every backend of `segfocal.options.Backend`."""

import os
from collections import defaultdict
from importlib.util import find_spec
from random import Random
from typing import get_args

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, which reads it once

from scenes import Kernel

from segfocal.options import Backend

# Numba is a dependency; a GPU machine without it still shows what Triton does.
ABSENT = {"auto"} | ({"tiled"} if find_spec("numba") is None else set())
BACKENDS = [name for name in get_args(Backend) if name not in ABSENT]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pytest_addoption(parser):
    parser.addoption(
        "--thorough", action="store_true", help="every case of every test in Triton's interpreter: minutes"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "interpreted(cases): how many of the test's cases run in Triton's interpreter")


def pytest_collection_modifyitems(config, items):
    if DEVICE == "cuda":
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
    if not config.getoption("--thorough"):
        surplus = set(too_many_interpreted(items))
        config.hook.pytest_deselected(items=[item for item in items if item in surplus])
        items[:] = [item for item in items if item not in surplus]


def too_many_interpreted(items):
    """The interpreter is a hundred times slower than the rest: all but one of a test's cases, or as it is marked."""
    cases = defaultdict(list)
    for item in items:
        chosen = getattr(item, "callspec", None)
        kernels = [chosen.params.get(name) for name in ("kernel", "fused")] if chosen else []
        if "triton" in kernels:
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, of_test in cases.items():
        marker = of_test[0].get_closest_marker("interpreted")
        count = min(marker.args[0] if marker else 1, len(of_test))
        kept = Random(name).sample(of_test, count)  # the same in every run
        yield from (item for item in of_test if item not in kept)


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture(params=BACKENDS)
def kernel(request):
    """Every backend."""
    return Kernel(request.param, DEVICE if request.param == "triton" else "cpu")


@pytest.fixture(params=[name for name in BACKENDS if name != "reference"])
def fused(request):
    """Every backend with a backward pass of its own."""
    return Kernel(request.param, DEVICE if request.param == "triton" else "cpu")


@pytest.fixture(params=[name for name in BACKENDS if name != "triton"])
def wide_backend(request):
    """The name of every backend that computes in float64."""
    return request.param


@pytest.fixture
def smp():
    return pytest.importorskip("segmentation_models_pytorch.losses")


@pytest.fixture
def monai():
    return pytest.importorskip("monai.losses", reason="a peer to compare with: pip install monai")


@pytest.fixture
def kornia():
    return pytest.importorskip("kornia.losses", reason="a peer to compare with: pip install kornia")
