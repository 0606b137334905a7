"""The report of a run: one HTML file that needs nothing else, made from the files of its folder. Without torch."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from segfocal.evaluation.advice import advice
from segfocal.evaluation.illustrations import curve_charts, gallery_section, reliability_chart, write_confusion
from segfocal.evaluation.record import Record, read_record
from segfocal.evaluation.sections import about, cards, class_table, found_table, matrix_table, pair_sentences
from segfocal.evaluation.words import plain_name, shown

REPORT = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
_LEVELS = 20  # shades of a matrix
_SHADES = {  # from none to all, by way of a middle
    "light": ((255, 255, 255), (91, 155, 210), (8, 48, 107)),
    "dark": ((27, 33, 42), (47, 111, 173), (190, 224, 255)),
}


def write_report(folder: Path, training: Iterable[Path] = ()) -> Path:
    """Write report.html, and charts/*.png beside it, into the folder of a run that was scored.

    Args:
        folder: The run, with metrics.json; what else is there is shown too.
        training: The folders of the fits behind it, the first one first, whose metrics.csv are drawn.

    Returns:
        The file.

    Raises:
        ValueError: The folder holds no scores, or damaged ones.

    Example:
        >>> import tempfile
        >>> from segfocal.evaluation.report import write
        >>> from segfocal.evaluation.scores import Scores
        >>> folder = Path(tempfile.mkdtemp())
        >>> write(Scores([[3, 1], [0, 4]], ["road", "car"]), folder, {"command": "score"})
        >>> write_report(folder).name
        'report.html'
    """
    record = read_record(folder, training)
    file = folder / REPORT
    text = render(record)
    temporary = file.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
    return file


def render(record: Record) -> str:
    """The page as a text; the charts are written on the way."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown
    )
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8") + _shades()
    js = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    policy += f"style-src '{_hash(css)}'; script-src '{_hash(js)}'"
    write_confusion(record)
    parts: dict[str, Any] = {
        "cards": cards(record),
        "classes": class_table(record),
        "matrix": matrix_table(record),
        "pairs": pair_sentences(record.scores),
        "found": found_table(record.scores),
        "reliability": reliability_chart(record),
        "curves": curve_charts(record),
        "gallery": gallery_section(record),
        "advice": advice(record),
        "about": about(record),
    }
    return environment.get_template("report.html").render(
        parts,
        css=Markup(css),
        js=Markup(js),
        policy=policy,
        title=_title(record),
        subtitle=_subtitle(record),
        sections=_sections(parts),
        curves_note=_curves_note(record),
        configuration=record.configuration,
    )


def _shown(value: object) -> object:
    """What is no markup yet, as a text that a page can hold."""
    return shown(value) if type(value) is str else value


def _title(record: Record) -> str:
    folder = record.folder.absolute()
    return f"{folder.parent.name}/{folder.name}"


def _subtitle(record: Record) -> str:
    metrics = record.metrics
    if "pred" in metrics and "target" in metrics:
        return f"Scores of {plain_name(str(metrics['pred']))} against {plain_name(str(metrics['target']))}"
    text = f"Scores of the {plain_name(str(metrics['split']))} split" if "split" in metrics else "Scores"
    return f"{text}, checkpoint {plain_name(str(metrics['checkpoint']))}" if "checkpoint" in metrics else text


def _sections(parts: dict[str, Any]) -> list[tuple[str, str]]:
    there = {
        ("summary", "Summary"): True,
        ("classes", "Classes"): True,
        ("confusion", "Confusion"): parts["matrix"],
        ("found", "Found and missed"): parts["found"],
        ("calibration", "Calibration"): parts["reliability"],
        ("training", "Training"): parts["curves"],
        ("images", "Images"): parts["gallery"],
        ("next", "What to try next"): True,
        ("about", "How it was made"): True,
    }
    return [link for link, held in there.items() if held]


def _curves_note(record: Record) -> str:
    epochs = max((max(curve) for curve in record.curves.values() if curve), default=0)
    return f"{epochs} epoch{'' if epochs == 1 else 's'}. Scores are of the validation split, after each validation."


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shades() -> str:
    """Backgrounds of the cells of a matrix, each with the ink, black or white, that is read better on it."""
    light, dark = (_rules(*stops) for stops in (_SHADES["light"], _SHADES["dark"]))
    return f"{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _rules(none: tuple[int, ...], middle: tuple[int, ...], full: tuple[int, ...]) -> str:
    rules = []
    for level in range(_LEVELS + 1):
        share = 2 * level / _LEVELS
        start, end, part = (none, middle, share) if share <= 1 else (middle, full, share - 1)
        colour = [round(a + part * (b - a)) for a, b in zip(start, end, strict=True)]
        linear = [((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        bright = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        ink = "#000" if bright > 0.179 else "#fff"  # where black and white have the same contrast
        rules.append(f".v{level} {{ background: rgb({', '.join(map(str, colour))}); color: {ink}; }}\n")
    return "".join(rules)
