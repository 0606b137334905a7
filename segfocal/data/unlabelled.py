"""Images to predict on: finding them, and looking at their headers.

Faults are collected as sentences that begin with a path.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segfocal.data.files import DataError
from segfocal.data.images import read_size
from segfocal.data.pairing import EXTENSIONS, samples_from_folders
from segfocal.data.parallel import in_parallel
from segfocal.data.rasters import open_rows
from segfocal.data.samples import FileSample, Sample
from segfocal.data.tiffs import is_tiff, tiff_header

# Pixels from which a TIFF is predicted by windows that are read one after the other: the logits of 12 classes take
# 2 GB then, and Pillow calls twice as many a decompression bomb.
LARGE = 40_000_000


@dataclass(frozen=True)
class Unlabelled:
    """Images to predict on.

    Attributes:
        samples: Those that are read as a whole.
        large: TIFFs that are read by windows.
        faults: What is wrong with the others, by name.
    """

    samples: Sequence[Sample]
    large: Sequence[FileSample] = ()
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all, whose outputs must not share a file."""
        return [*(sample.name for sample in (*self.samples, *self.large)), *self.faults]


def find_images(sources: Sequence[str | Path]) -> tuple[list[FileSample], list[str]]:
    """List the images at `sources`, without masks.

    Args:
        sources: Each an image; a folder, searched with its subfolders; a pattern such as photos/*.jpg, where ** stands
            for any subfolders; or a .txt file with the path of an image in each line, relative to itself.

    Returns:
        The samples, and the faults: sources that are not there, and names that two images share.
    """
    samples, faults = [], []
    if not all(map(str, sources)) or not sources:
        return [], ["`images` must name existing images or folders, got nothing. Name some, or leave it out."]
    for source in sources:
        try:
            found, more = _at(Path(source).expanduser())
        except (OSError, RuntimeError) as error:  # a name too long, a folder that is not for us, nobody's home
            why = error.strerror if isinstance(error, OSError) else error
            reason = f"`images` must name what can be read ({why}). Correct the path."
            found, more = [], [f"{str(source)[:80]}: {reason}"]
        samples += found
        faults += more
    samples = list({sample.image_path.absolute(): sample for sample in samples}.values())  # each once
    stems = Counter(sample.name.rpartition(".")[0] for sample in samples)
    return samples, faults + [
        f"{stem}.*: two of `images` have this name. Rename one." for stem, n in stems.items() if n > 1
    ]


def _at(source: Path) -> tuple[list[FileSample], list[str]]:
    if source.is_dir():
        return samples_from_folders(source, source, None)
    if source.is_file():
        return _listed(source) if source.suffix.lower() == ".txt" else ([FileSample(source.name, source, None)], [])
    if (first := next((place for place, part in enumerate(source.parts) if set(part) & set("*?[")), None)) is not None:
        return _matching(Path(*source.parts[:first]), "/".join(source.parts[first:]))
    return [], [f"{source}: `images` must name existing images or folders. Correct the path."]


def _matching(folder: Path, pattern: str) -> tuple[list[FileSample], list[str]]:
    try:
        found = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in EXTENSIONS and path.is_file())
    except (ValueError, OSError) as error:
        return [], [f"{folder / pattern}: is no pattern ({error}). Correct it."]
    samples = [FileSample(_below(folder, path), path, None) for path in found if not path.name.startswith(".")]
    none = [f"{folder / pattern}: no image has such a name. Correct the pattern, and keep it in quotes."]
    return samples, [] if samples else none


def _listed(file: Path) -> tuple[list[FileSample], list[str]]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{file}: a list of images must be readable UTF-8 text ({error}). Write it again."]
    if any("\0" in line for line in lines):
        return [], [f"{file}: a list of images must be text with a path in each line, got NUL bytes. Write it again."]
    paths = [file.parent / Path(line).expanduser() for line in lines if line and not line.startswith("#")]
    empty = [f"{file}: lists no images. Write the path of one in each line."]
    return [FileSample(_below(file.parent, path), path, None) for path in paths], [] if paths else empty


def _below(folder: Path, path: Path) -> str:
    """What an image is called: its path below the folder, so that its outputs stay in the run's."""
    inside = path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts
    return path.relative_to(folder).as_posix() if inside else path.name


def look_at(samples: Sequence[Sample], *, by_windows: bool) -> Unlabelled:
    """Read every header.

    Args:
        samples: Files, or others, which have no header.
        by_windows: Whether a TIFF of more than `LARGE` pixels may be read by windows.
    """

    def look(sample: Sample) -> tuple[Sample, bool, str]:
        if not isinstance(sample, FileSample):
            return sample, False, ""
        path, name, bands = sample.image_path, sample.name, sample.bands
        try:
            if by_windows and is_tiff(path):
                header = tiff_header(path, name, any_size=True)
                if header.height * header.width > LARGE:
                    with open_rows(path, name, bands):
                        return replace(sample, size=(header.height, header.width)), True, ""
            return replace(sample, size=read_size(path, name, bands)), False, ""
        except DataError as error:
            return sample, False, str(error)
        except OSError as error:  # a name too long, a folder that is not for us
            return sample, False, f"{name[:80]}: cannot be read ({error.strerror}). Correct its path."

    seen = in_parallel(look, samples, "Reading headers")
    return Unlabelled(
        [sample for sample, large, fault in seen if not large and not fault],
        [sample for sample, large, _ in seen if large and isinstance(sample, FileSample)],
        {sample.name: fault for sample, _, fault in seen if fault},
    )
