"""One command in several processes: which of them this is, what the first tells the others, how all end together.

Lightning's own launcher starts the same command again once the trainer runs; torchrun and SLURM start all at once.
"""

import atexit
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

_RUN = "SEGFOCAL_RUN"  # inherited by the processes that Lightning starts
_PATIENCE = 600.0  # seconds until the first process has checked its data and made a run directory
_GRACE = 5.0  # seconds to end by oneself


def rank() -> int:
    """The number of this process among those of its command: 0 for the first, which alone prints and writes."""
    return int(getattr(rank_zero_only, "rank", 0))


def tell(run: Path) -> None:
    """Tell the other processes which run directory the first one has made."""
    os.environ[_RUN] = str(run)
    if distributed.is_torchelastic_launched():
        _store().set(_key(), str(run))
    elif file := _slurm_file(run.parent):
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(run.name, encoding="utf-8")
        part.replace(file)
        atexit.register(file.unlink, missing_ok=True)


def told(home: Path) -> Path:
    """The run directory below `home` that the first process has made; waits for it.

    Raises:
        ValueError: It does not come, or this process was started in a way that is not known here.
    """
    if distributed.is_torchelastic_launched():
        return Path(_store().get(_key()).decode())
    if file := _slurm_file(home):
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if file.is_file():
                return home / file.read_text(encoding="utf-8")
            time.sleep(0.1)
        raise ValueError(f"Expected the first process to make a run directory below {home}, got none. See its errors.")
    if _RUN in os.environ:
        return Path(os.environ[_RUN])
    raise ValueError(f"Expected process {rank()} to be started by Lightning, torchrun or SLURM. Use one of them.")


def _store() -> Any:  # noqa: ANN401
    """The store of torchrun's agent, which lives as long as the processes that it has started."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_PATIENCE))


def _key() -> str:
    return f"{_RUN}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def _slurm_file(home: Path) -> Path | None:
    """Named after the job's step, so that no other command finds it."""
    if int(os.environ.get("SLURM_NTASKS", 1)) < 2 or "SLURM_STEP_ID" not in os.environ:
        return None
    step = [os.environ.get(f"SLURM_{part}", "0") for part in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
    return home / f".run-{'-'.join(step)}"


def leave() -> None:
    """Leave the group of processes at the end of a command: what is still open when Python ends may abort it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def in_pieces(trainer: Trainer) -> bool:
    """Whether each process holds a part of the weights only (fsdp)."""
    return isinstance(trainer.strategy, FSDPStrategy)


def of_all(value: Any) -> list[Any]:  # noqa: ANN401
    """What each process gives here, in their order; all must come here."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


class Together(Callback):
    """Ends the processes of a command together: an error in one, or a SIGTERM to one, ends all with its exit code.

    Without it Lightning's first process would be killed with the others, without a message, and a signal to it would
    leave the others waiting.
    """

    def __init__(self) -> None:
        self._others: list[Any] = []
        self._ending = threading.Event()
        self._terminated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch over the processes that Lightning has started, in its place."""
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and launcher.procs:
            self._others, launcher.procs[:] = list(launcher.procs), []  # Lightning's watchman has that very list
            threading.Thread(target=self._watch, daemon=True).start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note a SIGTERM only: Lightning's handler talks to the other processes, whatever these are talking about."""
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Agree with the other processes on a SIGTERM, so that all stop after the same batch."""
        if trainer.world_size > 1:
            noted = torch.tensor(int(self._terminated), device=pl_module.device)
            distributed.all_reduce(noted, distributed.ReduceOp.MAX)
            trainer._signal_connector.received_sigterm = bool(noted)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the others time to end by themselves; what was lost with another process is not this one's error."""
        if trainer.world_size < 2:
            return
        self._ending.set()
        code = self._end_others()
        if isinstance(exception, RuntimeError) and _lost(exception) and (code or trainer.global_rank):
            os._exit(code or 1)  # that process has said why

    def _watch(self) -> None:
        while all(process.poll() in (None, 0) for process in self._others):
            time.sleep(0.2)
            if all(process.poll() == 0 for process in self._others):
                return
        if not self._ending.wait(_GRACE):  # waiting for a process that is no more
            os._exit(self._end_others() or 1)

    def _end_others(self) -> int:
        """Wait for the others, end those that do not, and return the exit code of the one that failed."""
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and any(process.poll() is None for process in self._others):
            time.sleep(0.1)
        codes = [process.poll() for process in self._others]
        for number, (code, process) in enumerate(zip(codes, self._others, strict=True), 1):
            if code is None:
                process.kill()
            elif code < 0:  # it could not say so itself
                print(f"segfocal: process {number} was ended by signal {-code}.", file=sys.stderr, flush=True)
        return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _lost(error: RuntimeError) -> bool:
    """Whether the error is that another process can no longer be reached."""
    return any(word in str(error) for word in ("gloo", "NCCL", "onnection closed", "onnection reset"))
