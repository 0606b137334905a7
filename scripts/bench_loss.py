"""Time and memory of the loss against other libraries: forward and backward of focal + Dice, one run, ratios last.

    python scripts/bench_loss.py [--device cpu|cuda] [--classes 12 ...] [--dtypes float32 ...] [--json FILE]

Contenders take turns, so that a busy machine slows all alike; times are medians. The floor is the time to move
3 L + 2 T bytes (L of logits, T of labels) at the copy bandwidth measured in the same run: the forward pass reads both
once, the backward pass reads both and writes the gradient. Memory is the peak above the inputs, in sizes of the logits.

On the CPU set OMP_WAIT_POLICY=PASSIVE, as `segfocal fit` does: else the threads of one contender spin into the next.
With TRITON_INTERPRET=1 the Triton kernels take part there too, interpreted, for a rehearsal on tiny tensors.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import segfocal

Loss = Callable[[Tensor, Tensor], Tensor]
CLASSES, DTYPES, LAYOUTS = (2, 12, 19, 150), ("float32", "bfloat16"), ("contiguous", "channels_last")
PACKAGES = ("torch", "triton", "numba", "segmentation_models_pytorch", "monai", "kornia", "torchvision")


class Config(NamedTuple):
    """One problem that all contenders solve."""

    classes: int
    dtype: str
    layout: str
    shape: tuple[int, ...]


# Contenders


def plain(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax focal + Dice as one would write it down."""
    log_p, valid = logits.float().log_softmax(1), target != 255
    index = target.masked_fill(~valid, 0)
    log_p_t = log_p.gather(1, index.unsqueeze(1)).squeeze(1)
    focal = ((1 - log_p_t.exp()) ** 2 * -log_p_t * valid).sum() / valid.sum()
    p = log_p.exp() * valid.unsqueeze(1)
    y = F.one_hot(index, logits.shape[1]).movedim(-1, 1) * valid.unsqueeze(1)
    return focal + 1 - ((2 * (p * y).sum((0, 2, 3)) + 1) / (p + y).sum((0, 2, 3)).add(1)).mean()


def contenders(config: Config, device: str, compiled: bool) -> dict[str, Loss]:
    """Name -> loss, for this problem."""
    from kornia.losses import dice_loss, focal_loss
    from monai.losses import DiceFocalLoss
    from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
    from torchvision.ops import sigmoid_focal_loss

    smp_focal = FocalLoss("multiclass", ignore_index=255)
    smp_dice = DiceLoss("multiclass", ignore_index=255)
    monai = DiceFocalLoss(to_onehot_y=True, softmax=True)

    def kornia(x: Tensor, t: Tensor) -> Tensor:
        focal = focal_loss(x, t, alpha=None, gamma=2.0, reduction="mean", ignore_index=255)
        return focal + dice_loss(x, t, average="macro", ignore_index=255)

    def torchvision(x: Tensor, t: Tensor) -> Tensor:
        y = F.one_hot(t.masked_fill(t == 255, 0), config.classes).movedim(-1, 1).to(x.dtype)
        return sigmoid_focal_loss(x, y, alpha=0.25, reduction="mean")

    found: dict[str, Loss] = {"F.cross_entropy alone": lambda x, t: F.cross_entropy(x, t, ignore_index=255)}
    backends = ["reference"] if device == "cuda" else ["tiled", "reference"]
    if device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        backends.insert(0, "triton")
    for backend in backends:
        found[f"segfocal {backend}"] = segfocal.FocalDiceLoss(backend=backend)
    found["segfocal sigmoid"] = segfocal.FocalDiceLoss("sigmoid", alpha=0.25)
    found["smp Focal + Dice (sigmoid focal)"] = lambda x, t: smp_focal(x, t) + smp_dice(x, t)
    found["MONAI DiceFocal (no ignore)"] = lambda x, t: monai(x, t.masked_fill(t == 255, 0).unsqueeze(1))
    found["kornia focal + dice"] = kornia
    found["torchvision sigmoid focal (no Dice)"] = torchvision
    if compiled:
        found["torch.compile of plain focal + Dice"] = torch.compile(plain, dynamic=False)
    return found


def options() -> dict[str, Loss]:
    """What options cost, on the same inputs."""
    alpha = [1.0 + c / 12 for c in range(12)]
    return {
        "no ignored pixel": lambda x, t: segfocal.FocalDiceLoss()(x, t.clamp(max=x.shape[1] - 1)),
        "as it comes (5 % ignored)": segfocal.FocalDiceLoss(),
        "alpha per class": segfocal.FocalDiceLoss(alpha=alpha),
        "class weights, reduction='weighted'": segfocal.FocalDiceLoss(alpha=alpha, reduction="weighted"),
        "uint8 labels": lambda x, t: segfocal.FocalDiceLoss()(x, t),
    }


# Measuring


def problem(config: Config, device: str) -> tuple[Tensor, Tensor]:
    """Logits that require a gradient, and class indices, 5 % of them 255."""
    torch.manual_seed(0)
    logits = torch.randn(config.shape, device=device, dtype=getattr(torch, config.dtype))
    layout = torch.channels_last if config.layout == "channels_last" else torch.contiguous_format
    logits = logits.to(memory_format=layout).requires_grad_()
    target = torch.randint(config.classes, (config.shape[0], *config.shape[2:]), device=device)
    return logits, target.masked_fill_(torch.rand(target.shape, device=device) < 0.05, 255)


def step(loss: Loss, logits: Tensor, target: Tensor) -> None:
    """Forward and backward."""
    loss(logits, target).backward()


def seconds(work: Callable[[], object], device: str) -> float:
    """How long the work takes, on the device's own clock."""
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def resident(field: str) -> int:
    """Bytes of this process in main memory: VmRSS now, VmHWM at the most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_memory(loss: Loss, logits: Tensor, target: Tensor, device: str) -> float:
    """The peak above the inputs in bytes, NaN where the system does not tell."""
    logits.grad = None
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(loss, logits, target)
        return float(torch.cuda.max_memory_allocated() - before)
    if platform.system() != "Linux":
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    step(loss, logits, target)
    return float(resident("VmHWM") - before)


def measure(losses: dict[str, Loss], config: Config, device: str, rounds: int) -> list[dict[str, Any]]:
    """One row per contender: milliseconds, peak memory, or why it did not run."""
    logits, target = problem(config, device)
    size = logits.numel() * logits.element_size()
    moved = 3 * size + 2 * target.numel() * target.element_size()
    rows: dict[str, dict[str, Any]] = {}
    for name, loss in losses.items():
        inputs = (logits, target.byte()) if name == "uint8 labels" else (logits, target)
        try:
            peak = (peak_memory(loss, *inputs, device), peak_memory(loss, *inputs, device))[1]  # the first warms up
        except (RuntimeError, torch.OutOfMemoryError) as error:
            rows[name] = {"failed": str(error).splitlines()[0]}
            continue
        rows[name] = {"inputs": inputs, "loss": loss, "times": [], "peak": peak / size}
    twin, copies = torch.empty_like(logits), []
    for _ in range(rounds):
        with torch.no_grad():
            copies.append(seconds(lambda: twin.copy_(logits), device))
        for row in rows.values():
            if "failed" not in row:
                logits.grad = None
                row["times"].append(seconds(lambda row=row: step(row["loss"], *row["inputs"]), device))
    floor = moved / (2 * size / statistics.median(copies))
    return [result(name, row, config, floor) for name, row in rows.items()]


def result(name: str, row: dict[str, Any], config: Config, floor: float) -> dict[str, Any]:
    """What goes into the JSON."""
    about = {"loss": name, **config._asdict(), "elements": math.prod(config.shape)}
    if "failed" in row:
        return about | {"failed": row["failed"]}
    median = statistics.median(row["times"])
    return about | {
        "ms": round(median * 1e3, 3),
        "min_ms": round(min(row["times"]) * 1e3, 3),
        "floors": round(median / floor, 2),
        "peak_logits": round(row["peak"], 2),
    }


# Reporting


def tables(results: list[dict[str, Any]], ours: str, base: str) -> Iterator[Table]:
    """One table per problem."""
    for config in dict.fromkeys((r["classes"], r["dtype"], r["layout"], tuple(r["shape"])) for r in results):
        rows = [r for r in results if (r["classes"], r["dtype"], r["layout"], tuple(r["shape"])) == config]
        times = {r["loss"]: r["ms"] for r in rows if "ms" in r}
        shape = " x ".join(map(str, config[3]))
        table = Table(title=f"{config[1]}, {config[2]}, {shape}", title_justify="left")
        table.add_column("loss")
        for heading in ("ms", f"x {base}", f"x {ours}", "x floor", "peak, x logits"):
            table.add_column(heading, justify="right")
        for r in rows:
            if "failed" in r:
                table.add_row(r["loss"], "-", "-", "-", "-", r["failed"][:40])
                continue
            ratios = [f"{r['ms'] / times[other]:.2f}" if other in times else "-" for other in (base, ours)]
            table.add_row(r["loss"], f"{r['ms']:.1f}", *ratios, f"{r['floors']:.1f}", f"{r['peak_logits']:.2f}")
        yield table


def about(device: str) -> dict[str, Any]:
    """Machine, versions and date."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if device == "cpu" and info.exists():
        name = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES if find_spec(package)},
        "date": date.today().isoformat(),
    }


def shape_of(classes: int, elements: int | None) -> tuple[int, ...]:
    """B, C, H, W of about as many elements for every C; the CPU's default is 4 x 12 x 360 x 480."""
    if elements is None:
        return {2: (24, 2, 360, 480), 12: (4, 12, 360, 480), 19: (3, 19, 360, 480), 150: (3, 150, 120, 160)}.get(
            classes, (4, classes, 360, 480)
        )
    height = 2 ** round(math.log2(math.sqrt(elements / classes / 4)))
    return (max(1, elements // (classes * height * height)), classes, height, height)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, "float16"), default=DTYPES)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--elements", type=int, help="of the logits, about (default: 2^26 on CUDA, 2^23 on CPU)")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each contender")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """Measure every problem, print the tables last."""
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")  # the contenders' own
    device = arguments.device
    elements = arguments.elements or (2**26 if device == "cuda" else None)
    problems = [
        Config(classes, dtype, layout, shape_of(classes, elements))
        for classes in arguments.classes
        for dtype in arguments.dtypes
        for layout in arguments.layouts
    ]
    results, costs = [], []
    for config in track(problems, "Measuring", console=Console(stderr=True)):
        # Inductor needs a C++ compiler on the CPU and takes half a minute for each problem.
        compiled = config.layout == "contiguous" and (
            device == "cuda" or (shutil.which("g++") is not None and config.dtype == "float32" and elements is None)
        )
        results += measure(contenders(config, device, compiled), config, device, arguments.rounds)
        if config.classes == 12 and config[1:3] == ("float32", "contiguous"):
            costs = measure(options(), config, device, 3 * arguments.rounds)
        torch.compiler.reset()
    record = {"machine": about(device), "results": results, "options": costs}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    console = Console(width=140)
    ours = "segfocal triton" if device == "cuda" else "segfocal tiled"
    for table in [
        *tables(costs, "as it comes (5 % ignored)", "no ignored pixel"),
        *tables(results, ours, "F.cross_entropy alone"),
    ]:
        console.print(table)
    console.print(record["machine"])


if __name__ == "__main__":
    main()
