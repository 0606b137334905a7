"""Classes as they stand in YAML, in a file, or were published."""

from pathlib import Path

import pytest

from segfocal.data import DataError
from segfocal.data.classes import class_values, ignored_values, resolve_classes


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"road": -1}, "label value of 0..65535.*got -1"),
        ({"road": True}, "got True"),
        ({"road": "7"}, "got '7'"),
        ({"road": None}, "got None"),
        ({"road": []}, r"got \[\]"),
        ({"road": [[1, 2]]}, r"got \[1, 2\]"),
        ({"road": [[1, 2, 256]]}, r"got \[1, 2, 256\]"),
        ({"road": 7, "car": [[1, 2, 3]]}, "got 7"),
        ({"road": 7, "car": [7, 8]}, "every value once, got 7 twice"),
        ({"road": [128, 64, 128]}, r"got 128 twice.*\[\[128, 64, 128\]\]"),
    ],
)
def test_classes_that_make_no_sense_are_refused(classes, message):
    with pytest.raises(ValueError, match=f"Expected `classes` .*{message}"):
        class_values(classes)


def test_names_alone_have_no_values():
    assert class_values(["road", "car"]) == (["road", "car"], None, False)


def test_overlapping_classes_may_have_one_value():
    assert class_values({"road": 255, "car": 255}, overlap=True)[1] == ((255,), (255,))


@pytest.mark.parametrize(
    ("name", "text", "names", "values"),
    [
        ("classes.txt", "\ufeffroad\r\n\r\n# wheels\r\ncar\r\n", ["road", "car"], None),
        ("classes.yaml", "road: 7\ncar: [26, 27]\n", ["road", "car"], ((7,), (26, 27))),
        ("classes.yaml", "[road, car]", ["road", "car"], None),
    ],
)
def test_a_file_beside_the_data_holds_the_classes(tmp_path, name, text, names, values):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = resolve_classes(tmp_path, None, None, "error")
    assert (found.names, found.values) == (names, values)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert resolve_classes(tmp_path, None, f"elsewhere/{name}", "error") == found, (
        "or it is named, relative to the root"
    )
    assert resolve_classes(tmp_path, None, str(tmp_path / "elsewhere" / name), "error") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road: 7\nroad: 8\n", "lists 'road' twice"),
        ("road: [7\n", "must be readable"),
        ("7: road\n", "must hold a list of names"),
        ("road\n", "must hold a list of names"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(tmp_path, text, message):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(DataError, match=f"classes.yaml: {message}"):
        resolve_classes(tmp_path, None, None, "error")


def test_a_second_different_list_is_an_error(tmp_path):
    (tmp_path / "classes.yaml").write_text("road: 7\n")
    assert resolve_classes(tmp_path, None, {"road": 7}, "error").names == ["road"]
    with pytest.raises(ValueError, match=r"Expected `classes` to equal .*classes.yaml \(1 names: {'road': 7}\)"):
        resolve_classes(tmp_path, None, {"road": 8}, "error")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing.yaml: must be readable"):
        resolve_classes(tmp_path, None, "nothing.yaml", "error")


def test_unlisted_values_are_of_the_kind_of_the_classes():
    assert ignored_values([0, 254], colours=False) == (0, 254)
    assert ignored_values([[0, 0, 1]], colours=True) == (1,)
    with pytest.raises(ValueError, match=r"RGB colours, such as \[\[0, 0, 0\]\], got 0"):
        ignored_values([0], colours=True)


def test_colours_are_the_palette():
    found = resolve_classes(Path(), None, {"road": [[128, 64, 128], [0, 0, 1]], "sky": [[70, 130, 180]]}, "ignore")
    assert found.palette == [(128, 64, 128), (70, 130, 180)]
