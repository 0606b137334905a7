"""Run directories and the checkpoints in them.

Every fit makes runs/NAME/000, 001, ...; every other command the next number with its own name, such as 002-test.
Nothing is ever overwritten. runs/NAME/latest points to the newest.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["best", "last"]


class CheckpointError(Exception):
    """There is no checkpoint, or it does not fit: the message says which, why, and what to do."""


def new_run(runs: Path, name: str, command: str) -> Path:
    """Make and return the next free directory under runs/NAME, and point runs/NAME/latest to it.

    Raises:
        ValueError: A name that is not a plain folder name, or a file in the way.
        OSError: The directory cannot be made for another reason, such as a full disk.
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
    number = max((number for number, _ in _numbered(home)), default=-1) + 1
    while True:
        run = home / (f"{number:03d}" if command == "fit" else f"{number:03d}-{command}")
        try:
            run.mkdir()
            break
        except FileExistsError:  # another process took the number a moment ago
            number += 1
    _point(home / "latest", run.name)
    return run


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


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU without running any code from it.

    Raises:
        CheckpointError: A file that is no checkpoint, is damaged, or holds more than plain data and tensors.
    """
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
            f"{path} was trained on {len(trained)} classes ({_some(trained)}), the configuration has "
            f"{len(class_names)} ({_some(class_names)}). Use the data and classes that it was trained with."
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
            f"{path} does not fit the configured net: {_some(faults)}. Use the config.yaml of the checkpoint's run."
        )
    return saved


def _numbered(home: Path) -> Iterator[tuple[int, Path]]:
    for path in home.iterdir():
        match = re.fullmatch(r"(\d{3,})(-\w+)?", path.name)
        if match and not path.is_symlink():
            yield int(match[1]), path


def _newest(home: Path, kind: Kind) -> Path:
    if home.is_dir():
        for _, run in sorted(_numbered(home), reverse=True):
            if (run / "checkpoints" / f"{kind}.ckpt").is_file():
                return run / "checkpoints" / f"{kind}.ckpt"
    raise CheckpointError(f"No run under {home} has a {kind} checkpoint. Run segfocal fit first.{_hint(home)}")


def _of_run(run: Path, prefer: Kind) -> Path:
    for kind in (prefer, "best", "last"):
        if (run / "checkpoints" / f"{kind}.ckpt").is_file():
            return run / "checkpoints" / f"{kind}.ckpt"
    raise CheckpointError(f"{run / 'checkpoints'} holds neither best.ckpt nor last.ckpt. Give the file's path.")


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
    return f" {parent} holds: {_some(found)}." if found and parent != Path() else ""


def _some(items: list[str], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
