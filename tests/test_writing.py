"""Files that are there whole or not at all."""

import pytest

from segfocal.writing import remove_parts, written_whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a" / "x.txt"
    with written_whole(path) as part:
        part.write_text("old")
    with written_whole(path) as part:
        part.write_text("ne")
        assert path.read_text() == "old"
        part.write_text("new")
        written = part.stat().st_ino
    assert path.read_text() == "new"
    assert path.stat().st_ino == written, "renamed, which takes no time, and not copied"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as part:
        part.write_text("ne" * (part.write_text("ne") // 0))
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_a_name_of_any_length_that_a_disk_takes(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    with written_whole(path) as part:
        part.touch()
    assert path.is_file()


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    part = written_whole(tmp_path / "deep" / "x.png")
    part.__enter__().write_text("half")
    (tmp_path / "deep" / "y.png").touch()
    remove_parts(tmp_path)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["y.png"]
    del part
