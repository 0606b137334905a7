"""Run directories, and finding the checkpoints in them.

Every fit makes runs/NAME/000, 001, ...; every other command the next number with its own name, such as 002-test.
Nothing is ever overwritten. runs/NAME/latest points to the newest. Of several processes of one command the first makes
the directory, and the others get its path.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from segfocal.checkpoints import CheckpointError, some, verify
from segfocal.processes import rank, tell, told

_log = logging.getLogger(__name__)

Kind = Literal["best", "last"]


def new_run(runs: Path, name: str, command: str) -> Path:
    """Make and return the next free directory under runs/NAME, and point runs/NAME/latest to it.

    Raises:
        ValueError: A name that is not a plain folder name, or a file in the way.
        OSError: The directory cannot be made for another reason, such as a full disk.
    """
    if rank():
        return told(runs / name)
    home = home_of(runs, name)
    number = max((number for number, _ in _numbered(home)), default=-1) + 1
    while True:
        run = home / (f"{number:03d}" if command == "fit" else f"{number:03d}-{command}")
        try:
            run.mkdir()
            break
        except FileExistsError:  # another process took the number a moment ago
            number += 1
    _point(home / "latest", run.name)
    tell(run)
    return run


def home_of(runs: Path, name: str) -> Path:
    """Make and return the folder of the runs of a name.

    Raises:
        ValueError: A name that is not a plain folder name, or a file in the way.
        OSError: It cannot be made for another reason, such as a full disk.
    """
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name) or len(name) > 200:
        raise ValueError(
            f"Expected `name` of letters, digits, '.', '_' and '-', got {name!r}. Use --runs for the folder."
        )
    home = runs / name
    try:
        home.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError, ValueError) as error:
        raise ValueError(f"Expected `runs` to be a folder that can be made, got {runs}: {error}.") from error
    return home


def run_of(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint file lies in, if it lies in one."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "config.yaml").is_file() else None


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


def _numbered(home: Path) -> Iterator[tuple[int, Path]]:
    for path in home.iterdir():
        match = re.fullmatch(r"(\d{3,})(-\w+)?", path.name)
        if match and not path.is_symlink():
            yield int(match[1]), path


def _newest(home: Path, kind: Kind) -> Path:
    if home.is_dir():
        for _, run in sorted(_numbered(home), reverse=True):
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


def _point(link: Path, target: str) -> None:
    """Replace a link in one step; file systems without links go without."""
    temporary = link.with_name(f".latest-{os.getpid()}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)


def _hint(path: Path) -> str:
    parent = next((folder for folder in path.parents if folder.is_dir()), None)
    found = sorted(str(entry) for entry in parent.iterdir() if entry.is_dir()) if parent else []
    return f" {parent} holds: {some(found)}." if found and parent != Path() else ""
