"""The elementary functions that the compiled loops are made of, against the C library in float64 and PyTorch."""

import numba
import numpy as np
import pytest
import torch
from numba.core import caching

from segfocal.kernels.compiled import elementary
from segfocal.kernels.compiled.elementary import exp, log, log1p, narrow, power, widen

ULP = 2.0**-23
loop = numba.njit(fastmath={"contract"}, error_model="numpy")  # as in `compiled`, but not kept


@loop
def each_exp(x, y):
    for i in range(len(x)):
        y[i] = exp(x[i])


@loop
def each_log(x, y):
    for i in range(len(x)):
        y[i] = log(x[i])


@loop
def each_log1p(x, y):
    for i in range(len(x)):
        y[i] = log1p(x[i])


@loop
def each_power(x, gamma, y):
    for i in range(len(x)):
        y[i] = power(x[i], gamma)


@loop
def each_widen(x, brain, y):
    for i in range(len(x)):
        y[i] = widen(x[i], brain)


@loop
def each_narrow(x, brain, y):
    for i in range(len(x)):
        y[i] = narrow(x[i], y[i], brain)


def values(function, x, *arguments):
    x = np.asarray(x, np.float32)
    y = np.empty_like(x)
    function(x, *arguments, y)
    return y


def ulps(function, exact, x, *arguments):
    """The largest error relative to float64, in units of float32's last place."""
    x = np.asarray(x, np.float32)
    want = exact(x.astype(np.float64))
    return np.abs(values(function, x, *arguments) / want - 1).max() / ULP


def test_exp():
    assert ulps(each_exp, np.exp, np.linspace(-2, 2, 100_001)) < 1
    assert ulps(each_exp, np.exp, np.linspace(-87, 88, 100_001)) < 3
    got = values(each_exp, [np.nan, np.inf, -np.inf, -87.1, -1e30, 1e30, 0])
    np.testing.assert_array_equal(got, [np.nan, np.inf, 0, 0, 0, np.inf, 1])


def test_log():
    assert ulps(each_log, np.log, np.linspace(0.5, 0.999, 100_001)) < 1
    assert ulps(each_log, np.log, np.logspace(-37, 38, 100_001)[1:]) < 1


def test_log1p():
    assert ulps(each_log1p, np.log1p, np.logspace(-37, 38, 100_001)) < 2
    np.testing.assert_array_equal(
        values(each_log1p, [0, np.inf, np.nan, 1e-30]), np.float32([0, np.inf, np.nan, 1e-30])
    )


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1, 1.5, 2, 3.7, 5])
def test_power(gamma):
    gamma = np.float32(gamma)
    lowest = max(-37, -37 / gamma)  # where the result is a normal number
    assert ulps(each_power, lambda q: q ** float(gamma), np.logspace(lowest, 0, 100_001), gamma) < 3
    np.testing.assert_array_equal(values(each_power, [0, 1, np.nan], gamma), [0, 1, np.nan])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_precision_number_and_what_rounds_to_it(dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    exact = torch.from_numpy(bits.view(np.int16)).view(dtype).float()
    got = np.empty(2**16, np.float32)
    each_widen(bits, dtype == torch.bfloat16, got)
    np.testing.assert_array_equal(got, exact.numpy())

    between = torch.cat([exact * (1 + k * 2.0**-12) for k in range(-9, 10)])
    between = torch.cat([between, torch.tensor([65519.996, 65520.0, 3.4e38, -0.0, 2.0**-25, 1e-45])])
    want = between.to(dtype)
    got = np.empty(len(between), np.uint16)
    each_narrow(between.numpy(), dtype == torch.bfloat16, got)
    got = torch.from_numpy(got.view(np.int16)).view(dtype)
    numbers = ~want.isnan()
    assert torch.equal(got[numbers].view(torch.int16), want[numbers].view(torch.int16))
    assert got[~numbers].isnan().all()


def test_without_a_folder_to_write_to_nothing_is_kept(monkeypatch):
    assert elementary._can_cache()
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert not elementary._can_cache()
