"""`segfocal score`: anybody's predicted masks against anybody's ground truth. Without torch."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from numpy.typing import NDArray

from segfocal import __version__
from segfocal.data.classes import ClassSet, check_names, resolve_classes
from segfocal.data.files import DataError
from segfocal.data.images import read_image
from segfocal.data.labels import FORMS, Labels
from segfocal.data.pairing import files_by_stem
from segfocal.data.palettes import default_palette
from segfocal.data.parallel import in_parallel
from segfocal.data.samples import FileSample
from segfocal.evaluation.counts import ImageCounts, count_image
from segfocal.evaluation.gallery import Gallery, Kept, write_gallery
from segfocal.evaluation.report import show, versions
from segfocal.evaluation.samples import LabelPainter
from segfocal.evaluation.tally import Tally
from segfocal.mistakes import ConfigError
from segfocal.runs import new_run

_SHOWN = 20  # faults


class Parser(argparse.ArgumentParser):
    """Whose mistakes are ConfigErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise it, with the option that was meant, if one is like it."""
        known = [option for action in self._actions for option in action.option_strings if len(option) > 2]
        words = message.removeprefix("unrecognized arguments: ").split()
        close = [hint for word in words if word.startswith("--") for hint in get_close_matches(word, known, 1)]
        if close and message.startswith("unrecognized"):
            message += f". Did you mean {close[0]}?"
        raise ConfigError(f"{message}. See `{self.prog} --help`.")


def _path(word: str) -> Path:
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(word).expanduser()


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = Parser("segfocal score", description=__doc__, allow_abbrev=False)
    words.add_argument("--pred", type=_path, required=True, metavar="FOLDER", help="the predicted masks")
    words.add_argument(
        "--target", type=_path, required=True, metavar="FOLDER", help="the true masks, of the same names"
    )
    words.add_argument(
        "--classes",
        help="road,car,pole in the order of their labels; or a file with a name per line, or with `name: value` lines "
        "as YAML; default: classes.txt or classes.yaml in the folder of targets",
    )
    words.add_argument("--ignore_index", type=int, default=255, help="label of the target's pixels that do not count")
    words.add_argument(
        "--unlisted",
        default="error",
        help="what becomes of other values: error, ignore, background, or the values to ignore, such as [0, 254]",
    )
    words.add_argument("--images", type=_path, metavar="FOLDER", help="the images, of the same names, for the report")
    words.add_argument("--image_suffix", default="", help="end of the images' names, such as _leftImg8bit")
    words.add_argument("--masks", choices=[form for form in FORMS if form != "per_class"], default="index")
    words.add_argument("--pred_suffix", default="", help="end of the predictions' names, before the extension")
    words.add_argument("--target_suffix", default="", help="end of the targets' names, such as _gtFine_labelIds")
    words.add_argument("--pred_values", choices=["as_target", "index"], default="as_target", help="index: 0 to C - 1")
    words.add_argument("--boundary", type=float, default=0.02, help="width of boundaries as a share of the diagonal")
    words.add_argument("--name", default="score", help="results go to RUNS/NAME/000-score, 001-score, ...")
    words.add_argument("--runs", type=_path, default=Path("runs"), help="the folder of all runs")
    return words


def score(options: list[str]) -> None:
    """Pair, count, print and write."""
    asked = parser().parse_args(options)
    if not 0 <= asked.boundary <= 1:
        raise ConfigError(f"Expected `--boundary` in 0..1, got {asked.boundary}. The usual width is 0.02.")
    classes, labels = _labels(asked)
    pairs, images = _pairs(asked)
    tally, gallery = _counted(pairs, classes, labels, asked.boundary, asked.pred_values)
    run = new_run(asked.runs, asked.name, "score")
    about = {"segfocal": __version__, "command": "score", "pred": str(asked.pred), "target": str(asked.target)}
    show(tally, "score", run, about | {"options": options, "versions": versions()})
    palette = classes.palette or default_palette(len(classes.names))

    def image_of(kept: Kept) -> NDArray[Any] | None:
        file = images.get(kept.name)
        return None if file is None else read_image(file, str(file))

    from segfocal.evaluation.page import write_report  # with matplotlib, which a mistake need not wait for

    write_gallery(gallery, run, LabelPainter(classes.names, palette, asked.ignore_index), image_of)
    print(f"report: {write_report(run)}\nrun: {run}")


def _labels(asked: argparse.Namespace) -> tuple[ClassSet, Labels]:
    for option in ("pred", "target", "images"):
        if (folder := getattr(asked, option)) is not None and not folder.is_dir():
            raise DataError(f"{folder}: `--{option}` must be an existing folder. Correct the path.")
    named: str | None = asked.classes
    is_file = named is None or named.endswith((".txt", ".yaml", ".yml", ".json"))
    given = named if is_file or named is None else [name.strip() for name in named.split(",")]
    if not 0 <= asked.ignore_index <= 65535:
        raise ConfigError(f"Expected `--ignore_index` in 0..65535, got {asked.ignore_index}. The usual one is 255.")
    dense = asked.masks == "channels"
    try:
        classes = resolve_classes(asked.target, None, given, yaml.safe_load(asked.unlisted), overlap=dense)
        check_names(classes.names)
        count = len(classes.names)
        how = classes.values, classes.colours, classes.unlisted, asked.masks
        labels = Labels(count, asked.ignore_index, *how)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(str(error)) from error
    if labels.count > asked.ignore_index >= 0:
        raise ConfigError(
            f"Expected `--ignore_index` above the classes' labels 0..{labels.count - 1}, got {asked.ignore_index}. "
            "If the last class is void, take its name out of `--classes`; if 0 is void, give the classes' values in a "
            "file, classes.yaml, and leave `--ignore_index` at 255 with `--unlisted [0]`."
        )
    return classes, labels


def _pairs(asked: argparse.Namespace) -> tuple[list[tuple[str, FileSample, FileSample]], dict[str, Path]]:
    """Name, prediction and target of each image; and the files of the images, if they were given.

    Raises:
        DataError: Some file has no partner.
    """
    predictions, faults = files_by_stem(Path(), asked.pred, asked.pred_suffix)
    targets, more = files_by_stem(Path(), asked.target, asked.target_suffix)
    faults += more
    images: dict[str, Path] = {}
    if asked.images is not None:
        images, more = files_by_stem(Path(), asked.images, asked.image_suffix)
        faults += more
    if not faults:
        faults += [
            f"{file}: has no prediction {asked.pred / stem}{asked.pred_suffix}.*. Add it, or score fewer targets."
            for stem, file in targets.items()
            if stem not in predictions
        ]
        faults += [
            f"{file}: has no target {asked.target / stem}{asked.target_suffix}.*. Add it, or remove the prediction."
            for stem, file in predictions.items()
            if stem not in targets
        ]
        faults += [
            f"{file}: has no image {asked.images / stem}{asked.image_suffix}.*. Add it, or leave out `--images`."
            for stem, file in targets.items()
            if asked.images is not None and stem not in images
        ]
        if faults and not predictions.keys() & targets.keys():
            faults.insert(0, "No prediction has the name of a target. Set --pred_suffix or --target_suffix.")
    _refuse(faults)
    return [(stem, _mask(predictions[stem]), _mask(target)) for stem, target in targets.items()], images


def _mask(file: Path) -> FileSample:
    return FileSample(str(file), file, file, str(file))


def _counted(
    pairs: Sequence[tuple[str, FileSample, FileSample]], classes: ClassSet, labels: Labels, width: float, values: str
) -> tuple[Tally, Gallery]:
    gallery = Gallery()
    guessed = Labels(labels.num_classes, labels.ignore_index, form=labels.form) if values == "index" else labels
    overlap = labels.dense or labels.num_classes == 1

    def count(pair: tuple[str, FileSample, FileSample]) -> tuple[ImageCounts | None, list[str]]:
        name, predicted, wanted = pair
        try:
            (prediction, wrong), (target, bad) = predicted.decoded(guessed), wanted.decoded(labels)
            if prediction is None or target is None:
                return None, wrong + bad
            if prediction.shape != target.shape:
                sizes = [f"{mask.shape[-2]} x {mask.shape[-1]}" for mask in (prediction, target)]
                return None, [f"{predicted.name}: is {sizes[0]}, its target {wanted.name} {sizes[1]}. Resize it."]
            if overlap and target.ndim == 2:
                prediction, target = prediction[None], target[None]
            counted = count_image(prediction, target, labels.num_classes, labels.ignore_index, width=width)
            gallery.offer(name, counted, prediction, target)
            return counted, []
        except DataError as error:
            return None, [str(error)]
        except ValueError as error:  # of what was read without a fault only the prediction can be wrong: it holds void
            return None, [f"{predicted.name}, against {wanted.name}: {error}"]

    results = in_parallel(count, pairs, "Counting pixels")
    _refuse([fault for _, faults in results for fault in faults])
    tally = Tally(classes.names)
    for (name, _, _), (counted, _) in zip(pairs, results, strict=True):
        assert counted is not None, "what could not be counted has faults"
        tally.add(name, counted)
    if not tally.scores.support.any():
        raise DataError(_nothing(pairs, labels))
    return tally, gallery


def _nothing(pairs: Sequence[tuple[str, FileSample, FileSample]], labels: Labels) -> str:
    """Why no pixel of any class was found."""
    overlap = labels.dense or labels.num_classes == 1
    if overlap and labels.values is None and labels.ignore_index == 255:
        return (
            f"{pairs[0][2].name} and all other targets hold no class, nothing but 0 and 255, which is ignored. If 255 "
            "means the class, write `NAME: 255` into a file and give that as `--classes`."
        )
    return f"{pairs[0][2].name} and all other targets hold no pixel of any class. Look at `--ignore_index`."


def _refuse(faults: list[str]) -> None:
    if faults:
        rest = f"\nand {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError("\n".join(faults[:_SHOWN]) + rest)
