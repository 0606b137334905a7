"""What each worker process is reading, so that the sample can be named when one dies or hangs."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any
from weakref import WeakSet

import cv2
import torch
from torch.utils.data import DataLoader

from segfocal.data.datasets import Batch, note_with
from segfocal.data.samples import Sample

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
        sys.excepthook = _hung_up
        self.notes[worker, 0] = os.getpid()
        note_with(self.notes[worker, 1:])

    def reading(self, processes: Sequence[int]) -> list[str]:
        """Names of the samples that these processes are reading; of none given, all are."""
        return [
            self.samples[index - 1].name
            for process, index in self.notes.tolist()
            if index and (not processes or process in processes)
        ]


def _hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Of a worker's threads: that the main process has hung up while it was handed a batch, it tells itself."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


class Loader(DataLoader[Batch]):
    """A DataLoader that tells of a worker's death when a batch is waited for, and not before.

    torch's handler of SIGCHLD raises wherever the main process happens to be: in code that makes another error of it,
    or in a callback whose exceptions are only printed, after which the fit would stand still for `PATIENCE` seconds.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Batches."""
        batches = super().__iter__()
        _deaths.listen()
        return _Batches(batches)


class _Batches(Iterator[Batch]):
    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __next__(self) -> Batch:
        with _deaths.told():
            return next(self._batches)


class _Deaths:
    """Stands before torch's handler, which it calls while a batch is waited for."""

    def __init__(self) -> None:
        self._waiting = self._noted = False
        self._usual: Callable[[int, FrameType | None], Any] | None = None

    def listen(self) -> None:
        """Take the place of torch's handler, once that is there."""
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        usual = signal.getsignal(signal.SIGCHLD)
        if callable(usual) and usual != self._handle:
            self._usual = usual
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._waiting and self._usual is not None:
            self._usual(number, frame)
        else:
            self._noted = True

    @contextmanager
    def told(self) -> Iterator[None]:
        """While a batch is waited for."""
        self._waiting = True
        try:
            if self._noted and self._usual is not None:
                self._noted = False
                self._usual(signal.SIGCHLD, None)
            yield
        finally:
            self._waiting = False


_deaths = _Deaths()


def read_by_workers(message: str) -> str:
    """The samples that the workers which an error of the DataLoader speaks of were reading, in words.

    Args:
        message: It names processes, "(pid(s) 17, 18)" or "(pid 17)", or none if all of them are too slow.
    """
    found = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\)", message)
    processes = [int(number) for number in found[1].split(",")] if found else []
    names = [name for desk in _desks for name in desk.reading(processes)]
    return ", ".join(names[:8]) or "no sample"
