"""Run directories and finding checkpoints in them."""

import threading

import pytest
import torch
from torch import nn

from segfocal.runs import CheckpointError, find_checkpoint, load_checkpoint, net_state, new_run, run_of


def fake_run(runs, command="fit", kinds=("best", "last")):
    run = new_run(runs, "shapes", command)
    (run / "checkpoints").mkdir()
    (run / "config.yaml").touch()
    for kind in kinds:
        (run / "checkpoints" / f"{kind}.ckpt").touch()
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


def checkpoint_of(net, names):
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    return {"state_dict": state, "hyper_parameters": {"class_names": names}}


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.ckpt cannot be read"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(checkpoint_of(nn.Conv2d(3, 2, 1), ["a", "b"]), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"x\.ckpt cannot be read"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return (print, ("code ran",))


def test_loading_never_runs_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "x": Bomb()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


def test_a_file_of_another_tool_is_named(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="lacks state_dict"):
        load_checkpoint(tmp_path / "x.pt")


def test_other_classes_or_weights_are_told_apart(tmp_path):
    path, net, names = tmp_path / "x.ckpt", nn.Conv2d(3, 2, 1), ["a", "b"]
    checkpoint = checkpoint_of(net, names)
    assert net_state(checkpoint, path, net, names).keys() == net.state_dict().keys()
    with pytest.raises(CheckpointError, match=r"trained on 2 classes \(a, b\), the configuration has 3 \(a, b, c\)"):
        net_state(checkpoint, path, net, ["a", "b", "c"])
    with pytest.raises(CheckpointError, match=r"weight is \(2, 3, 1, 1\) there and \(5, 3, 1, 1\) here"):
        net_state(checkpoint, path, nn.Conv2d(3, 5, 1), names)
    with pytest.raises(CheckpointError, match=r"0\.bias only here.*bias only there"):
        net_state(checkpoint, path, nn.Sequential(net), names)
