"""Run directories.

Every fit makes runs/NAME/000, 001, ...; every other command the next number with its own name, such as 002-test.
Nothing is ever overwritten. runs/NAME/latest points to the newest.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path


def new_run(runs: Path, name: str, command: str) -> Path:
    """Make and return the next free directory under runs/NAME, and point runs/NAME/latest to it.

    Raises:
        ValueError: A name that is not a plain folder name, or a file in the way.
        OSError: The directory cannot be made for another reason, such as a full disk.
    """
    home = home_of(runs, name)
    number = max((number for number, _ in numbered(home)), default=-1) + 1
    while True:
        run = home / (f"{number:03d}" if command == "fit" else f"{number:03d}-{command}")
        try:
            run.mkdir()
            break
        except FileExistsError:  # another process took the number a moment ago
            number += 1
    _point(home / "latest", run.name)
    return run


def fits_behind(run: Path) -> list[Path]:
    """The runs whose training led to the scores of a run, the first one first: those that have a metrics.csv.

    The head of a config.yaml says which checkpoint its command began with. If the runs have been moved together, the
    run of that checkpoint is looked for beside this one.

    Example:
        >>> fits_behind(Path("runs/none"))
        []
    """
    found: list[Path] = []
    following: Path | None = run
    while following is not None and following not in found:
        run, found = following, [following, *found]
        following = _begun_with(run)
    return [run for run in found if (run / "metrics.csv").is_file()]


def _begun_with(run: Path) -> Path | None:
    """The run of the checkpoint that a run's command began with."""
    if not (run / "config.yaml").is_file():
        return None
    lines = (run / "config.yaml").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    named = next((line.removeprefix("# from ") for line in lines if line.startswith("# from ")), None)
    if named is None:
        return None
    told = Path(named).parent.parent
    beside = run.absolute().parent / told.name
    moved = beside if told.parent.name == beside.parent.name else told
    return next((folder for folder in (told, moved) if (folder / "config.yaml").is_file()), None)


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


def numbered(home: Path) -> Iterator[tuple[int, Path]]:
    """The numbers of the runs in a home, and their directories, in any order."""
    for path in home.iterdir():
        match = re.fullmatch(r"(\d{3,})(-\w+)?", path.name)
        if match and not path.is_symlink():
            yield int(match[1]), path


def _point(link: Path, target: str) -> None:
    """Replace a link in one step; file systems without links go without."""
    temporary = link.with_name(f".latest-{os.getpid()}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
