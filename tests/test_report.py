"""The table, metrics.json and per_class.csv."""

import csv
import json

from rich.console import Console

from segfocal import Scores
from segfocal.evaluation.report import table, write

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
