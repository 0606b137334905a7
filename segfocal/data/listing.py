"""Images and masks that a text file lists.

Faults are collected as sentences that begin with a path or a line of the file.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from segfocal.data.samples import FileSample


def voc_list(root: Path, split: str) -> Path:
    """Where Pascal VOC lists a split."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def samples_of_voc(root: Path, split: str, masks: bool) -> tuple[list[FileSample], list[str]]:
    """Pascal VOC: ImageSets/Segmentation/SPLIT.txt lists stems of JPEGImages and SegmentationClass."""
    rows, faults = _rows(voc_list(root, split), "`root`")
    samples = []
    for where, stem in rows:
        image, mask = f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png"
        if fault := _outside(root, image):
            faults.append(f"{where}: {fault}")
        else:
            samples.append(FileSample(image, root / image, root / mask if masks else None, mask))
    twice = [name for name, n in Counter(sample.name for sample in samples).items() if n > 1]
    return samples, faults + [f"{voc_list(root, split).name}: {name} is listed twice. Keep one line." for name in twice]


def _rows(file: Path, option: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The lines of a split file that say something, each with where it stands."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{file}: the split file must be readable UTF-8 text ({error}). Correct {option}."]
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    rows = [(f"{file.name}, line {number}", line) for number, line in stripped if line and not line.startswith("#")]
    return rows, [] if rows else [f"{file}: lists no images. Write a line for each, relative to the data root."]


def samples_from_file(root: Path, file: Path, masks: int = 1) -> tuple[list[FileSample], list[str]]:
    """Read the `image mask` pairs of a split file.

    One pair per line, separated by a tab, or by blanks when no name has any; blank lines and lines that begin with `#`
    are skipped. Paths are relative to `root` and must stay inside it, links followed. With several masks per image a
    line has them all, in the order of the classes, `-` where a class does not occur.

    Returns:
        The samples in the file's order, and the faults. A line with an image alone is a sample without a mask.
    """
    rows, faults = _rows(file, "`split_files`")
    samples = []
    seen: set[str] = set()
    for where, line in rows:
        names = [name.strip() for name in line.split("\t")] if "\t" in line else line.split()
        if len(names) not in (1, 1 + masks):
            rule = "`image mask`" if masks == 1 else f"an image and {masks} masks, one per class or -"
            faults.append(f"{where}: a line is {rule}, got {len(names)} words. Use a tab if names have blanks.")
            continue
        wrong = [fault for name in names if (fault := _outside(root, name))]
        names = [PurePosixPath(name).as_posix() for name in names]  # ./a.png is a.png
        if not wrong and names[0] in seen:
            wrong = [f"{names[0]} is listed twice. Keep one line."]
        seen.add(names[0])
        faults += [f"{where}: {fault}" for fault in wrong]
        if not wrong:
            samples.append(_listed_sample(root, names[0], names[1:]))
    return samples, faults


def _listed_sample(root: Path, image: str, masks: Sequence[str]) -> FileSample:
    planes = tuple(None if name == "-" else (root / name, name) for name in masks)
    path, name = next((plane for plane in planes if plane), (None, image))
    return FileSample(image, root / image, path, name, planes=planes if len(planes) > 1 else ())


def _outside(root: Path, name: str) -> str | None:
    try:
        inside = (root / name).resolve().is_relative_to(root.resolve())
        (root / name).is_file()  # raises for a name too long
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, a link to itself
        return f"{name[:80]!r} is not a path that can be read ({error!s:.80}). Correct the line."
    if Path(name).is_absolute() or not inside:
        return f"{name} leads out of the data root. Copy the file into the root and list its relative path."
    return None
