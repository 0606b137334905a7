"""From a root on disk to the samples of a split, with everything wrong that is found on the way.

Faults are collected as sentences that begin with a path, never raised one by one: people mend a data set in one go.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from segfocal.data.datasets import FileSample
from segfocal.data.masks import DataError

Layout = Literal["auto", "folders", "camvid"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# What OpenCV decodes to pixels; in any case.
_KINDS = ("bmp", "dib", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp")
EXTENSIONS = frozenset(f".{e}" for e in _KINDS)


def find_samples(
    root: Path, split: Split, layout: Layout, split_files: Mapping[str, str] | None, *, masks: bool = True
) -> tuple[list[FileSample], list[str]]:
    """List the samples of a split.

    Args:
        root: Folder of the data set.
        split: Which split.
        layout: Where images and masks lie; unused with `split_files`.
        split_files: Text file of `image mask` pairs per split.
        masks: False looks for the images alone.

    Returns:
        The samples, without their sizes, and the faults.
    """
    if not root.is_dir():
        return [], [f"{root}: `root` must be an existing folder. Set it to the folder that holds the data."]
    if split_files is None:
        try:
            image_folder, mask_folder = split_folders(root, layout, split)
        except DataError as error:
            return [], [str(error)]
        return samples_from_folders(root, image_folder, mask_folder if masks else None)
    if split not in split_files:
        return [], [f"{root}: `split_files` has no {split}. Add the text file that lists it."]
    samples, faults = samples_from_file(root, root / split_files[split])
    if not masks:
        return [replace(sample, mask_path=None) for sample in samples], faults
    lone = [sample.name for sample in samples if sample.mask_path is None]
    return samples, faults + [f"{name}: its line names no mask. Write `image mask`." for name in lone]


def split_folders(root: Path, layout: Layout, split: Split) -> tuple[Path, Path]:
    """Return the folders of a split's images and masks.

    Raises:
        DataError: If `layout` is "auto" and no layout is there.
    """
    if layout == "auto":
        if (root / "images").is_dir():
            layout = "folders"
        elif any((root / f"{name}annot").is_dir() for name in SPLITS):
            layout = "camvid"
        else:
            raise DataError(
                f"{root}: holds neither images/ and masks/ nor train/ and trainannot/. "
                "Arrange the files so, or list them with `split_files`."
            )
    if layout == "folders":
        return root / "images" / split, root / "masks" / split
    return root / split, root / f"{split}annot"


def samples_from_folders(root: Path, images: Path, masks: Path | None) -> tuple[list[FileSample], list[str]]:
    """Pair the images below one folder with the masks below another, by their path without extension.

    Args:
        root: Names are relative to it.
        images: Folder of images, searched with all its subfolders.
        masks: Folder of masks; None for images alone.

    Returns:
        The samples in the order of their names, and the faults.
    """
    image_files, faults = _by_stem(root, images)
    if masks is None:
        return [FileSample(_name(root, file), file, None) for file in image_files.values()], faults
    mask_files, mask_faults = _by_stem(root, masks)
    faults += mask_faults
    samples = []
    for stem, image in image_files.items():
        if mask := mask_files.pop(stem, None):
            samples.append(FileSample(_name(root, image), image, mask, _name(root, mask)))
        elif masks.is_dir():
            wanted = _name(root, masks / f"{stem}.png")
            faults.append(f"{_name(root, image)}: has no mask. Add {wanted} or remove the image.")
    if images.is_dir():
        faults += [
            f"{_name(root, file)}: is a mask without an image. Add {_name(root, images / stem)}.* or remove the mask."
            for stem, file in mask_files.items()
        ]
    return samples, faults


def _by_stem(root: Path, folder: Path) -> tuple[dict[str, Path], list[str]]:
    if not folder.is_dir():
        return {}, [f"{_name(root, folder)}: this folder must exist. Create it, or choose another `layout` or `root`."]
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file():
            found[file.relative_to(folder).with_suffix("").as_posix()].append(file)
    faults = [
        f"{', '.join(_name(root, file) for file in files)}: share one stem, so pairing is ambiguous. Keep one of them."
        for files in found.values()
        if len(files) > 1
    ]
    if not found:
        faults.append(f"{_name(root, folder)}: holds no images. Accepted: {' '.join(sorted(EXTENSIONS))}.")
    return {stem: files[0] for stem, files in found.items()}, faults


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def samples_from_file(root: Path, file: Path) -> tuple[list[FileSample], list[str]]:
    """Read the `image mask` pairs of a split file.

    One pair per line, separated by a tab, or by blanks when no name has any; blank lines and lines that begin with `#`
    are skipped. Paths are relative to `root` and must stay inside it, links followed.

    Returns:
        The samples in the file's order, and the faults. A line with an image alone is a sample without a mask.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{file}: the split file must be readable UTF-8 text ({error}). Correct `split_files`."]
    samples, faults = [], []
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{file.name}, line {number}"
        names = [name.strip() for name in line.split("\t")] if "\t" in line else line.split()
        if len(names) > 2:
            faults.append(f"{where}: a line is `image mask`, got {len(names)} words. Use a tab if names have blanks.")
            continue
        wrong = [fault for name in names if (fault := _outside(root, name))]
        names = [PurePosixPath(name).as_posix() for name in names]  # ./a.png is a.png
        if not wrong and names[0] in seen:
            wrong = [f"{names[0]} is listed twice. Keep one line."]
        seen.add(names[0])
        faults += [f"{where}: {fault}" for fault in wrong]
        if not wrong:
            mask = root / names[1] if len(names) == 2 else None
            samples.append(FileSample(names[0], root / names[0], mask, names[-1]))
    if not samples and not faults:
        faults.append(f"{file}: lists no images. A line is `image mask`, relative to the data root.")
    return samples, faults


def _outside(root: Path, name: str) -> str | None:
    try:
        inside = (root / name).resolve().is_relative_to(root.resolve())
        (root / name).is_file()  # raises for a name too long
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, a link to itself
        return f"{name[:80]!r} is not a path that can be read ({error!s:.80}). Correct the line."
    if Path(name).is_absolute() or not inside:
        return f"{name} leads out of the data root. Copy the file into the root and list its relative path."
    return None


def find_images(sources: Sequence[str | Path]) -> tuple[list[FileSample], list[str]]:
    """List the images at `sources`, each an image or a folder of images, without masks."""
    samples, faults = [], []
    if not all(map(str, sources)) or not sources:
        return [], ["`images` must name existing images or folders, got nothing. Name some, or leave it out."]
    for source in (Path(source).expanduser() for source in sources):
        if source.is_dir():
            found, more = samples_from_folders(source, source, None)
            samples += found
            faults += more
        elif source.is_file():
            samples.append(FileSample(source.name, source, None))
        else:
            faults.append(f"{source}: `images` must name existing images or folders. Correct the path.")
    stems = Counter(sample.name.rpartition(".")[0] for sample in samples)
    return samples, faults + [
        f"{stem}.*: two of `images` have this name. Rename one." for stem, n in stems.items() if n > 1
    ]
