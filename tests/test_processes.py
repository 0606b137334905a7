"""What the first process of a command tells the others. Two processes that train are in test_ddp.py."""

import threading

import pytest
from pytorch_lightning.utilities import rank_zero_only

from segfocal.commands.common import shared_run


def one_of_two(monkeypatch, rank, environment):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)


SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize("environment", [{}, SLURM], ids=["lightning", "slurm"])
def test_the_others_get_the_directory_that_the_first_has_made(tmp_path, monkeypatch, environment):
    monkeypatch.setenv("SEGFOCAL_RUN", "of an earlier one")
    one_of_two(monkeypatch, 0, environment)
    run = shared_run(tmp_path, "shapes", "fit")
    one_of_two(monkeypatch, 1, environment)
    assert shared_run(tmp_path, "shapes", "fit") == run
    assert [path.name for path in run.parent.iterdir() if path.is_dir() and not path.is_symlink()] == ["000"]


def test_the_others_wait_for_it(tmp_path, monkeypatch):
    one_of_two(monkeypatch, 1, SLURM)
    found = []
    waiting = threading.Thread(target=lambda: found.append(shared_run(tmp_path, "shapes", "fit")))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    run = shared_run(tmp_path, "shapes", "fit")
    waiting.join(5)
    assert found == [run]


def test_a_process_that_nobody_tells_anything_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("SEGFOCAL_RUN", raising=False)
    one_of_two(monkeypatch, 1, {})
    with pytest.raises(ValueError, match="process 1 to be started by Lightning, torchrun or SLURM"):
        shared_run(tmp_path, "shapes", "fit")
