"""Images and masks in folders, paired by the names of their files.

Faults are collected as sentences that begin with a path, never raised one by one: people mend a data set in one go.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from segfocal.data.samples import FileSample

# What can be decoded to pixels; in any case.
_KINDS = ["bmp", "dib", "jp2", "jpe", "jpeg", "jpg", "npy", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"]
EXTENSIONS = frozenset(f".{e}" for e in _KINDS)


def samples_from_folders(
    root: Path, images: Path, masks: Path | None, image_suffix: str = "", mask_suffix: str = ""
) -> tuple[list[FileSample], list[str]]:
    """Pair the images below one folder with the masks below another, by their path without extension and suffix.

    Args:
        root: Names are relative to it.
        images: Folder of images, searched with all its subfolders.
        masks: Folder of masks; None for images alone.
        image_suffix: End of the images' stems; files without it are left alone, since they are something else.
        mask_suffix: End of the masks' stems; likewise.

    Returns:
        The samples in the order of their names, and the faults.
    """
    image_files, faults = files_by_stem(root, images, image_suffix)
    if masks is None:
        return [FileSample(_name(root, file), file, None) for file in image_files.values()], faults
    mask_files, mask_faults = files_by_stem(root, masks, mask_suffix)
    faults += mask_faults
    if suffix := _common_suffix(image_files, mask_files):
        named = f"The masks' names end in {suffix}, the images' do not. Set `mask_suffix: {mask_suffix}{suffix}`."
        return [], [*faults, f"{_name(root, masks)}: no mask has the name of an image. {named}"]
    samples = []
    for stem, image in image_files.items():
        if mask := mask_files.pop(stem, None):
            samples.append(FileSample(_name(root, image), image, mask, _name(root, mask)))
        elif masks.is_dir():
            wanted = _name(root, masks / f"{stem}{mask_suffix}.png")
            faults.append(f"{_name(root, image)}: has no mask. Add {wanted} or remove the image.")
    return samples, faults + _orphans(root, images, mask_files)


def samples_from_class_folders(
    root: Path, images: Path, masks: Path, names: Sequence[str]
) -> tuple[list[FileSample], list[str]]:
    """Pair the images below one folder with masks in masks/NAME, one folder per class.

    A class without a file for an image does not occur in it; an image without any file has no mask, which is a fault.

    Returns:
        The samples in the order of their names, and the faults.
    """
    image_files, faults = files_by_stem(root, images)
    known = set(names)
    if masks.is_dir():
        faults += [
            f"{_name(root, folder)}: is no class's folder. The classes are {', '.join(names)}: rename or remove it."
            for folder in sorted(masks.iterdir())
            if folder.is_dir() and folder.name not in known
        ]
    by_class = []
    for name in names:
        files, more = files_by_stem(root, masks / name)
        by_class.append(files)
        faults += more
    samples = []
    for stem, image in image_files.items():
        own = [files.pop(stem, None) for files in by_class]
        planes = tuple(None if file is None else (file, _name(root, file)) for file in own)
        if first := next((plane for plane in planes if plane), None):
            samples.append(FileSample(_name(root, image), image, *first, planes=planes))
        elif masks.is_dir():
            wanted = _name(root, masks / names[0] / f"{stem}.png")
            faults.append(f"{_name(root, image)}: has no mask of any class. Add {wanted}, all 0, if nothing occurs.")
    for files in by_class:
        faults += _orphans(root, images, files)
    return samples, faults


def _common_suffix(images: Mapping[str, Path], masks: Mapping[str, Path]) -> str | None:
    """What the stems of all masks have after those of images, if no mask has the stem of an image."""
    first = next(iter(masks), "")
    start = max((stem for stem in images if first.startswith(stem)), key=len, default=None)
    suffix = first.removeprefix(start) if start else ""
    fits = suffix and not images.keys() & masks.keys() and all(stem.endswith(suffix) for stem in masks)
    return suffix if fits and any(stem.removesuffix(suffix) in images for stem in masks) else None


def _orphans(root: Path, images: Path, masks: Mapping[str, Path]) -> list[str]:
    if not images.is_dir():
        return []
    return [
        f"{_name(root, file)}: is a mask without an image. Add {_name(root, images / stem)}.* or remove the mask."
        for stem, file in masks.items()
    ]


def files_by_stem(root: Path, folder: Path, suffix: str = "") -> tuple[dict[str, Path], list[str]]:
    """The images or masks below a folder by path without extension and suffix, and the faults."""
    if not folder.is_dir():
        return {}, [
            f"{_name(root, folder)}: this folder must exist. Create or rename it, or choose another `root` "
            "or `layout`, or list the files in `split_files`."
        ]
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file():
            stem = file.relative_to(folder).with_suffix("").as_posix()
            if stem.endswith(suffix):
                found[stem.removesuffix(suffix)].append(file)
    faults = [
        f"{', '.join(_name(root, file) for file in files)}: share one stem, so pairing is ambiguous. Keep one of them."
        for files in found.values()
        if len(files) > 1
    ]
    if not found:
        named = f" whose names end in {suffix}" if suffix else ""
        faults.append(f"{_name(root, folder)}: holds no images{named}. Accepted: {' '.join(sorted(EXTENSIONS))}.")
    return {stem: files[0] for stem, files in found.items()}, faults


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
