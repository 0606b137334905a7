"""`segfocal compare`: what got better between two runs of score."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfocal.cli import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs a and b over 20 images: b finds more cars, poles are as before, nobody looks for trees."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(20):
        target = rng.choice([0, 1, 2], (20, 30), p=[0.6, 0.3, 0.1]).astype(np.uint8)
        for folder, found in (("true", 1.1), ("a", 0.5), ("b", 0.7)):
            missed = (rng.random((20, 30)) > found) & (target == 1) | (rng.random((20, 30)) > 0.6) & (target == 2)
            labels = target if folder == "true" else np.where(missed, 0, target).astype(np.uint8)
            Path(folder).mkdir(exist_ok=True)
            Image.fromarray(labels).save(f"{folder}/{index}.png")
    for folder in ("a", "b"):
        words = ["--pred", folder, "--target", "true", "--classes", "road,car,pole,tree", "--name", folder]
        assert main(["score", *words]) == 0
    return "runs/a/000-score", "runs/b/000-score"


def test_progress_is_told_from_chance(runs, capsys):
    assert main(["compare", *runs, "--json", "difference.json"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "better" in lines["car"]
    assert "may be chance" in lines["pole"]
    assert "better" in lines["mean"]
    assert lines["tree"].split()[1:] == ["-", "-", "-", "-"]
    found = json.loads(Path("difference.json").read_text())
    for name, run in zip(("before", "after"), runs, strict=True):
        scored = json.loads(Path(run, "metrics.json").read_text())
        assert found["per_class"]["car"][name] == pytest.approx(scored["per_class"]["car"]["iou"], rel=1e-12)
        assert found["mean"][name] == pytest.approx(scored["miou"], rel=1e-12)
    assert (
        found["per_class"]["car"]["low"]
        < found["per_class"]["car"]["after"] - found["per_class"]["car"]["before"]
        < found["per_class"]["car"]["high"]
    )


def test_the_other_way_round_it_is_worse(runs, capsys):
    assert main(["compare", *reversed(runs)]) == 0
    assert "worse" in capsys.readouterr().out


def test_a_run_compared_with_itself_has_not_changed(runs, capsys):
    capsys.readouterr()
    assert main(["compare", runs[0], runs[0]]) == 0
    out = capsys.readouterr().out
    assert out.count("the same") == 4
    assert not any(word in out for word in ("better", "worse"))


def spoilt(run, content):
    Path(run, "counts.npz").write_bytes(content)
    return [run, run]


def rewritten(run, **arrays):
    with np.load(Path(run, "counts.npz")) as held:
        arrays = dict(held) | arrays
    np.savez(Path(run, "counts.npz"), **arrays)
    return [run, run]


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda run: ["nowhere", run], 3, "nowhere holds no counts.npz"),
        (lambda run: [run], 2, "after"),
        (lambda run: [run, run, "--json", "no/where.json"], 2, "`--json`"),
        (lambda run: [run, run, "--json", "."], 2, "`--json`"),
        (lambda run: [f"{run}/metrics.json", run], 3, "Name the folder of a run"),
        (lambda run: spoilt(run, b"PK"), 3, "cannot be read"),
        (lambda run: spoilt(run, b""), 3, "cannot be read"),
        (lambda run: spoilt(run, Path(run, "counts.npz").read_bytes()[:700]), 3, "cannot be read"),
        (lambda run: rewritten(run, counts=np.zeros((20, 4, 2), np.int64)), 3, "cannot be read"),
        (lambda run: rewritten(run, counts=np.zeros((3, 4, 3), np.int64)), 3, "cannot be read"),
        (lambda run: rewritten(run, counts=np.full((20, 4, 3), np.nan)), 3, "cannot be read"),
        (lambda run: rewritten(run, counts=np.full((20, 4, 3), -1)), 3, "negative"),
        (lambda run: rewritten(run, names=np.array([b"x"] * 20)), 3, "a name twice"),
        (lambda run: rewritten(run, names=np.array(["x"] * 20)), 3, "cannot be read"),
        (lambda run: rewritten(run, classes=np.arange(4)), 3, "cannot be read"),
        (lambda run: rewritten(run, names=np.array([object()])), 3, "cannot be read"),
    ],
)
def test_a_mistake_is_one_message(runs, capsys, spoil, code, said):
    assert main(["compare", *spoil(runs[1])]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_other_images_or_classes_are_not_compared(runs, capsys):
    shared = ["--pred", "b", "--target", "true"]
    assert main(["score", *shared, "--classes", "road,car,pole", "--name", "three"]) == 0
    assert main(["compare", runs[0], "runs/three/000-score"]) == 3
    assert "same classes" in capsys.readouterr().err
    for folder in ("b", "true"):
        Path(folder, "7.png").unlink()
    assert main(["score", *shared, "--classes", "road,car,pole,tree", "--name", "less"]) == 0
    assert main(["compare", runs[0], "runs/less/000-score"]) == 3
    assert "1 are only in one, such as 7" in capsys.readouterr().err
