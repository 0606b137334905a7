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
BACKEND = ["tests/test_kernels.py", "tests/test_traps.py", "tests/test_functional.py", "-k"]
TESTS = {  # of each file, those that look at it
    FUNCTIONAL: ["tests/test_functional.py", "tests/test_parity.py", "tests/test_kernels.py", "tests/test_ranks.py"],
    REFERENCE: [*BACKEND, "reference or functional"],
    TILED: [*BACKEND, "tiled or functional"],
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
    # The tiles
    Bug("half precision inside", TILED, "else torch.float32\n\n\ndef _acc", "else x.dtype\n\n\ndef _acc"),
    Bug("a tile edge is lost", TILED, "slice(start, start + step) for", "slice(start, start + step - (start > 0)) for"),
    Bug("the last tile is lost", TILED, "range(0, length, step)]", "range(0, max(1, length - step), step)]"),
    Bug("exponentials overflow", TILED, "total.amax() <= 1e18", "total.amax() <= math.inf"),
    Bug("small exponentials lose digits", TILED, "own.amin() >= 1e-18", "own.amin() >= 0"),
    Bug("ignored pixels count", TILED, "m = (~ignored).to(dtype)", "m = torch.ones_like(ignored, dtype=dtype)"),
    Bug("weight 0 is not ignored", TILED, "ignored = ignored | (m == 0)", "ignored = ignored"),
    Bug("the pixel's own class pulls", TILED, "pull.sub_(a)", "(pull * q).sub_(a)"),
    Bug("Dice's gradient forgets the overlap", TILED, "_of_class(g + grads.overlap", "_of_class(g"),
    Bug("the gradient of p^2 is p", TILED, "v = v + 2 * p *", "v = v + p *"),
    Bug("gamma off by one in the slope", TILED, "mul_(p).mul_(gamma)", "mul_(p).mul_(gamma - 1)"),
    Bug(
        "smoothing spread over one class less",
        TILED,
        "smoothing / tile.x.shape[1]",
        "smoothing / (tile.x.shape[1] - 1)",
    ),
    Bug("labels clamped in silence", TILED, "torch.where(illegal, math.nan, 0.0)", "torch.where(illegal, 0.0, 0.0)"),
    Bug("one channel is class 0", TILED, "first = 1 if num_classes == 1 else 0", "first = 0"),
    Bug("softplus stops at 20", TILED, "F.softplus(r, threshold=40.0)", "F.softplus(r)"),
    Bug("autocast reaches the tiles", TILED, "enabled=False):\n            room", "enabled=True):\n            room"),
    Bug("ignored infinities stay", TILED, "return x.masked_fill_(tile.ignored, 0.0)", "return x"),
    Bug(
        "NaN escapes the check",
        TILED,
        "if own.amin() >= 1e-18 and total.amax() <= 1e18",
        "if not own.amin() < 1e-18 and not total.amax() > 1e18",
    ),
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
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
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
