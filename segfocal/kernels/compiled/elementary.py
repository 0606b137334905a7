"""exp, log and powers that LLVM turns into vector instructions, and the bits of the half precisions.

For float32 they are polynomials without a branch, since a call of the C library once per value would cost more than all
the rest of a loss. For float64, whose place is in checks and not in training, they are the C library's.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from types import CellType, FunctionType
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload


def _can_cache() -> bool:
    """Whether there is a folder to keep compiled code in: beside this file, or in the user's cache folder."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False  # then every process compiles for itself
    return True


def _digest() -> str:
    """Of the files here: a function that calls another is compiled again when that one changes, wherever it is."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _compiler(*liberties: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    compiler = njit(nogil=True, cache=_CACHE, fastmath=set(liberties), error_model="numpy")

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        # Numba knows kept code by the function's own file and closure: a variable that nobody reads brings in the rest.
        code = function.__code__.replace(co_freevars=("digest",))
        return compiler(FunctionType(code, function.__globals__, function.__name__, None, (CellType(_DIGEST),)))

    return compile_


_CACHE, _DIGEST = _can_cache(), _digest()
# A fused multiply-add may replace a product and a sum, and only in sums of many terms the order is free.
compiled, reordered = _compiler("contract"), _compiler("contract", "reassoc")

f32 = np.float32
ZERO, ONE, HALF = f32(0), f32(1), f32(0.5)
TINY = f32(2.0**-126)  # the least normal float32
LOG2_E, LOG_2 = f32(1.4426950408889634), f32(0.6931471805599453)
LOG_2_HIGH, LOG_2_LOW = f32(0.693359375), f32(-2.12194440e-4)  # the first has few bits: its products are exact
LOWEST, HIGHEST = f32(-87.0), f32(89.0)  # exp below and above is 0 and infinity
ROUND = f32(1.5 * 2**23)  # x + ROUND has the integer nearest to x in its lowest bits

# exp(r) = 1 + r + r^2 (c0 + c1 r + ...) for |r| <= log(2) / 2, and log(1 + f) = f - f^2 / 2 + f^3 (c0 + c1 f + ...) for
# sqrt(1/2) <= 1 + f <= sqrt(2): the minimax coefficients of S. Moshier's Cephes library.
E0, E1, E2 = map(f32, (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2))
E3, E4, E5 = map(f32, (8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4))
L0, L1, L2, L3, L4 = map(f32, (3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1))
L5, L6, L7, L8 = map(f32, (-1.2420140846e-1, 1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2))


def _same_bits(source, result):
    """A function that reads the bits of a `source` as a `result` of the same size."""

    def reinterpret(_context, _value):
        def generate(context, builder, _signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(result))

        return result(source), generate

    return intrinsic(reinterpret)


bits_of = _same_bits(types.float32, types.int32)
_float = _same_bits(types.int32, types.float32)


# Each is declared for the interpreter and defined for the compiler, by the type of its argument.


def exp(x):
    """e^x, 0 below -87 in float32; NaN stays NaN."""
    raise NotImplementedError


def log(x):
    """The logarithm of x in [2^-126, infinity)."""
    raise NotImplementedError


def log1p(u):
    """The logarithm of 1 + u for u >= 0 with all its digits; infinity for infinity."""
    raise NotImplementedError


def power(q, gamma):
    """q^gamma for q in [0, 1] and gamma >= 0, in float32 0 for a q below 2^-126."""
    raise NotImplementedError


@compiled
def _exp(x):
    """e^x for x in [LOWEST, HIGHEST] or NaN."""
    shifted = x * LOG2_E + ROUND
    r = x - (shifted - ROUND) * LOG_2
    polynomial = ((((E5 * r + E4) * r + E3) * r + E2) * r + E1) * r + E0
    # A product with 2^n and not a sum of exponents, so that NaN stays NaN.
    return (polynomial * r * r + r + ONE) * _float(types.int32((bits_of(shifted) + 127) << 23))


@compiled
def _exponent_and_log(x):
    """Split: n and log m of a positive normal x = 2^n m with m in [sqrt(1/2), sqrt(2))."""
    n = types.int32(types.int32(bits_of(x) - 0x3F3504F3) >> 23)  # the bits of sqrt(1/2)
    f = _float(types.int32(bits_of(x) - (n << 23))) - ONE
    square = f * f
    polynomial = (((((((L8 * f + L7) * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    return f32(n), f + (polynomial * f * square - HALF * square)


@overload(exp)
def _(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp_f32(x):
        bounded = LOWEST if x < LOWEST else x
        bounded = HIGHEST if bounded > HIGHEST else bounded
        result = _exp(bounded)
        return ZERO if x < LOWEST else result

    return exp_f32


@overload(log)
def _(x):
    if x != types.float32:
        return lambda x: math.log(x)

    def log_f32(x):
        n, rest = _exponent_and_log(x)
        return n * LOG_2_HIGH + (n * LOG_2_LOW + rest)

    return log_f32


@overload(log1p)
def _(u):
    if u != types.float32:
        return lambda u: math.log1p(u)

    def log1p_f32(u):
        total = ONE + u
        far = log(total)
        near = far * (u / (total - ONE))  # mends what the sum lost
        near = u if total == ONE else near
        result = near if u < ONE else far
        return result if u < f32(3e38) else u  # infinity and NaN

    return log1p_f32


@overload(power)
def _(q, gamma):
    if q != types.float32:
        return lambda q, gamma: q**gamma

    def power_f32(q, gamma):
        # What is an exact number of doublings goes apart from the rest, which would lose digits beside it.
        n, rest = _exponent_and_log(max(q, TINY))
        short = _float(types.int32(bits_of(gamma) & ~0xFFF))  # few bits: its product with n is exact
        whole, rest = short * n, gamma * rest + (gamma - short) * n * LOG_2
        shifted = whole + rest * LOG2_E + ROUND
        nearest = shifted - ROUND
        small = _exp((whole - nearest) * LOG_2 + rest)
        bounded = f32(-126) if nearest < f32(-126) else nearest
        result = small * _float(types.int32((bits_of(bounded + ROUND) + 127) << 23))
        result = ZERO if nearest < f32(-126) else result
        return result if q >= TINY else q * ZERO  # NaN stays NaN

    return power_f32


# Half precisions come and go as their bits, in uint16; `brain` tells bfloat16 from float16


def widen(value, brain):
    """The number: of a float32 or float64 itself, of any integer but uint16 itself as a float32."""
    raise NotImplementedError


def narrow(value, like, brain):
    """The nearest number of the dtype of `like`, ties to even."""
    raise NotImplementedError


@overload(widen)
def _(value, brain):
    if isinstance(value, types.Float):
        return lambda value, brain: value
    if value != types.uint16:
        return lambda value, brain: f32(value)

    def widen_half(value, brain):
        bits = types.int32(value)
        if brain:
            return _float(types.int32(bits << 16))
        # The exponent's bias is mended by a product, which denormals survive too; 31 is infinity or NaN.
        size = _float(types.int32((bits & 0x7FFF) << 13)) * f32(2.0**112)
        special = _float(types.int32(((bits & 0x7FFF) << 13) | 0x7F800000))
        size = special if (bits & 0x7C00) == 0x7C00 else size
        return _float(types.int32(bits_of(size) | ((bits & 0x8000) << 16)))

    return widen_half


@overload(narrow)
def _(value, like, brain):
    if like != types.uint16:
        return lambda value, like, brain: value

    def narrow_half(value, like, brain):
        bits = bits_of(value)
        sign, size = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF
        if brain:
            rounded = (size + 0x7FFF + ((size >> 16) & 1)) >> 16
            rounded = 0x7FC0 if size > 0x7F800000 else rounded
            return types.uint16(rounded | sign)
        # Below 2^-14 the sum with 1/2 rounds to a multiple of 2^-24, float16's least step.
        denormal = bits_of(_float(types.int32(size)) + HALF) - 0x3F000000
        normal = (size + 0xFFF + ((size >> 13) & 1) - (112 << 23)) >> 13
        rounded = denormal if size < (113 << 23) else normal
        rounded = 0x7C00 if size >= 0x477FF000 else rounded  # 65520 and more: infinity
        rounded = 0x7E00 if size > 0x7F800000 else rounded
        return types.uint16(rounded | sign)

    return narrow_half
