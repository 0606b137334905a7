"""Finding the checkpoint that --ckpt_path means."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segfocal.checkpoints import CheckpointError, some, verify
from segfocal.runs import numbered

_log = logging.getLogger(__name__)

Kind = Literal["best", "last"]


def find_checkpoint(wanted: str | None, runs: Path, name: str | None, prefer: Kind) -> Path:
    """The file that --ckpt_path means.

    Args:
        wanted: "best" or "last" of the newest run under runs/NAME that has one; the path of a checkpoint; or a run
            directory, or runs/NAME for its newest run, of which the `prefer` one is taken.
        runs: The folder of all runs.
        name: The name of the runs.
        prefer: Which checkpoint of a run directory to take.

    Raises:
        CheckpointError: There is none.
    """
    if wanted is None:
        raise CheckpointError(
            "Expected `--ckpt_path`: without a checkpoint the net is random and its scores mean nothing. "
            "Give --ckpt_path best, last, a file, or a run directory such as runs/NAME/000."
        )
    if wanted in ("best", "last"):
        if name is None:
            raise CheckpointError(
                f"`--ckpt_path {wanted}` is that of the newest run of a name. Add --config or --name."
            )
        return _newest(runs / name, "best" if wanted == "best" else "last")
    path = Path(wanted).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"Expected `--ckpt_path` to exist, got {wanted!r}.{_hint(path)}")
    if (path / "checkpoints").is_dir():
        return _of_run(path, prefer)
    return _newest(path, prefer)


def run_of(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint file lies in, if it lies in one."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "config.yaml").is_file() else None


def _newest(home: Path, kind: Kind) -> Path:
    if home.is_dir():
        for _, run in sorted(numbered(home), reverse=True):
            if (run / "checkpoints" / f"{kind}.ckpt").is_file():
                return _of_run(run, kind)
    raise CheckpointError(f"No run under {home} has a {kind} checkpoint. Run segfocal fit first.{_hint(home)}")


def _of_run(run: Path, prefer: Kind) -> Path:
    files = [run / "checkpoints" / f"{kind}.ckpt" for kind in dict.fromkeys((prefer, "best", "last"))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise CheckpointError(f"{run / 'checkpoints'} holds neither best.ckpt nor last.ckpt. Give the file's path.")
    return _first_sound(files)


def _first_sound(files: Sequence[Path]) -> Path:
    """The first file that is not damaged; what is passed over is said aloud. If all are, the first."""
    for file in files:
        try:
            verify(file)
        except CheckpointError as error:
            _log.warning("%s", error)
        else:
            if file is not files[0]:
                _log.warning("Taking %s in its place.", file)
            return file
    return files[0]


def _hint(path: Path) -> str:
    parent = next((folder for folder in path.parents if folder.is_dir()), None)
    found = sorted(str(entry) for entry in parent.iterdir() if entry.is_dir()) if parent else []
    return f" {parent} holds: {some(found)}." if found and parent != Path() else ""
