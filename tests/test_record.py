"""What a report reads of a run's folder."""

import json
import math

import pytest
from scored_run import CONFIG, NASTY, add_curves, score_images, whole_run

from segfocal.evaluation.record import read_curves, read_record
from segfocal.runs import fits_behind


def test_it_holds_what_was_written(tmp_path):
    record = read_record(whole_run(tmp_path, 3), [tmp_path])
    assert record.scores.class_names == NASTY[:3]
    assert record.metrics["miou"] == record.scores.miou
    assert len(record.counts) == 12
    assert len(record.gallery["images"]) == 9
    assert record.options["data"]["init_args"]["size"] == [64, 96]
    assert record.curves["val/miou"] == pytest.approx({epoch: 0.1 * (epoch - 1) for epoch in range(1, 6)})
    assert not [name for name in record.curves if "loss_step" in name]
    assert math.isnan(record.column("average_precision")[1])


def test_the_files_of_an_older_run_are_enough(tmp_path):
    """metrics.json as it was before intervals."""
    rows = {"road": {"iou": 0.6}, "car": {"iou": None}}
    (tmp_path / "metrics.json").write_text(json.dumps({"per_class": rows, "confusion_matrix": [[3, 1], [0, 0]]}))
    record = read_record(tmp_path)
    assert record.scores.miou == 0.75
    assert math.isnan(record.column("iou_low")[0])


@pytest.mark.parametrize(
    ("file", "held"),
    [
        ("metrics.json", b"{"),
        ("metrics.json", b"[]"),
        ("metrics.json", b'{"per_class": {"a": {}}, "confusion_matrix": [[1, 2]]}'),
        ("metrics.json", b'{"per_class": {"a": 3}, "confusion_matrix": [[1]]}'),
        ("metrics.json", b'{"per_class": {}, "confusion_matrix": []}'),
        ("metrics.json", b'{"per_class": {"a": {}}, "confusion_matrix": [[1]], "miou_interval": [1]}'),
        ("metrics.json", b'{"per_class": {"a": {}}, "confusion_matrix": [[1]], "calibration": {"bins": [{}]}}'),
        ("counts.npz", b"PK nonsense"),
        ("gallery/gallery.json", b"\xff"),
        ("gallery/gallery.json", b"[]"),
        ("gallery/gallery.json", b'{"images": [{"name": 1, "kind": "worst", "miou": 1, "wrong": 0}], "legend": []}'),
        ("gallery/gallery.json", b'{"images": [], "legend": [["a", [1, 2, 300]]], "overlap": false}'),
        ("metrics.csv", b"epoch,val/miou\none,two\n"),
        ("metrics.csv", b"epoch,val/miou\ninf,1\n"),
        ("metrics.csv", b"epoch,val/miou\n1," + 200_000 * b"1" + b"\n"),
        ("metrics.json", 200_000 * b"["),
        ("metrics.json", b'{"per_class": {"a": {}}, "confusion_matrix": [[%d]]}' % 2**70),
    ],
)
def test_a_damaged_file_is_told_by_its_folder(tmp_path, file, held):
    whole_run(tmp_path, 3)
    (tmp_path / file).write_bytes(held)
    with pytest.raises(ValueError, match="to be whole"):
        read_record(tmp_path, [tmp_path])


def fit(runs, number, *lines, epochs):
    folder = runs / number
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("".join(f"# {line}\n" for line in lines) + CONFIG)
    if epochs:
        add_curves(folder, ["a"], epochs)
    return folder


def test_curves_are_those_of_all_fits_behind_a_score(tmp_path):
    runs = tmp_path / "runs" / "name"
    first = fit(runs, "000", epochs=7)
    second = fit(runs, "001", f"from {first}/checkpoints/last.ckpt", epochs=3)
    rows = (second / "metrics.csv").read_text().splitlines()
    later = [rows[0], *(f"{int(row[0]) + 2}{row[1:]}" for row in rows[1:])]  # it went on after two epochs
    (second / "metrics.csv").write_text("\n".join(later) + "\n")
    test = fit(runs, "002-test", f"from {second}/checkpoints/best.ckpt", epochs=0)
    assert fits_behind(test) == [first, second]
    curve = read_curves(fits_behind(test))["val/miou"]
    assert curve == pytest.approx({1: 0.0, 2: 0.1, 3: 0.0, 4: 0.1, 5: 0.2})


def test_runs_that_were_moved_together_find_each_other(tmp_path):
    fit(tmp_path / "old" / "name", "000", epochs=2)
    fit(tmp_path / "old" / "name", "001-test", f"from {tmp_path}/old/name/000/checkpoints/best.ckpt", epochs=0)
    (tmp_path / "old").rename(tmp_path / "new")
    assert fits_behind(tmp_path / "new/name/001-test") == [tmp_path / "new/name/000"]


def test_runs_that_name_each_other_come_to_an_end(tmp_path):
    one, two = tmp_path / "name" / "000", tmp_path / "name" / "001"
    fit(tmp_path / "name", "000", f"from {two}/checkpoints/best.ckpt", epochs=1)
    fit(tmp_path / "name", "001", f"from {one}/checkpoints/best.ckpt", epochs=1)
    assert set(fits_behind(two)) == {one, two}


def test_a_configuration_that_is_no_yaml_is_shown_all_the_same(tmp_path):
    score_images(tmp_path, ["a", "b"])
    (tmp_path / "config.yaml").write_bytes(b"a: [\n\xff")
    record = read_record(tmp_path)
    assert record.options == {}
    assert record.configuration.startswith("a: [")
