"""What each worker process is reading, so that the sample can be named when one dies or hangs."""

import os
import re
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

import cv2
import torch
from torch.utils.data import DataLoader

from segfocal.data.datasets import Batch, note_with
from segfocal.data.samples import Sample

if TYPE_CHECKING:
    from torch.utils.data.dataloader import _BaseDataLoaderIter

PATIENCE = 600.0  # seconds for a batch, after which its worker hangs

_desks: "WeakSet[Desk]" = WeakSet()


class Desk:
    """Where the workers of a loader note what they read; called in each of them when it starts.

    Args:
        samples: What they read, by index.
        workers: How many there are.
    """

    def __init__(self, samples: Sequence[Sample], workers: int) -> None:
        self.samples = samples
        # Of each worker its process, and 1 + the index of what it reads, 0 for nothing.
        self.notes = torch.zeros(max(workers, 1), 2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        _desks.add(self)

    def __call__(self, worker: int) -> None:
        """Start a worker."""
        cv2.setNumThreads(0)  # the workers are the parallelism
        self.notes[worker, 0] = os.getpid()
        note_with(self.notes[worker, 1:])

    def reading(self, processes: Sequence[int]) -> list[str]:
        """Names of the samples that these processes are reading; of none given, all are."""
        return [
            self.samples[index - 1].name
            for process, index in self.notes.tolist()
            if index and (not processes or process in processes)
        ]


class Loader(DataLoader[Batch]):
    """A DataLoader whose start does not lose the death of another loader's worker.

    torch's handler of SIGCHLD raises wherever the main process happens to be. While threads and processes are started,
    that can be a callback whose exceptions are only printed: the death is then noticed `PATIENCE` seconds later.
    """

    def __iter__(self) -> "_BaseDataLoaderIter":
        """Batches; the handler is called after the start, if a process has died meanwhile."""
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        if not callable(handler) or threading.current_thread() is not threading.main_thread():
            return super().__iter__()
        died: list[int] = []
        signal.signal(signal.SIGCHLD, lambda number, _: died.append(number))
        try:
            return super().__iter__()
        finally:
            signal.signal(signal.SIGCHLD, handler)
            if died:
                handler(died[0], None)


def read_by_workers(message: str) -> str:
    """The samples that the workers which an error of the DataLoader speaks of were reading, in words.

    Args:
        message: It names processes, "(pid(s) 17, 18)" or "(pid 17)", or none if all of them are too slow.
    """
    found = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\)", message)
    processes = [int(number) for number in found[1].split(",")] if found else []
    names = [name for desk in _desks for name in desk.reading(processes)]
    return ", ".join(names[:8]) or "no sample"
