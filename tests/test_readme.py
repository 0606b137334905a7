"""What the README says runs, as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segfocal.cli import main
from segfocal.data.shapes import write_tree

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_loop_trains_and_the_loss_falls(capsys):
    source = next(block for block in blocks("python") if "smp.Unet" in block)
    names = {}
    exec(source, names)
    assert names["losses"][-1] < 0.9 * names["losses"][0]
    assert "->" in capsys.readouterr().out


def test_the_evaluation_prints_a_table(capsys):
    source = next(block for block in blocks("python") if "confusion(" in block)
    exec(source, {})
    out = capsys.readouterr().out
    assert all(word in out for word in ("road", "pole", "mean", "mIoU"))


def test_every_python_block_is_covered():
    (example,) = (block for block in blocks("python") if "onnxruntime" in block)
    assert (ROOT / "scripts/run_onnx.py").read_text().endswith(f"\n\n{example}")  # run in tests/test_export.py
    assert len(blocks("python")) == 4


def test_the_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    commands = [
        shlex.split(line) for block in blocks("bash") for line in block.splitlines() if line.startswith("segfocal")
    ]
    assert [command[1] for command in commands] == ["fit", "test", "predict", "predict", "score", "score", "compare"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for path in (tmp_path / folder / f"{i}.png" for folder in ("predicted", "truth", "new") for i in range(3)):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 3, (20, 30), dtype=np.uint8)).save(path)
    for path in (tmp_path / name for name in ("photos/a.jpg", "more/b.jpg")):
        path.parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    for command in commands:
        assert main([*command[1:], *(SHORT if command[1] in ("fit", "test", "predict") else [])]) == 0
    assert len(list((tmp_path / "runs/gamma1/003-predict/masks").iterdir())) == 2
    exec(next(block for block in blocks("python") if "Predictor" in block), {})
    assert "(20, 30)" in capsys.readouterr().out


def test_the_yaml_trains_on_the_folder_layout_it_describes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "my_data", n_train=8, n_val=2, n_test=2)
    (text,) = blocks("yaml")
    yaml.safe_load(text)
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["fit", "--config", "mine.yaml", "--data.num_workers=0", "--trainer.precision=32-true", *SHORT]) == 0
    assert (tmp_path / "runs/mine/000/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()


def test_the_two_set_up_commands_are_there():
    for script in ("quickstart", "test"):
        assert f"scripts/{script}" in README
        assert (ROOT / "scripts" / script).stat().st_mode & 0o111
