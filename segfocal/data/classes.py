"""The classes of a data set: from YAML, from a file beside the data, or as it was published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segfocal.data import published
from segfocal.data.files import DataError
from segfocal.data.labels import Unlisted

Classes = list[str] | dict[str, Any] | str
_FILES = ("classes.txt", "classes.yaml")


class ClassSet(NamedTuple):
    """Classes with what stands for them in a mask.

    Attributes:
        names: C names.
        values: The raw values of each class; None: their indices.
        colours: Whether the values are RGB colours, as 0xRRGGBB.
        palette: An RGB colour per class for pictures, if one is known.
        unlisted: What becomes of other values.
    """

    names: list[str]
    values: tuple[tuple[int, ...], ...] | None
    colours: bool
    palette: list[tuple[int, int, int]] | None
    unlisted: Unlisted


def resolve_classes(
    root: Path, layout: str | None, classes: Classes | None, unlisted: str | Sequence[Any], *, overlap: bool = False
) -> ClassSet:
    """Find out what the classes are.

    Args:
        root: Folder of the data.
        layout: With voc, cityscapes and ade20k the classes are known.
        classes: What the user wrote: names, a mapping, or a file; None: root/classes.txt or classes.yaml, else what
            the layout says.
        unlisted: What the user wrote.
        overlap: Each class has masks of its own, so that two may have the same value in them.

    Raises:
        ValueError: Classes that make no sense, that are missing, or that differ from those in the file beside the data.
        DataError: A file that cannot be read.
    """
    given = _read(_found(root, classes)) if isinstance(classes, str) else classes
    beside = next((root / name for name in _FILES if (root / name).is_file()), None)
    if beside is not None:
        written = _read(beside)
        if given is not None and given != written:
            raise ValueError(
                f"Expected `classes` to equal {beside} ({_count(written)}), got {_count(given)}. "
                "Leave `classes` out, or correct one of them."
            )
        given = written
    if given is None:
        return _published(root, layout, unlisted)
    names, values, colours = class_values(given, overlap=overlap)
    rest = unlisted if isinstance(unlisted, str) else ignored_values(unlisted, colours)
    palette = [_unpacked(of_class[0]) for of_class in values] if colours and values else None
    return ClassSet(names, values, colours, palette, _checked(rest))


def check_names(classes: Sequence[str]) -> None:
    """Raise a ValueError unless `classes` are distinct names, at least one."""
    if not classes or len(set(classes)) != len(classes) or not all(isinstance(c, str) and c for c in classes):
        raise ValueError(f"Expected `classes` to be distinct, non-empty names, got {list(classes)}. Correct the list.")


def _published(root: Path, layout: str | None, unlisted: str | Sequence[Any]) -> ClassSet:
    match layout:
        case "voc":
            known = published.voc()
        case "cityscapes":
            known = published.cityscapes()
        case "ade20k":
            known = published.ade20k(root)
        case _ if not root.is_dir():
            raise DataError(f"{root}: `root` must be an existing folder. Set it to the folder that holds the data.")
        case _:
            raise ValueError(
                f"Expected `classes`, for there is no {root / _FILES[0]}. List the names, or write them there, one per "
                "line."
            )
    rest = known.ignored if unlisted == "error" else unlisted
    return ClassSet(
        known.names,
        known.values,
        False,
        known.palette,
        _checked(rest if isinstance(rest, str) else ignored_values(rest, False)),
    )


def _checked(unlisted: str | tuple[int, ...]) -> Unlisted:
    match unlisted:
        case "error" | "ignore" | "background" | tuple():
            return unlisted
    raise ValueError(
        f"Expected `unlisted` to be error, ignore, background, or a list of values, got {unlisted!r}. Choose one."
    )


def _found(root: Path, name: str) -> Path:
    path = Path(name).expanduser()
    return path if path.is_file() or path.is_absolute() else root / path


def _read(file: Path) -> list[str] | dict[str, Any]:
    """Names one per line, or YAML: a list of names, or a mapping of names to values."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() not in (".yaml", ".yml", ".json"):
            lines = [line.strip() for line in text.splitlines()]
            return [line for line in lines if line and not line.startswith("#")]
        node, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: must be readable UTF-8 text ({reason}). Write one class name per line.") from error
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise DataError(f"{file}: lists {twice[0]!r} twice. Keep one of them.")
    if not isinstance(content, list | dict) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{file}: must hold a list of names, or `name: value` lines, got {str(content)[:60]!r}.")
    return content


def _count(classes: list[str] | dict[str, Any]) -> str:
    return f"{len(classes)} names: {classes}"


def _unpacked(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255


def class_values(
    classes: Mapping[str, Any] | Sequence[str], *, overlap: bool = False
) -> tuple[list[str], tuple[tuple[int, ...], ...] | None, bool]:
    """Read `classes` as it stands in YAML.

    Args:
        classes: Names in the order of their labels; or names with a value each, a list of values, or a list of RGB
            colours.
        overlap: Two classes may have the same value.

    Returns:
        The names, the values of each (None for names alone), and whether they are colours, as 0xRRGGBB.

    Raises:
        ValueError: Anything else, values and colours together, or a value of two classes.

    Example:
        >>> class_values({"road": 7, "car": [26, 27]})
        (['road', 'car'], ((7,), (26, 27)), False)
        >>> class_values({"road": [[128, 64, 128]]})
        (['road'], ((8405120,),), True)
    """
    if not isinstance(classes, Mapping):
        return list(classes), None, False
    listed = {name: given if isinstance(given, list | tuple) else [given] for name, given in classes.items()}
    every = [value for given in listed.values() for value in given]
    colours = any(isinstance(value, list | tuple) for value in every)
    check = _is_colour if colours else _is_value
    for name, given in listed.items():
        if wrong := [value for value in given if not check(value)] or (not given and [given]):
            raise ValueError(
                f"Expected `classes` to give {name!r} a label value of 0..65535 (7), a list of them ([7, 8]), or a "
                f"list of RGB colours of 0..255 ([[128, 64, 128]]), the same kind as the others, got {wrong[0]!r}."
            )
    values = tuple(tuple(_packed(value) if colours else value for value in given) for given in listed.values())
    flat = [value for given in values for value in given]
    if twice := [] if overlap else [value for value in flat if flat.count(value) > 1]:
        shown = every[flat.index(twice[0])]
        raise ValueError(
            f"Expected `classes` to list every value once, got {shown} twice. Take one out; a colour is a list in a "
            "list: [[128, 64, 128]]."
        )
    return list(listed), values, colours


def ignored_values(unlisted: Sequence[Any], colours: bool) -> tuple[int, ...]:
    """The values that `unlisted` lists, packed like those of the classes.

    Raises:
        ValueError: Something that is no value, or no colour where classes are colours.
    """
    check = _is_colour if colours else _is_value
    if wrong := [value for value in unlisted if not check(value)]:
        kind = "RGB colours, such as [[0, 0, 0]]" if colours else "label values of 0..65535, such as [0, 254]"
        raise ValueError(f"Expected `unlisted` to be error, ignore, background, or {kind}, got {wrong[0]!r}.")
    return tuple(_packed(value) if colours else value for value in unlisted)


def _is_value(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def _is_colour(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_value(v) and v <= 255 for v in value)


def _packed(colour: Sequence[int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
