"""The table, metrics.json and per_class.csv."""

import csv
import json

import numpy as np
import pytest
from rich.console import Console

from segfocal import Scores
from segfocal.evaluation.counts import count_image
from segfocal.evaluation.probabilities import Probabilities
from segfocal.evaluation.report import show, table, write
from segfocal.evaluation.tally import Tally

SCORES = Scores([[90, 0, 0, 0], [5, 5, 0, 0], [9, 0, 1, 0], [0, 0, 0, 0]], ["road", "car", "[red]pole", "void"])


def shown(scores):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table(scores, "val"))
    console.file.close()
    return console.export_text()


def test_the_table_has_a_row_per_class_a_dash_for_the_absent_and_a_mean():
    lines = {line.split()[0]: line for line in shown(SCORES).splitlines() if line.split()}
    assert "0.865" in lines["road"]
    assert "◀ worst" in lines["[red]pole"]  # a name is text, never markup
    assert lines["void"].split()[1:6] == ["-", "-", "-", "-", "-"]
    assert lines["mean"].split()[1] == f"{SCORES.miou:.3f}"


def test_files_hold_the_scores_to_the_last_digit(tmp_path):
    write(SCORES, tmp_path, {"split": "val"})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["split"] == "val"
    assert metrics["miou"] == SCORES.miou
    assert metrics["per_class"]["car"]["iou"] == SCORES.iou[1]
    assert metrics["per_class"]["void"]["iou"] is None
    assert metrics["confusion_matrix"] == SCORES.matrix.tolist()
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert float(rows["car"]["recall"]) == 0.5
    assert rows["void"]["iou"] == ""
    assert rows["road"]["support"] == "90"


@pytest.mark.parametrize(
    ("void", "counted", "said"),
    [(255, 0, "no pixel of test has a label that counts"), (0, 3, "NaN at 1 of 4 labelled pixels"), (0, 4, None)],
)
def test_what_was_not_scored_is_told(tmp_path, capsys, void, counted, said):
    tally = Tally(["road", "car"], Probabilities(np.zeros((2, 4, 2)), np.array([[counted, 0, 0.0]])))
    labels = np.full((2, 2), void, np.uint8)
    tally.add("a", count_image(np.zeros((2, 2), np.uint8), labels, 2, 255))
    show(tally, "test", tmp_path, {})
    out = capsys.readouterr().out
    assert ("warning" in out) == (said is not None)
    assert said is None or said in out
