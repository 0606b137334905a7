"""Work on many files at once, with a progress bar. Without torch."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_PATIENCE = 2.0  # seconds before the bar appears


def in_parallel(function: Callable[[_In], _Out], items: Sequence[_In], title: str) -> list[_Out]:
    """Map `function` over `items` in threads; a progress bar on stderr appears once it takes long."""
    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=len(items))
    start, shown = time.monotonic(), False
    results = []
    with ThreadPoolExecutor(max(2, default_workers())) as pool:
        try:
            for result in pool.map(function, items):
                results.append(result)
                progress.advance(task)
                if not shown and progress.console.is_terminal and time.monotonic() - start > _PATIENCE:
                    progress.start()
                    shown = True
        finally:
            if shown:
                progress.stop()
    return results


def default_workers() -> int:
    """One worker per core this process may use, at most 4; none on a single core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores) if cores > 1 else 0
