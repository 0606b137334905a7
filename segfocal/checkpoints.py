"""Checkpoint files: written whole or not at all, sealed, and read without running anything.

A checkpoint is torch's ZIP archive with the SHA-256 of its bytes as the archive's comment.
"""

import errno
import hashlib
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from segfocal.writing import written_whole

_log = logging.getLogger(__name__)

_END = b"PK\x05\x06"  # begins the last 22 bytes of an archive, of which the last two count the comment's bytes
_SEAL = 64  # bytes of a SHA-256 in hexadecimal


class CheckpointError(Exception):
    """There is no checkpoint, or it does not fit: the message says which, why, and what to do."""


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write to a file beside `path`, seal it, and rename it: at any moment `path` is the old file or the new one.

    Raises:
        OSError: The disk is full or cannot be written to; `path` is as it was.
    """
    with written_whole(path) as part, part.open("w+b") as file:
        _save(checkpoint, file)
        digest = _digest(file, file.seek(0, os.SEEK_END))
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL.to_bytes(2, "little") + digest.encode())


def _save(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:  # torch hides a full disk behind its archive's own troubles
            if isinstance(cause, OSError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise


def check_disk(folder: Path, net: nn.Module, copies: int) -> None:
    """Refuse to begin what cannot be saved.

    Args:
        folder: Where checkpoints will lie.
        net: What is trained.
        copies: How often a checkpoint holds the weights: themselves, AdamW's two means, a moving average.

    Raises:
        OSError: There is no room for three checkpoints: the best, the last, and the one being written.
    """
    size = copies * sum(value.numel() * value.element_size() for value in net.state_dict().values())
    free = shutil.disk_usage(folder).free
    if free < 3 * size:
        raise OSError(
            errno.ENOSPC,
            f"Expected room for three checkpoints of {size / 1e6:.1f} MB in {folder}, {free / 1e6:.1f} MB are free",
        )


def verify(path: Path) -> None:
    """Compare a checkpoint with its seal, or, of a file without one, each part with its checksum in the archive.

    Raises:
        CheckpointError: It is damaged, or no checkpoint.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 22 - _SEAL))
        end = file.read()
        sealed = end[:4] == _END and len(end) == 22 + _SEAL
        if sealed:
            sound = end[20:22] == _SEAL.to_bytes(2, "little") and _digest(file, size - _SEAL).encode() == end[22:]
        else:
            sound = end[-22:-18] == _END and _parts_are_sound(path)
    if not sound:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged, truncated, or was not written by segfocal. "
            "Use another one of the run's checkpoints."
        )


def _digest(file: Any, size: int) -> str:  # noqa: ANN401
    """Of the first `size` bytes, with the length of the comment as it was before the seal: 0."""
    found, left = hashlib.sha256(), size - 2
    file.seek(0)
    while left:
        block = file.read(min(left, 2**20))
        found.update(block)
        left -= len(block)
    found.update(b"\0\0")
    return found.hexdigest()


def _parts_are_sound(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, ValueError, EOFError):
        return False


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU without running any code from it.

    Raises:
        CheckpointError: A file that is no checkpoint, is damaged, or holds more than plain data and tensors.
    """
    verify(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {reason} It may be truncated, or not written by segfocal; "
            "use another one of the run's checkpoints."
        ) from error
    weights, options = (
        (checkpoint.get(key) for key in ("state_dict", "hyper_parameters")) if isinstance(checkpoint, dict) else (0, 0)
    )
    plain = isinstance(weights, dict) and all(isinstance(value, torch.Tensor) for value in weights.values())
    if not plain or not isinstance(options, dict) or not isinstance(options.get("class_names"), list):
        raise CheckpointError(f"{path} is not a checkpoint of segfocal: it lacks state_dict or hyper_parameters.")
    if "_instantiator" in options:
        raise CheckpointError(f"{path} names code to be run when it is loaded (_instantiator). Do not trust it.")
    loaded: dict[str, Any] = checkpoint
    return loaded


def net_state(checkpoint: dict[str, Any], path: Path, net: nn.Module, class_names: list[str]) -> dict[str, Any]:
    """The net's weights in a checkpoint, which fit `net` and the classes.

    Raises:
        CheckpointError: Other classes, or weights of other names or shapes.
    """
    trained = checkpoint["hyper_parameters"]["class_names"]
    if trained != class_names:
        raise CheckpointError(
            f"{path} was trained on {len(trained)} classes ({some(trained)}), the configuration has "
            f"{len(class_names)} ({some(class_names)}). Use the data and classes that it was trained with."
        )
    named = checkpoint["state_dict"].items()
    saved = {key.removeprefix("net."): value for key, value in named if key.startswith("net.")}
    wanted = net.state_dict()
    faults = [
        f"{key} is {tuple(saved[key].shape)} there and {tuple(wanted[key].shape)} here"
        for key in sorted(wanted.keys() & saved.keys())
        if wanted[key].shape != saved[key].shape
    ]
    faults += [f"{key} only here" for key in sorted(wanted.keys() - saved.keys())]
    faults += [f"{key} only there" for key in sorted(saved.keys() - wanted.keys())]
    if faults:
        raise CheckpointError(
            f"{path} does not fit the configured net: {some(faults)}. Use the config.yaml of the checkpoint's run."
        )
    return saved


class SealedCheckpointIO(TorchCheckpointIO):
    """Lightning's way to these files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint; see `write_checkpoint`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; never runs code, whatever is asked for."""
        return load_checkpoint(Path(path))


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, the one with the best mIoU on val.

    A resumed fit goes on from the best one so far, of which it takes a copy; Lightning's would forget it, as the run
    has a folder of its own.

    Args:
        folder: Of the checkpoints.
        resumed: The checkpoint that is gone on from.
    """

    def __init__(self, folder: Path, resumed: Path | None) -> None:
        super().__init__(folder, "best", monitor="val/miou", mode="max", enable_version_counter=False)
        self.path = Path(str(self.dirpath)) / "best.ckpt"  # as Lightning writes it, which compares names
        self.before = None if resumed is None else resumed.parent / "best.ckpt"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint so far with its score."""
        score = state_dict["best_model_score"]
        if score is not None and self._taken_over():
            self.best_model_score = self.kth_value = score
            self.best_model_path = self.kth_best_model_path = str(self.path)
            self.best_k_models = {str(self.path): score}

    def _taken_over(self) -> bool:
        assert self.before is not None, "only a resumed fit has a state to load"
        try:
            if not self.before.is_file():
                raise CheckpointError(f"{self.before} is not there.")
            verify(self.before)
        except CheckpointError as error:
            _log.warning("%s The best checkpoint is that of the epochs to come.", error)
            return False
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            with written_whole(self.path) as part:
                shutil.copyfile(self.before, part)
        return True


class SaveOnTermination(Callback):
    """After a SIGTERM between two batches, which Lightning waits for, writes a checkpoint to go on from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save; within a validation nothing is, since half of it cannot be taken up again."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            trainer.save_checkpoint(self.path)


def some(items: list[str], most: int = 5) -> str:
    """The first few items in words.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
