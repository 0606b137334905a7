"""The files that a prediction is written to.

Shapes: H x W pixels of the image, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfocal.data.rasters import Georeference, PaletteTiff
from segfocal.evaluation.pictures import Colour, Labels, Picture, tinted, write_palette_png
from segfocal.writing import written_whole

Array = NDArray[Any]


class Outputs:
    """Writes masks/NAME.png with class indices, overlays/NAME.jpg, and probabilities/NAME.npz if wanted.

    With sigmoid and several classes there is one mask per class, masks/NAME.CLASS.png with 0 and 1. What lies on Earth
    is a GeoTIFF, masks/NAME.tif. Every file is there whole or not at all.

    Args:
        folder: Where to write; its sub-folders are made.
        class_names: The C names.
        palette: One colour per class.
        names: Of all images, as far as they are known: of two that would share a file, a.png and a.jpg, the second
            keeps its extension.
        probabilities: Whether to write probabilities too: `probabilities` (C, H, W), float16.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        palette: Sequence[Colour],
        names: Iterable[str] = (),
        *,
        probabilities: bool = False,
    ) -> None:
        self.folder, self.class_names, self.palette = folder, list(class_names), list(palette)
        self.probabilities = probabilities
        self._owners: dict[Path, str] = {}
        safe = ["".join(c if c.isalnum() or c in "-_" else "_" for c in name) for name in class_names]
        # Two classes whose names differ in other characters alone are told apart by their numbers.
        numbered = [f"{index}_{name}" for index, name in enumerate(safe)]
        some = [number if safe.count(name) > 1 else name for number, name in zip(numbered, safe, strict=True)]
        self._suffixes = some if len(set(some)) == len(some) else numbered  # a name may be what a number makes
        for name in names:
            self._stem(name)

    def done(self, name: str, source: str | Path | None = None, *, planes: bool, large: bool = False) -> bool:
        """Whether everything of an image has been written since its file became what it is.

        Args:
            name: The image's name.
            source: Its file; None: it has none.
            planes: Whether there is one mask per class.
            large: Whether it was read by windows, which gives no probabilities.
        """
        since = 0 if source is None else _changed(Path(source))

        def fresh(path: Path) -> bool:
            return path.is_file() and path.stat().st_mtime_ns >= since

        there = any(all(map(fresh, self._masks(name, kind, planes))) for kind in (".png", ".tif"))
        others = [self._overlay(name)] + ([self._npz(name)] if self.probabilities and not large else [])
        return there and all(map(fresh, others))

    def write(
        self,
        name: str,
        image: Picture,
        labels: Labels,
        *,
        probabilities: Array | None = None,
        where: Georeference | None = None,
    ) -> None:
        """Write what is predicted of an image, in the labels' size.

        Args:
            name: The image's name, which may hold folders.
            image: (h, w, 3), for the overlay.
            labels: (H, W), or 0 and 1 (C, H, W).
            probabilities: (C, H, W), if they are wanted.
            where: The image's georeference; None: none.
        """
        planes = labels.ndim == 3
        kind = ".png" if where is None else ".tif"
        for path, colours, plane in self._planes(name, kind, labels if planes else labels[None], planes=planes):
            with written_whole(path) as part:
                if where is None:
                    write_palette_png(part, plane, colours)
                else:
                    with PaletteTiff(part, (plane.shape[0], plane.shape[1]), colours, where) as file:
                        file.write(plane)
        if probabilities is not None:
            with written_whole(self._npz(name)) as part, part.open("wb") as file:
                np.savez_compressed(file, probabilities=probabilities.astype(np.float16))
        self.write_overlay(name, image, labels)

    def write_overlay(self, name: str, image: Picture, labels: Labels) -> None:
        """Write the overlay alone."""
        picture = tinted(image, labels, self.class_names, self.palette)
        with written_whole(self._overlay(name)) as part:
            Image.fromarray(picture).save(part, format="JPEG", quality=92)

    @contextmanager
    def rows(
        self, name: str, size: tuple[int, int], where: Georeference | None, *, planes: bool
    ) -> Iterator[list[PaletteTiff]]:
        """GeoTIFFs for the masks of an image, one, or one per class, to be written row by row."""
        count = len(self.class_names) if planes else 1
        with ExitStack() as stack:
            files = []
            for path, colours, _ in self._planes(name, ".tif", [None] * count, planes=planes):
                part = stack.enter_context(written_whole(path))
                files.append(stack.enter_context(PaletteTiff(part, size, colours, where)))
            yield files

    def _planes(
        self, name: str, kind: str, labels: Iterable[Any], *, planes: bool
    ) -> Iterator[tuple[Path, list[Colour], Any]]:
        """Each mask's file, its colours, and its labels."""
        own = [[(0, 0, 0), colour] for colour in self.palette]
        colours = own if planes else [own[0] if len(self.class_names) == 1 else self.palette]
        return zip(self._masks(name, kind, planes), colours, labels, strict=True)

    def _masks(self, name: str, kind: str, planes: bool) -> list[Path]:
        stem = self._stem(name)
        suffixes = [f".{suffix}{kind}" for suffix in self._suffixes] if planes else [kind]
        return [self.folder / "masks" / f"{stem}{suffix}" for suffix in suffixes]

    def _overlay(self, name: str) -> Path:
        return self.folder / "overlays" / f"{self._stem(name)}.jpg"

    def _npz(self, name: str) -> Path:
        return self.folder / "probabilities" / f"{self._stem(name)}.npz"

    def _stem(self, name: str) -> Path:
        stem = Path(name).with_suffix("")
        return stem if self._owners.setdefault(stem, name) == name else Path(name)


def _changed(path: Path) -> int:
    """When a file became what it is, ns; an older one that was moved to its place counts from the move on."""
    state = path.stat()
    return max(state.st_mtime_ns, state.st_ctime_ns)
