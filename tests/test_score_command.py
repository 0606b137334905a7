"""`segfocal score`: predicted masks against true ones, without a net."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_counts import eroded_boundary

from segfocal.cli import main

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"
NAMES = "sky,building,pole,road,pavement,tree,sign_symbol,fence,car,pedestrian,bicyclist"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Five predictions and targets of three classes, with 255 for void, in sub-folders."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(5):
        target = rng.choice([0, 1, 2, 255], (20, 30), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
        prediction = np.where(rng.random((20, 30)) < 0.8, np.where(target == 255, 0, target), 1).astype(np.uint8)
        for folder, labels in (("pred", prediction), ("true", target)):
            path = tmp_path / folder / "city" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(path)
    return tmp_path


def score(*words):
    return main(["score", "--pred", "pred", "--target", "true", *words])


def metrics(run="runs/score/000-score"):
    return json.loads(Path(run, "metrics.json").read_text())


def masks(folder):
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))])


def naive(predictions, targets, labels, ignore=255):
    ious = []
    for label in labels:
        true, guess = (targets == label) & (targets != ignore), (predictions == label) & (targets != ignore)
        ious.append((true & guess).sum() / (true | guess).sum())
    return ious


def test_two_folders_give_a_table_and_files(folders, capsys):
    assert score("--classes", "road,car,pole") == 0
    want = naive(masks(folders / "pred"), masks(folders / "true"), range(3))
    found = metrics()
    assert [row["iou"] for row in found["per_class"].values()] == pytest.approx(want, rel=1e-12)
    assert found["miou"] == pytest.approx(np.mean(want), rel=1e-12)
    out = capsys.readouterr().out
    assert f"score: mIoU {np.mean(want):.3f}, 95 % interval" in out
    assert all(word in out for word in ("boundary", "road", "pole", "runs/score/000-score"))
    assert {path.name for path in Path("runs/score/000-score").iterdir()} == {
        "metrics.json",
        "per_class.csv",
        "per_image.csv",
        "counts.npz",
        "gallery",
        "charts",
        "report.html",
    }


def test_classes_may_be_merged_values_in_a_file(folders):
    (folders / "true" / "classes.yaml").write_text("ground: [0, 1]\npole: 2\n")
    assert score() == 0
    predictions, targets = masks(folders / "pred"), masks(folders / "true")
    merged = [np.where(labels == 1, 0, labels) for labels in (predictions, targets)]
    assert [row["iou"] for row in metrics()["per_class"].values()] == pytest.approx(naive(*merged, (0, 2)))


def test_predictions_may_be_indices_where_targets_are_not(folders):
    for path in (folders / "true").rglob("*.png"):
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels == 255, 255, labels * 10 + 7).astype(np.uint8)).save(path)
    (folders / "map.yaml").write_text("road: 7\ncar: 17\npole: 27\n")
    assert score("--classes", "map.yaml", "--pred_values", "index") == 0
    assert metrics()["miou"] > 0.5
    assert score("--classes", "map.yaml") == 3


def test_one_class_is_binary(folders):
    for path in [*(folders / "true").rglob("*.png"), *(folders / "pred").rglob("*.png")]:
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels == 255, 255, labels == 1).astype(np.uint8)).save(path)
    assert score("--classes", "car") == 0
    (iou,) = (row["iou"] for row in metrics()["per_class"].values())
    assert iou == pytest.approx(naive(masks(folders / "pred"), masks(folders / "true"), [1])[0])


def test_overlapping_classes_are_channels(folders):
    rng = np.random.default_rng(1)
    for folder in ("pred", "true"):
        for path in (folders / folder).rglob("*.png"):
            Image.fromarray(rng.integers(0, 2, (20, 30, 3), dtype=np.uint8)).save(path)
    assert score("--classes", "a,b,c", "--masks", "channels") == 0
    assert len(metrics()["confusion_matrix"][0]) == 2


def test_values_that_mean_nothing_are_listed(folders):
    for path in (folders / "true").rglob("*.png"):
        labels = np.array(Image.open(path))
        labels[0] = 77
        Image.fromarray(labels).save(path)
    assert score("--classes", "road,car,pole") == 3
    assert score("--classes", "road,car,pole", "--unlisted", "[77]") == 0


@pytest.mark.parametrize("form", [["--classes", "car"], ["--classes", "a,b,c", "--masks", "channels"]])
def test_targets_without_a_class_are_not_scored(folders, capsys, form):
    """0 and 255 are the usual values of such masks, and 255 the usual void."""
    for folder, high in (("pred", 1), ("true", 255)):
        for path in (folders / folder).rglob("*.png"):
            labels = (np.array(Image.open(path)) == 1).astype(np.uint8) * high
            Image.fromarray(labels if "car" in form else np.stack([labels] * 3, -1)).save(path)
    assert score(*form) == 3
    assert "write `NAME: 255` into a file" in capsys.readouterr().err


def test_one_image_has_a_score_and_no_interval(folders, capsys):
    for path in [*folders.rglob("*.png")]:
        if path.stem != "0":
            path.unlink()
    assert score("--classes", "road,car,pole") == 0
    out = capsys.readouterr().out
    assert "1 image\n" in out.replace(" \n", "\n") or "1 image " in out
    assert "interval" not in out
    assert metrics()["miou_interval"] == [None, None]


def test_suffixes_pair_names_that_differ(folders, capsys):
    for path in (folders / "true").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_gt.png"))
    assert score("--classes", "road,car,pole") == 3
    assert "--target_suffix" in capsys.readouterr().err
    assert score("--classes", "road,car,pole", "--target_suffix", "_gt") == 0


def damage(path, how):
    labels = np.array(Image.open(path))
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:60])
        case "label":
            labels[0, :2] = 9
            Image.fromarray(labels).save(path)
        case "size":
            Image.fromarray(labels[:-1]).save(path)
        case "void":
            Image.fromarray(np.full_like(labels, 255)).save(path)


@pytest.mark.parametrize(
    ("how", "folder", "said"),
    [
        ("missing", "pred", "true/city/2.png: has no prediction pred/city/2"),
        ("missing", "true", "pred/city/2.png: has no target true/city/2"),
        ("truncated", "pred", "pred/city/2.png: "),
        ("truncated", "true", "true/city/2.png: "),
        ("label", "pred", "pred/city/2.png: labels must be 0..2 or 255"),
        ("label", "true", "true/city/2.png: labels must be 0..2 or 255"),
        ("size", "pred", "pred/city/2.png: is 19 x 30, its target true/city/2.png 20 x 30"),
        ("void", "pred", "pred/city/2.png, against true/city/2.png: Expected labels 0..2 in the prediction"),
    ],
)
def test_a_fault_is_named_with_its_file(folders, capsys, how, folder, said):
    damage(folders / folder / "city" / "2.png", how)
    assert score("--classes", "road,car,pole") == 3
    assert said in capsys.readouterr().err
    assert not Path("runs").exists(), "a run without a result leaves nothing"


def test_all_faults_are_told_at_once(folders, capsys):
    damage(folders / "pred/city/1.png", "label")
    damage(folders / "true/city/3.png", "size")
    assert score("--classes", "road,car,pole") == 3
    err = capsys.readouterr().err
    assert "pred/city/1.png: labels" in err
    assert "true/city/3.png" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--classes", "road,car,pole", "--ignore_index", "2"], 2, "`--ignore_index` above the classes' labels 0..2"),
        (["--classes", "road,car,pole", "--boundary", "3"], 2, "`--boundary` in 0..1, got 3.0"),
        (["--classes", "road,road,pole"], 2, "road"),
        (["--classes", "nowhere.yaml"], 3, "nowhere.yaml"),
        (["--classes", "road,car,pole", "--ignore_index", "70000"], 2, "`--ignore_index` in 0..65535, got 70000"),
        (["--classes", "road,car,pole", "--ignore_index", "-1"], 2, "`--ignore_index` in 0..65535, got -1"),
        (["--classes", "road,car,pole", "--ignore_index", "0"], 2, "if 0 is void"),
        (["--clases", "road,car,pole"], 2, "Did you mean --classes?"),
        (["--classes", ",".join(f"class{i}" for i in range(60)), "--unlisted", "perhaps"], 2, "`unlisted`"),
        (["--classes", "road,car,pole", "--runs", ""], 2, "--runs"),
        ([], 2, "Expected `classes`"),
        (["--classes", "road,car,pole", "--colour", "x"], 2, "--colour"),
        (["--classes", "road,car,pole", "--masks", "per_class"], 2, "per_class"),
        (["--classes", "road,car,pole", "--name", "../x"], 2, "`name`"),
        (["--classes", "road,car,pole", "--pred", "nowhere"], 3, "nowhere"),
        (["--classes", "road,car,pole", "--target", "nowhere"], 3, "nowhere"),
    ],
)
def test_a_mistake_is_one_message(folders, capsys, words, code, said):
    assert score(*words) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_neither_torch_nor_lightning_is_imported(folders):
    program = (
        "import sys; from segfocal.cli import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    )
    words = ["score", "--pred", "pred", "--target", "true", "--classes", "road,car,pole"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for more, code in ([], 0), (["--ignore_index", "1"], 2), (["--pred", "nowhere"], 3), (["--help"], 0):
        done = subprocess.run([sys.executable, "-c", program, *words, *more], env=env, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"False {code}", done.stderr


def perturbed(target, rng):
    """Moved by some pixels, without details of two pixels, and with a class taken for another in some images."""
    moved = np.roll(target, rng.integers(0, 6, 2), (0, 1))
    prediction = cv2.medianBlur(np.where(moved == 11, 3, moved), 5)
    prediction[prediction == 9] = rng.choice([5, 9])
    return prediction


def camvid(step):
    """Each `step`th target of CamVid's test split and a perturbed copy, in the folders pred and true."""
    rng, pairs = np.random.default_rng(0), []
    for path in sorted((CAMVID / "testannot").glob("*.png"))[::step]:
        target = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pairs.append((perturbed(target, rng), target))
        for folder, labels in zip(("pred", "true"), pairs[-1], strict=True):
            Path(folder).mkdir(exist_ok=True)
            cv2.imwrite(f"{folder}/{path.name}", labels)
    return tuple(np.stack(each) for each in zip(*pairs, strict=True))


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here")
def test_camvid_against_perturbed_copies_equals_numpy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictions, targets = camvid(1)
    assert score("--classes", NAMES, "--ignore_index", "11") == 0
    found, valid = metrics(), targets != 11
    for label, row in enumerate(found["per_class"].values()):
        true, guess = (targets == label) & valid, (predictions == label) & valid
        both, either = (true & guess).sum(), (true | guess).sum()
        want = {
            "iou": both / either,
            "dice": 2 * both / (true.sum() + guess.sum()),
            "precision": both / guess.sum(),
            "recall": both / true.sum(),
            "share": true.sum() / valid.sum(),
            "support": true.sum(),
        }
        assert {name: row[name] for name in want} == pytest.approx(want, rel=1e-12)
    rows = list(found["per_class"].values())
    assert found["miou"] == pytest.approx(np.mean([row["iou"] for row in rows]), rel=1e-12)
    weighted = sum(row["iou"] * row["share"] for row in rows)
    assert found["frequency_weighted_iou"] == pytest.approx(weighted, rel=1e-12)
    assert found["pixel_accuracy"] == pytest.approx((predictions == targets)[valid].mean(), rel=1e-12)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here")
def test_boundary_iou_of_camvid_is_that_of_masks_eroded_class_by_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictions, targets = camvid(20)
    assert score("--classes", NAMES, "--ignore_index", "11") == 0
    for label, row in enumerate(metrics()["per_class"].values()):
        both = either = 0
        for prediction, target in zip(predictions, targets, strict=True):
            true, guess = (eroded_boundary((x == label).astype(np.uint8), 0.02) == 1 for x in (target, prediction))
            both += (true & guess & (target != 11)).sum()
            either += ((true | guess) & (target != 11)).sum()
        assert row["boundary_iou"] == pytest.approx(both / either, rel=1e-9)
