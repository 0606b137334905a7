"""Label sets of published data: names, the values in their masks, their colours."""

from pathlib import Path
from typing import NamedTuple

from segfocal.data.files import DataError


class LabelSet(NamedTuple):
    """What a published data set says of its classes."""

    names: list[str]
    values: tuple[tuple[int, ...], ...] | None  # None: the indices themselves
    palette: list[tuple[int, int, int]] | None
    ignored: str | tuple[int, ...]  # as `unlisted`


def voc() -> LabelSet:
    """Pascal VOC: 21 classes by index, 255 along their borders (Everingham et al., 2010)."""
    names = [
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]
    return LabelSet(names, None, [_voc_colour(label) for label in range(len(names))], "error")


def _voc_colour(label: int) -> tuple[int, int, int]:
    """The bits of the label, three at a time, from the highest bit of red, green and blue downwards."""
    red, green, blue = (sum((label >> 3 * step + channel & 1) << 7 - step for step in range(8)) for channel in range(3))
    return red, green, blue


# Name, id in *_labelIds.png, colour.
_CITYSCAPES: list[tuple[str, int, tuple[int, int, int]]] = [
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
]


def cityscapes() -> LabelSet:
    """Cityscapes: the 19 classes that count, by their ids; all other ids are ignored (Cordts et al., 2016)."""
    return LabelSet(
        [name for name, _, _ in _CITYSCAPES],
        tuple((label,) for _, label, _ in _CITYSCAPES),
        [colour for _, _, colour in _CITYSCAPES],
        "ignore",
    )


def ade20k(root: Path) -> LabelSet:
    """ADE20K's scene parsing: the classes that root/objectInfo150.txt lists; 0 is ignored (Zhou et al., 2017).

    Raises:
        DataError: If that file is not there or reads otherwise.
    """
    file = root / "objectInfo150.txt"
    try:
        rows = [line.split("\t") for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        listed = [(int(row[0]), [name.strip() for name in row[-1].split(",")]) for row in rows[1:]]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{file}: must be the table of classes that comes with ADE20K ({error!s:.100}). Restore it, or give "
            "`classes`, such as {wall: 1, building: 2}."
        ) from error
    short = [names[0] for _, names in listed]  # the first of its synonyms, if it is the only one of that name
    names = [name if short.count(name) == 1 else ", ".join(full) for name, (_, full) in zip(short, listed, strict=True)]
    return LabelSet(names, tuple((label,) for label, _ in listed), None, (0,))
