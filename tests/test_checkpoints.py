"""Checkpoint files: whole, sealed, harmless."""

import errno
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segfocal.checkpoints import CheckpointError, check_disk, load_checkpoint, net_state, verify, write_checkpoint


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


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(checkpoint_of(nn.Conv2d(3, 2, 3), ["a", "b"]), path)
    return path


def test_what_is_written_is_read_again_by_us_and_by_torch(written):
    assert load_checkpoint(written)["hyper_parameters"] == {"class_names": ["a", "b"]}
    assert torch.load(written, weights_only=True).keys() == {"state_dict", "hyper_parameters"}
    assert [path.name for path in written.parent.iterdir()] == ["last.ckpt"]


def test_every_flipped_bit_is_noticed(written):
    data = written.read_bytes()
    places = torch.randperm(8 * len(data), generator=torch.Generator().manual_seed(0))[:300].tolist()
    places += range(8 * (len(data) - 90), 8 * len(data), 5)  # the end, where the seal is
    for place in places:
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        written.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="it is damaged"):
            load_checkpoint(written)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_noticed(written, share):
    data = written.read_bytes()
    written.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="it is damaged"):
        verify(written)


def test_a_file_without_a_seal_is_checked_part_by_part(tmp_path):
    path = tmp_path / "x.ckpt"
    checkpoint = checkpoint_of(nn.Conv2d(3, 64, 3), ["a", "b"])
    torch.save(checkpoint, path)
    verify(path)
    data = bytearray(path.read_bytes())
    weights = checkpoint["state_dict"]["net.weight"].numpy().tobytes()
    data[data.index(weights) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="it is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(written, monkeypatch, step):
    before = written.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint({"state_dict": {}}, written)
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == ["last.ckpt"]


KILLED = """
import sys, torch
from pathlib import Path
from segfocal.checkpoints import write_checkpoint
state = {"net.weight": torch.ones(1_000_000)}
print("ready", flush=True)
while True:
    write_checkpoint({"state_dict": state, "hyper_parameters": {"class_names": ["a"]}}, Path(sys.argv[1]))
"""


def test_a_kill_at_any_moment_leaves_a_sound_file(tmp_path):
    path = tmp_path / "last.ckpt"
    for moment in range(6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        while not path.is_file():
            time.sleep(0.01)
        time.sleep(0.01 + 0.017 * moment)
        process.kill()
        process.wait()
        process.stdout.close()
        assert load_checkpoint(path)["state_dict"]["net.weight"].sum() == 1_000_000


def test_a_disk_that_is_full_leaves_the_old_checkpoint(tmp_path):
    path, net = tmp_path / "last.ckpt", nn.Linear(300, 300)
    write_checkpoint(checkpoint_of(net, ["a", "b"]), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # what is written beyond fails, as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            write_checkpoint(checkpoint_of(net, ["c", "d"]), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "and no part of the new one"


def test_no_room_for_checkpoints_is_said_before_the_first_step(tmp_path, monkeypatch):
    net = nn.Linear(1000, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=20_000_000))
    check_disk(tmp_path, net, copies=1)
    with pytest.raises(OSError, match=r"room for three checkpoints of 12.0 MB in .*, 20.0 MB are free") as raised:
        check_disk(tmp_path, net, copies=3)
    assert raised.value.errno == errno.ENOSPC
