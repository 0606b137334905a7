"""Bugs planted one at a time: the tests of the loss must catch each.

    python tests/planted_bugs.py [WORD ...]     those whose description or file contains a word, else all

Each bug changes one place in a copy of the package, on which the tests below then run until the first failure. The
table says which test failed; the exit code is the number of bugs that none did. All take about twenty minutes.
tests/test_planted_bugs.py holds that every place still exists.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Bug(NamedTuple):
    """Replace `old`, which occurs once in `segfocal/file`, by `new`."""

    what: str
    file: str
    old: str
    new: str


FUNCTIONAL, REFERENCE, TILED, TRITON = "functional.py", "kernels/reference.py", "kernels/tiled.py", "kernels/triton.py"
ELEMENTARY, BLOCK, SOFTMAX, SHARES = (
    f"kernels/compiled/{name}.py" for name in ("elementary", "block", "softmax", "shares")
)
BACKEND = ["tests/test_kernels.py", "tests/test_traps.py", "tests/test_functional.py", "-k"]
TESTS = {  # of each file, those that look at it
    FUNCTIONAL: ["tests/test_functional.py", "tests/test_parity.py", "tests/test_kernels.py", "tests/test_ranks.py"],
    REFERENCE: [*BACKEND, "reference or functional"],
    **{file: [*BACKEND, "tiled or functional"] for file in (TILED, BLOCK, SOFTMAX, SHARES)},
    ELEMENTARY: ["tests/test_compiled.py", *BACKEND, "compiled or tiled"],
    TRITON: ["tests/test_triton.py", *BACKEND, "triton and not compile"],
}
BUGS = [
    # How the sums are combined
    Bug("alpha dropped", FUNCTIONAL, "loss = positive * batch.positive_focal", "loss = batch.positive_focal"),
    Bug("alpha for negatives is alpha", FUNCTIONAL, "1 - alpha if binary", "alpha if binary"),
    Bug("sigmoid mean over pixels", FUNCTIONAL, "divisor = batch.valid.sum() if", "divisor = batch.valid[0] if"),
    Bug("weighted divides by valid pixels", FUNCTIONAL, "(positive * batch.actual).sum()", "batch.actual.sum()"),
    Bug(
        "an epsilon in the mean",
        FUNCTIONAL,
        "nothing = divisor == 0",
        "nothing, divisor = divisor == 0, divisor + 1e-6",
    ),
    Bug("least divisor 1 whatever the weights", FUNCTIONAL, "clamp(min=unit)", "clamp(min=1.0)"),
    Bug("Dice counts the overlap once", FUNCTIONAL, "2 * overlap, predicted + actual", "overlap, predicted + actual"),
    Bug("Jaccard without the overlap", FUNCTIONAL, "predicted + actual - overlap", "predicted + actual"),
    Bug("smooth in the denominator only", FUNCTIONAL, "top + options.smooth, size", "top, size"),
    Bug("Tversky's prices swapped", FUNCTIONAL, "options.fp_weight * (predicted", "options.fn_weight * (predicted"),
    Bug("0/0 scores 0", FUNCTIONAL, ").masked_fill(size == 0, 1.0)\n", ").masked_fill(size == 0, 0.0)\n"),
    Bug("absent classes are in the mean", FUNCTIONAL, "counted = present\n", "counted = torch.ones_like(present)\n"),
    Bug(
        "images without a valid pixel are in the mean", FUNCTIONAL, "total / images.clamp(min=1)", "total / len(valid)"
    ),
    Bug("the log is bounded at 1e-3", FUNCTIONAL, "clamp(min=1e-7)", "clamp(min=1e-3)"),
    Bug("all-reduce loses the world size", FUNCTIONAL, "distributed.get_world_size() * (local", "(local"),
    Bug("illegal labels are not looked up", FUNCTIONAL, "sums.valid.isnan().any()", "sums.valid.isinf().any()"),
    # The definition
    Bug(
        "1 - p by subtraction",
        REFERENCE,
        "q = p.scatter(1, index, 0.0).sum(1)",
        "q = 1 - p.gather(1, index).squeeze(1)",
    ),
    Bug("ignored logits are multiplied by 0", REFERENCE, "x.masked_fill(m == 0, 0.0), y", "x * (m != 0), y"),
    Bug(
        "label compared in its own dtype",
        REFERENCE,
        "_flat(target, 1).long()",
        "_flat(target, 1).to(torch.int8).long()",
    ),
    Bug("float32 counts", REFERENCE, "else torch.float64  # MPS", "else torch.float32  # MPS"),
    # The blocks
    Bug("logarithms near 1 lose digits", ELEMENTARY, "far * (u / (total - ONE))", "far"),
    Bug(
        "a power is exp of a product",
        ELEMENTARY,
        "(whole - nearest) * LOG_2 + rest",
        "(whole - nearest + rest) * LOG_2",
    ),
    Bug("half precision is cut off", ELEMENTARY, "(size + 0x7FFF + ((size >> 16) & 1)) >> 16", "size >> 16"),
    Bug("small exponentials vanish", ELEMENTARY, "LOWEST, HIGHEST = f32(-87.0)", "LOWEST, HIGHEST = f32(-17.0)"),
    Bug("NaN is a number", ELEMENTARY, "return result if u < f32(3e38) else u", "return result"),
    Bug(
        "ignored pixels count", BLOCK, "ZERO if ignored else weight\n            s[LABEL", "weight\n            s[LABEL"
    ),
    Bug("labels clamped in silence", BLOCK, "illegal |= wrong & (not ignored)", "illegal |= 0"),
    Bug("shares clamped in silence", BLOCK, "illegal |= (not ((y", "illegal |= 0 * (not ((y"),
    Bug("one channel is class 0", BLOCK, "if data.classes > 1 else ONE", "if data.classes > 0 else ONE"),
    Bug("one class too many is legal", BLOCK, "max(data.classes, 2) - 1", "max(data.classes, 2)"),
    Bug(
        "the last pixel of a strip is lost",
        TILED,
        "np.minimum(length, run - at)",
        "np.minimum(length, run - at - (at > 0))",
    ),
    Bug(
        "weights of the first strip for all",
        TILED,
        "reshape(images, runs, 1) * run + at",
        "reshape(images, runs, 1) * run + 0 * at",
    ),
    Bug("rows walk like columns", TILED, "np.arange(n) * step", "np.arange(n) * 1"),
    Bug("illegal labels have a gradient", TILED, "grads + 0 * sums[VALID]", "grads"),
    Bug("exponentials overflow", SOFTMAX, " & (total <= MOST)", ""),
    Bug("small exponentials lose digits", SOFTMAX, "(own >= LEAST) & ", ""),
    Bug("a vanished exponential has no logarithm", SOFTMAX, "        _mend(data, start, s, n)\n", "        pass\n"),
    Bug("ignored infinities stay", SOFTMAX, "x = x if s[WEIGHT + j] != ZERO else ZERO", "x = x"),
    Bug("the pixel's own class pulls", SOFTMAX, "push / max(q, TINY) - a", "push - a"),
    Bug("Dice's gradient forgets the overlap", SOFTMAX, "= overlap[c] + predicted[c]", "= predicted[c]"),
    Bug("the gradient of p^2 is p", SOFTMAX, "TWO * squares * p * scale", "squares * p * scale"),
    Bug("gamma off by one in the slope", SOFTMAX, "(s[GAMMA + j] * p *", "((s[GAMMA + j] - ONE) * p *"),
    Bug("smoothing spread over one class less", SHARES, "f32(data.classes), s, n)", "f32(data.classes - 1), s, n)"),
    Bug("1 - p by subtraction for all", SHARES, "q if s[OWN + j] == label else ONE - p", "ONE - p"),
    Bug("0 times infinity", SHARES, "positive += focal if smooth != ZERO else ZERO", "positive += focal"),
    Bug("a share ignored for one class alone", SHARES, "s[WEIGHT + j] = s[MASK + j]", "s[MASK + j] = s[MASK + j]"),
    Bug("negatives pull like positives", SHARES, "negative * (ONE - smooth) * down", "negative * smooth * down"),
    # The Triton kernels
    Bug(
        "log instead of log1p",
        TRITON,
        "2.0 * t * (1.0 + u * (1.0 / 3 + u * (1.0 / 5 + u * series)))",
        "tl.log(1.0 + z)",
    ),
    Bug(
        "pow by exp2 of log2", TRITON, "tl.exp2(whole) * tl.exp2(high", "tl.exp2(gamma * tl.log2(q)) + 0 * tl.exp2(high"
    ),
    Bug(
        "columns walk like rows",
        TRITON,
        "row * row_stride + column * column_stride",
        "row * column_stride + column * column_stride",
    ),
    Bug("no mask at the edge", TRITON, "exists = start + step < pixels", "exists = start + step <= pixels"),
    Bug(
        "the last block is lost",
        TRITON,
        "tl.minimum(rounds, blocks - program * rounds)",
        "tl.minimum(rounds, blocks - program * rounds - 1)",
    ),
    Bug(
        "ignored pixels keep their logits",
        TRITON,
        "tl.where(counted, values.to(tl.float32), 0.0)",
        "values.to(tl.float32)",
    ),
    Bug("weight lost in the gradient", TRITON, "tl.where(counted, m * slope, 0.0)", "tl.where(counted, slope, 0.0)"),
    Bug("illegal labels count as ignored", TRITON, 'state == 2), float("nan"), m)', "state == 2), 0.0, m)"),
    Bug("the wrong gradient of q", TRITON, "- q_own * push, p * (pull + push)", "- push, p * (pull + push)"),
    Bug(
        "a class is lost between chunks",
        TRITON,
        "number * shape.block_c + tl.arange",
        "number * (shape.block_c - 1) + tl.arange",
    ),
    Bug(
        "smoothing in the rows beyond C",
        TRITON,
        "tl.where(classes < shape.classes, keep * y + spread, 0.0)",
        "keep * y + spread * 0.9",
    ),
]


def caught_by(bug: Bug) -> str:
    """The first test that fails on a copy with this bug, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("segfocal", "tests"):
            shutil.copytree(ROOT / part, copy / part)
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "segfocal" / bug.file
        path.write_text(path.read_text().replace(bug.old, bug.new))
        run = [sys.executable, "-m", "pytest", "-x", "--no-header", "-p", "no:cacheprovider", *TESTS[bug.file]]
        environment = os.environ | {"PYTHONPATH": str(copy)}
        result = subprocess.run(run, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split(" - ")[0] if failed else ""


def main() -> int:
    """Plant every bug that was asked for, and say what caught it."""
    words, missed = sys.argv[1:], 0
    for bug in BUGS:
        if words and not any(word in f"{bug.what} {bug.file}" for word in words):
            continue
        found = caught_by(bug)
        missed += not found
        print(f"{bug.what:45s} {bug.file:20s} {found or 'NOT CAUGHT'}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
