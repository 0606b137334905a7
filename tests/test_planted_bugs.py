"""The list of planted bugs is true to the code; planting them takes minutes and is done by tests/planted_bugs.py."""

from pathlib import Path

import pytest
from planted_bugs import BUGS

import segfocal


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_the_place_of_every_planted_bug_exists_once(bug):
    assert (Path(segfocal.__file__).parent / bug.file).read_text().count(bug.old) == 1
    assert bug.old != bug.new


def test_bugs_have_different_names():
    assert len({bug.what for bug in BUGS}) == len(BUGS) >= 20
