"""Run directories and finding checkpoints in them."""

import threading

import pytest

from segfocal.checkpoints import CheckpointError, write_checkpoint
from segfocal.finding import find_checkpoint, run_of
from segfocal.runs import new_run


def fake_run(runs, command="fit", kinds=("best", "last")):
    run = new_run(runs, "shapes", command)
    (run / "checkpoints").mkdir()
    (run / "config.yaml").touch()
    for kind in kinds:
        write_checkpoint({"kind": kind}, run / "checkpoints" / f"{kind}.ckpt")
    return run


def test_runs_are_numbered_and_latest_points_to_the_newest(tmp_path):
    names = [new_run(tmp_path, "shapes", command).name for command in ("fit", "test", "fit", "predict")]
    assert names == ["000", "001-test", "002", "003-predict"]
    assert (tmp_path / "shapes" / "latest").resolve().name == "003-predict"


def test_a_number_is_not_given_twice_after_a_deletion(tmp_path):
    for _ in range(3):
        last = new_run(tmp_path, "shapes", "fit")
    (tmp_path / "shapes" / "000").rmdir()
    assert new_run(tmp_path, "shapes", "fit").name == "003"
    assert last.exists()


def test_runs_started_at_once_get_directories_of_their_own(tmp_path):
    made = []
    threads = [threading.Thread(target=lambda: made.append(new_run(tmp_path, "x", "fit"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="`name`"):
        new_run(tmp_path, name, "fit")


def test_what_a_checkpoint_path_means(tmp_path):
    first = fake_run(tmp_path)
    second = fake_run(tmp_path, kinds=("last",))
    new_run(tmp_path, "shapes", "test")
    best, last = first / "checkpoints/best.ckpt", second / "checkpoints/last.ckpt"
    assert find_checkpoint("best", tmp_path, "shapes", "best") == best  # of the newest run that has one
    assert find_checkpoint("last", tmp_path, "shapes", "best") == last
    assert find_checkpoint(str(first), tmp_path, None, "best") == best
    assert find_checkpoint(str(first), tmp_path, None, "last") == first / "checkpoints/last.ckpt"
    assert find_checkpoint(str(second), tmp_path, None, "best") == last
    assert find_checkpoint(str(tmp_path / "shapes"), tmp_path, None, "best") == best
    assert find_checkpoint(str(best), tmp_path, None, "best") == best
    assert run_of(best) == first
    assert run_of(tmp_path / "elsewhere.ckpt") is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (None, "without a checkpoint the net is random"),
        ("best", "Run segfocal fit first"),
        ("nowhere.ckpt", "to exist, got 'nowhere.ckpt'"),
    ],
)
def test_no_checkpoint_is_an_error_that_says_what_to_do(tmp_path, wanted, message):
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(wanted, tmp_path, "shapes", "best")


def test_a_damaged_checkpoint_gives_way_to_the_other_of_its_run_and_says_so(tmp_path, caplog):
    run = fake_run(tmp_path)
    best, last = run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    assert find_checkpoint("last", tmp_path, "shapes", "best") == best
    assert f"{last} cannot be read as a checkpoint: it is damaged" in caplog.text
    assert f"Taking {best} in its place." in caplog.text
    assert find_checkpoint(str(run), tmp_path, None, "last") == best
    assert find_checkpoint(str(last), tmp_path, None, "best") == last  # named: loading it is an error
    best.write_bytes(b"")
    assert find_checkpoint("last", tmp_path, "shapes", "best") == last
