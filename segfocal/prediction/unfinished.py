"""Runs that were ended before their end, and are gone on with by the same command."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from segfocal.runs import numbered
from segfocal.writing import remove_parts

MARKER = "unfinished.json"  # says what the run does; there from its first file to its last


class Unfinished:
    """A run directory that is being written to, by this process alone.

    The marker is locked as long as the process lives, so nobody else goes on with a run that is under way.

    Args:
        run: The directory.
        file: Its marker, open and locked.
    """

    def __init__(self, run: Path, file: IO[str]) -> None:
        self.run, self._file = run, file

    @classmethod
    def begin(cls, run: Path, about: Mapping[str, object]) -> "Unfinished":
        """Mark a new run.

        Args:
            run: Its directory.
            about: What it does: numbers, texts and lists of them.
        """
        part = run / f".{MARKER}"
        file = part.open("w", encoding="utf-8")
        _lock(file)
        json.dump(dict(about), file)
        file.flush()
        os.fsync(file.fileno())
        part.replace(run / MARKER)  # the lock stays with the file
        return cls(run, file)

    @classmethod
    def take_up(cls, home: Path, about: Mapping[str, object]) -> "Unfinished | None":
        """The newest unfinished run below `home` that does the same and that nobody is writing to, if there is one."""
        for _, run in sorted(numbered(home), reverse=True):
            marker = run / MARKER
            try:
                file = marker.open("r+", encoding="utf-8")
            except FileNotFoundError:  # finished, perhaps just now
                continue
            if _said(file) == dict(about) and _lock(file) and _is_there(file, marker):
                remove_parts(run)
                return cls(run, file)
            file.close()
        return None

    def finish(self) -> None:
        """Nobody goes on with this run from now on."""
        (self.run / MARKER).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let others go on with it."""
        self._file.close()


def _said(file: IO[str]) -> object:
    try:
        return json.load(file)
    except ValueError:  # not written by `begin`
        return None


def _is_there(file: IO[str], marker: Path) -> bool:
    """Whether an open file is still the marker: who held its lock may have finished since, and removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), marker.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str]) -> bool:
    """Lock a file as long as this process lives; its children, such as workers that outlive it, do not hold it."""
    if os.name != "posix":
        return True
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
