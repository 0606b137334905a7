"""Runs that were ended before their end."""

import subprocess
import sys

import pytest

from segfocal.prediction import unfinished
from segfocal.prediction.unfinished import MARKER, Unfinished
from segfocal.runs import new_run

ABOUT = {"configuration": "abc", "checkpoint": ["best.ckpt", 7]}


@pytest.fixture
def run(tmp_path):
    return new_run(tmp_path, "x", "predict")


def test_the_same_command_takes_up_what_was_not_finished(run):
    Unfinished.begin(run, ABOUT).close()  # as a killed process does
    (run / "masks").mkdir()
    (run / "masks/.a1b2.77.segfocal-part").touch()
    taken = Unfinished.take_up(run.parent, ABOUT)
    assert taken.run == run
    assert not list((run / "masks").iterdir())
    taken.finish()
    assert not (run / MARKER).exists()
    assert Unfinished.take_up(run.parent, ABOUT) is None


@pytest.mark.parametrize("about", [{**ABOUT, "configuration": "abd"}, {**ABOUT, "checkpoint": ["best.ckpt", 8]}, {}])
def test_another_command_does_not(run, about):
    Unfinished.begin(run, ABOUT).close()
    assert Unfinished.take_up(run.parent, about) is None


def test_a_marker_that_says_nothing_is_left_alone(run):
    (run / MARKER).write_text("{")
    assert Unfinished.take_up(run.parent, ABOUT) is None


def test_a_run_that_another_process_writes_to_is_not_taken_up(run):
    code = (
        "import sys; from pathlib import Path; from segfocal.prediction.unfinished import Unfinished\n"
        f"held = Unfinished.begin(Path({str(run)!r}), {ABOUT!r})\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert Unfinished.take_up(run.parent, ABOUT) is None
        other.kill()
        other.wait()
    taken = Unfinished.take_up(run.parent, ABOUT)
    assert taken.run == run
    taken.finish()


def test_a_run_that_is_finished_between_opening_and_locking_is_not_taken_up(run, monkeypatch):
    Unfinished.begin(run, ABOUT).close()
    said = unfinished._said

    def finished_meanwhile(file):
        (run / MARKER).unlink()
        return said(file)

    monkeypatch.setattr(unfinished, "_said", finished_meanwhile)
    assert Unfinished.take_up(run.parent, ABOUT) is None


def test_finishing_twice_is_no_error(run):
    held = Unfinished.begin(run, ABOUT)
    (run / MARKER).unlink()
    held.finish()
