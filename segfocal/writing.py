"""Files that are there whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = ".segfocal-part"  # ends the name of a file that is being written


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; then that file goes to the disk and takes the name of `path`.

    At any moment `path` is the old file or the new one. A process that is killed leaves the file beside it, for
    `remove_parts`; an error removes it.

    Raises:
        OSError: The disk is full or cannot be written to; `path` is as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with written_whole(path) as part:
        ...     _ = part.write_text("whole")
        >>> [file.name for file in path.parent.iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not longer than 255 bytes, however long the name is.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    part = path.with_name(f".{digest}.{os.getpid()}{_PART}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left below a folder in which nobody writes now."""
    for part in folder.rglob(f".*{_PART}"):
        part.unlink(missing_ok=True)
