"""`segfocal report`, and report.html of the commands that score."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scored_run import whole_run

from segfocal.cli import main


def test_a_report_is_made_again(tmp_path, capsys):
    run = whole_run(tmp_path / "run", 3)
    assert main(["report", str(run)]) == 0
    assert f"report: {run}/report.html" in capsys.readouterr().out
    assert "What to try next" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nowhere"], 3, "must be the folder of a run"),
        (["empty"], 3, "Expected empty to hold metrics.json"),
        (["damaged"], 3, "Expected the files of damaged to be whole"),
        ([], 2, "run"),
        (["empty", "--colour"], 2, "--colour"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys, words, code, told):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("damaged").mkdir()
    Path("damaged/metrics.json").write_text("{}")
    assert main(["report", *words]) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_no_torch_is_imported(tmp_path):
    run = whole_run(tmp_path / "run", 3)
    program = "import sys; from segfocal.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, "report", str(run)], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_fit_and_test_write_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
    config = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=2", *words]) == 0
    assert main(["test", "--ckpt_path", "runs/quickstart/000", *words]) == 0
    for name in ("000", "001-test"):
        page = Path("runs/quickstart", name, "report.html").read_text(encoding="utf-8")
        assert "Loss over the epochs: train from" in page, "the curves are those of the fit"
        assert page.count("data:image/jpeg") == 4 * 8  # one batch
    assert "model:\n" in page
    assert "torch" in page
    with Image.open("runs/quickstart/001-test/gallery/worst-1-image.jpg") as picture:
        assert picture.size == (128, 96)


def score_words(folder):
    rng = np.random.default_rng(0)
    for name in ("pred", "true", "photos"):
        (folder / name).mkdir()
        for place in range(3):
            pixels = rng.integers(0, 3, (20, 30), dtype=np.uint8)
            picture = np.full((40, 60, 3), 80 * place, np.uint8) if name == "photos" else pixels
            Image.fromarray(picture).save(folder / name / f"{place}{'_rgb' if name == 'photos' else ''}.png")
    return ["score", "--pred", "pred", "--target", "true", "--classes", "a,b,c"]


def test_score_shows_the_images_that_it_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = score_words(tmp_path)
    assert main(words) == 0
    assert main([*words, "--images", "photos", "--image_suffix", "_rgb"]) == 0
    counts = []
    for name in ("000-score", "001-score"):
        counts.append(Path("runs/score", name, "report.html").read_text(encoding="utf-8").count("data:image/jpeg"))
    assert counts == [3 * 3, 4 * 3]
    assert main([*words, "--images", "photos"]) == 3
    assert "true/0.png: has no image photos/0.*" in capsys.readouterr().err
    assert main([*words, "--images", "nowhere"]) == 3
    assert "`--images` must be an existing folder" in capsys.readouterr().err
