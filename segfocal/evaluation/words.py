"""What figures say, in words."""

import math
import re
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from segfocal.evaluation.scores import Scores, ratio

_NAMED = 8  # pairs, at most
_LETTERS = 60  # of a name in a sentence
_LEAST = 0.02  # share of a class, below which a confusion is not worth a line


class Confusion(NamedTuple):
    """Pixels of one class that were called another."""

    share: float
    pixels: int
    true: str
    predicted: str


def confusions(scores: Scores, limit: int = _NAMED) -> list[Confusion]:
    """The most frequent confusions as shares of the true class, the largest first; of exclusive classes only.

    Example:
        >>> confusions(Scores([[88, 12], [0, 9]], ["fence", "building"]))
        [Confusion(share=0.12, pixels=12, true='fence', predicted='building')]
    """
    if scores.matrix.ndim == 3:
        return []
    rows = ratio(scores.matrix, np.broadcast_to(scores.support[:, None], scores.matrix.shape))
    np.fill_diagonal(rows, np.nan)
    rows = np.nan_to_num(rows)
    places = np.argsort(-rows, axis=None, kind="stable")[:limit]
    names, found = scores.class_names, []
    for true, guess in zip(*np.unravel_index(places, rows.shape), strict=True):
        if rows[true, guess] >= _LEAST:
            share, pixels = float(rows[true, guess]), int(scores.matrix[true, guess])
            found.append(Confusion(share, pixels, names[true], names[guess]))
    return found


def percent(share: float) -> str:
    r"""A share in 0..1 as a text that no line break parts; a dash for NaN.

    >>> percent(0.1234), percent(0.0123), percent(0.00001234), percent(0), percent(float("nan"))
    ('12\xa0%', '1.2\xa0%', '<0.01\xa0%', '0\xa0%', '–')
    """
    hundredths = 100 * share
    if math.isnan(hundredths):
        return "–"
    digits = 0 if hundredths >= 9.95 or hundredths == 0 else 1 if hundredths >= 0.995 else 2
    return (f"{hundredths:.{digits}f}" if hundredths == 0 or hundredths >= 0.01 else "<0.01") + "\N{NO-BREAK SPACE}%"


def decimal(value: float) -> str:
    """A score; a dash for NaN.

    >>> decimal(0.5), decimal(float("nan"))
    ('0.500', '–')
    """
    return "–" if math.isnan(value) else f"{value:.3f}"


def grouped(count: float) -> str:
    r"""A number of pixels, in groups of three digits that no line break parts.

    >>> grouped(1234567)
    '1\xa0234\xa0567'
    """
    return f"{int(count):,}".replace(",", "\N{NO-BREAK SPACE}")


def shown(text: str) -> str:
    r"""A text that any page can hold: bytes that are no UTF-8, and characters without a picture, are spelled out.

    >>> shown("caf\udce9\x00")
    'caf\\xe9\\x00'
    """
    return re.sub(r"[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", lambda one: _spelled(one[0]), text)


def named(name: str) -> Markup:
    """A name within a sentence: escaped, unable to turn the letters around it, the middle of a very long one left out.

    >>> named("<b>")
    Markup('<bdi>&lt;b&gt;</bdi>')
    """
    text = shown(name)
    side = _LETTERS // 2
    return Markup("<bdi>{}</bdi>").format(text if len(text) <= _LETTERS else f"{text[:side]}…{text[-side:]}")


def plain_name(name: str) -> str:
    """The same for texts without markup, such as those that stand in for pictures."""
    return f"\u2068{shown(name)}\u2069"


def listed(names: list[str], most: int = 3) -> Markup:
    """Names as in a sentence.

    >>> listed(["a", "b", "c", "d", "e"])
    Markup('<bdi>a</bdi>, <bdi>b</bdi>, <bdi>c</bdi> and 2 others')
    """
    texts = [named(name) for name in names[:most]]
    if len(names) > most:
        rest = len(names) - most
        return Markup(", ").join(texts) + Markup(" and {} other{}").format(rest, "s" if rest > 1 else "")
    return Markup(" and ").join([Markup(", ").join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _spelled(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code & 0xFF:02x}" if code < 0x100 or 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
