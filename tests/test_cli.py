"""The command line as a person meets it: exit codes, messages, files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segfocal.cli import main
from segfocal.data.shapes import CLASSES, write_tree

TINY = """\
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
model:
  net: {class_path: torch.nn.Conv2d, init_args: {in_channels: 3, out_channels: 6, kernel_size: 1}}
  loss: {class_path: segfocal.FocalDiceLoss}
  lr: 0.01
data:
  class_path: segfocal.SegmentationDataModule
  init_args: {root: DATA, batch_size: 4, num_workers: 0}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a data set, tiny.yaml, and one finished fit in runs/tiny/000."""
    folder = tmp_path_factory.mktemp("home")
    write_tree(folder / "data", n_train=8, n_val=4, n_test=4, size=(32, 48))
    (folder / "tiny.yaml").write_text(TINY.replace("DATA", str(folder / "data")))
    assert main(["fit", "--config", str(folder / "tiny.yaml"), "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture
def run(home, monkeypatch, capsys):
    """Runs a command in the home folder and returns its exit code, output and error output."""
    monkeypatch.chdir(home)

    def runner(*words):
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return runner


def fails(result, code, *words):
    """The command ended with this code and one message that holds these words, and no traceback."""
    got, _, err = result
    assert got == code, err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 12
    for word in words:
        assert word in err, err


def test_a_fit_leaves_config_checkpoints_and_scores(home):
    run = home / "runs" / "tiny" / "000"
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names >= {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.json", "per_class.csv"}
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["lr"] == 0.01
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["per_class"]) == list(CLASSES)
    assert (metrics["command"], metrics["split"]) == ("fit", "val")


def test_a_checkpoint_holds_plain_data_only(home):
    checkpoint = torch.load(home / "runs/tiny/000/checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["class_names"] == list(CLASSES)


def test_test_scores_equal_a_count_over_the_written_predictions(home, run):
    code, out, _ = run("test", "--config", "tiny.yaml", "--ckpt_path", "best")
    assert code == 0
    assert all(name in out for name in CLASSES)
    folder = Path(out.rsplit("run: ", 1)[1].strip())
    code, out, _ = run("predict", "--config", "tiny.yaml", "--ckpt_path", "best")
    assert code == 0
    masks = sorted((folder.parent / "latest" / "masks").rglob("*.png"))
    assert len(masks) == 4
    hits, unions = np.zeros(6), np.zeros(6)
    for path in masks:
        with Image.open(path) as picture:
            assert picture.mode == "P"
            predicted = np.asarray(picture)
        with Image.open(home / "data/masks/test" / path.name) as picture:
            target = np.asarray(picture)
        assert predicted.shape == target.shape
        valid = target != 255
        for label in range(6):
            hits[label] += (valid & (predicted == label) & (target == label)).sum()
            unions[label] += (valid & ((predicted == label) | (target == label))).sum()
    metrics = json.loads((folder / "metrics.json").read_text())
    for label, name in enumerate(CLASSES):
        assert metrics["per_class"][name]["iou"] == pytest.approx(hits[label] / unions[label], abs=1e-9)
    with (folder / "per_class.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == list(CLASSES)


def test_a_checkpoint_of_a_run_needs_no_config(run):
    assert run("validate", "--ckpt_path", "runs/tiny/000")[0] == 0
    assert run("validate", "--ckpt_path", "last", "--name", "tiny")[0] == 0


def test_a_second_fit_overwrites_nothing(home, run):
    before = {path: path.stat().st_mtime_ns for path in (home / "runs/tiny/000").rglob("*") if path.is_file()}
    code, out, _ = run("fit", "--config", "tiny.yaml", "--trainer.max_epochs", "1")
    assert code == 0
    assert "runs/tiny/000" not in out
    assert before == {path: path.stat().st_mtime_ns for path in (home / "runs/tiny/000").rglob("*") if path.is_file()}


def test_a_resume_trains_with_what_is_typed(run):
    typed = ["--model.lr", "0.5", "--model.weight_decay", "0.25", "--trainer.max_epochs", "3"]
    code, out, _ = run("fit", "--ckpt_path", "runs/tiny/000", *typed)
    assert code == 0
    assert "model.lr: 0.5 as configured now, 0.01 in the checkpoint" in out
    folder = Path(out.rsplit("run: ", 1)[1].strip())
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 2  # epochs 0 and 1 were not trained again
    groups = last["optimizer_states"][0]["param_groups"]
    assert {group["initial_lr"] for group in groups} == {0.5}
    assert {group["weight_decay"] for group in groups} == {0.25, 0.0}
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["lr"] == 0.5


def test_a_fit_without_validation_keeps_its_last_checkpoint(home, run):
    words = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "5", "--name", "unscored"]
    assert run("fit", "--config", "tiny.yaml", *words)[0] == 0
    assert (home / "runs/unscored/000/checkpoints/last.ckpt").is_file()
    assert json.loads((home / "runs/unscored/000/metrics.json").read_text())["checkpoint"].endswith("last.ckpt")


def test_a_split_that_is_not_scored_says_so(run):
    code, out, _ = run("test", "--ckpt_path", "runs/tiny/000", "--trainer.limit_test_batches", "0")
    assert code == 0
    assert "test was not scored" in out


def test_options_that_differ_from_the_checkpoint_are_said(run):
    code, out, _ = run("test", "--ckpt_path", "runs/tiny/000", "--model.mean", "[0.5, 0.5, 0.5]")
    assert code == 0
    assert "model.mean: [0.5, 0.5, 0.5] as configured now, [0.485, 0.456, 0.406] in the checkpoint" in out


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(home, run, monkeypatch):
    from segfocal.task import SegmentationTask

    def interrupt(task, batch, batch_idx):
        if task.current_epoch == 1:
            raise KeyboardInterrupt
        return task._loss(task(batch["image"], batch["mask"].shape[-2:]), batch["mask"])

    monkeypatch.setattr(SegmentationTask, "training_step", interrupt)
    code, out, err = run("fit", "--config", "tiny.yaml", "--name", "interrupted")
    assert (code, err) == (130, "segfocal fit: interrupted.\n")
    assert "--ckpt_path runs/interrupted/000 goes on from it" in out
    monkeypatch.undo()
    monkeypatch.chdir(home)
    assert main(["fit", "--ckpt_path", "runs/interrupted/000"]) == 0


def test_home_is_meant_by_a_tilde(home, run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("test", "--ckpt_path", "runs/tiny/000", "--runs", "~/elsewhere")[0] == 0
    assert (tmp_path / "elsewhere/tiny/000-test/metrics.json").is_file()


def test_a_loss_that_is_not_finite_stops_at_once_and_names_the_samples(home, run):
    result = run("fit", "--config", "tiny.yaml", "--name", "exploded", "--model.lr", "1e36")
    fails(result, 5, "at step 1, on images/train/", "lower model.lr")
    listed = (home / "runs/exploded/000/non_finite_batch.txt").read_text().splitlines()
    assert len(listed) == 4
    assert all((home / "data" / name).is_file() for name in listed)
    assert not list((home / "runs/exploded/000").rglob("*.ckpt"))


class Bomb:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("where", ["checkpoint", "hyper_parameters", "_instantiator"])
@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_a_checkpoint_never_runs_code(home, run, monkeypatch, tmp_path, where, command):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    checkpoint = torch.load(home / "runs/tiny/000/checkpoints/last.ckpt", weights_only=True)
    if where == "_instantiator":  # Lightning imports what stands here and calls it
        checkpoint["hyper_parameters"]["_instantiator"] = "builtins.print"
    else:
        (checkpoint if where == "checkpoint" else checkpoint["hyper_parameters"])["x"] = Bomb()
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    result = run(command, "--config", "tiny.yaml", "--ckpt_path", str(tmp_path / "evil.ckpt"))
    assert "code ran" not in result[1]
    fails(result, 4, "evil.ckpt")


def test_a_resume_with_nothing_left_to_train_says_so(run):
    fails(run("fit", "--ckpt_path", "runs/tiny/000"), 2, "2 epochs behind it", "trainer.max_epochs is 2")


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.precision", "bf16-mixed"],
        ["--trainer.logger", "false"],
        ["--trainer.fast_dev_run", "true"],
        ["--trainer.enable_checkpointing", "false"],
    ],
)
def test_options_of_the_trainer_work(run, words):
    assert run("fit", "--config", "tiny.yaml", "--trainer.max_epochs", "1", *words)[0] == 0


def test_predict_takes_a_folder_of_any_sizes(home, run, tmp_path):
    for index, size in enumerate([(40, 30), (33, 65)]):
        Image.new("RGB", size, (index * 100, 50, 50)).save(tmp_path / f"photo{index}.jpg")
    words = ["--data.images", str(tmp_path), "--data.size", "[16, 24]"]
    code, out, _ = run("predict", "--ckpt_path", "runs/tiny/000", *words)
    assert code == 0
    assert "2 images" in out
    latest = home / "runs/tiny/latest"
    sizes = {path.name: size_of(path) for path in latest.rglob("photo*")}
    assert sizes == {"photo0.png": (40, 30), "photo0.jpg": (40, 30), "photo1.png": (33, 65), "photo1.jpg": (33, 65)}


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_print_config_is_a_complete_template_that_can_be_read_again(run, tmp_path):
    code, out, _ = run("fit", "--print_config")
    assert code == 0
    config = yaml.safe_load(out)
    assert {"seed_everything", "data", "model", "trainer", "name", "runs", "ckpt_path"} <= config.keys()
    assert config["model"]["loss"]["init_args"]["gamma"] == 2.0
    assert "# Peak learning rate of AdamW." in out
    assert "known subclasses" not in out
    (tmp_path / "again.yaml").write_text(out)
    assert run("fit", "--config", str(tmp_path / "again.yaml"), "--print_config")[0] == 0


def test_help_names_every_option_of_a_command(run):
    code, out, _ = run("test", "--help")
    assert code == 0
    assert "ignore_index" in out
    assert "decoder" in out


def test_help_answers_without_heavy_imports():
    code = "import sys; from segfocal.cli import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "segfocal predict" in out
    assert "torch" not in out.splitlines()[-1].split()


def test_a_torchvision_that_does_not_fit_torch_is_named(tmp_path):
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    words = [
        sys.executable,
        "-m",
        "segfocal",
        "fit",
        "--data",
        "segfocal.ShapesDataModule",
        "--model.net",
        "segfocal.smp_net",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    fails((result.returncode, "", result.stderr), 2, "torch and torchvision do not fit together", "same place")


def test_python_dash_m_is_the_same_command():
    words = [sys.executable, "-m", "segfocal", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.startswith("segfocal 0.")


BASE = ("fit", "--config", "tiny.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fitt",), ["no command 'fitt'", "'fit'"]),
        ((*BASE, "--model.lrr", "1"), ["no option 'model.lrr'", "'model.lr'"]),
        ((*BASE, "--model.loss.gama", "1"), ["no option 'model.loss.gama'", "'model.loss.gamma'"]),
        ((*BASE, "--trainer.max_epoch", "1"), ["no option 'trainer.max_epoch'", "'trainer.max_epochs'"]),
        ((*BASE, "--model.lr", "fast"), ["model.lr: expected float, got 'fast'"]),
        ((*BASE, "--data.batch_size", "many"), ["data.batch_size", "int", "'many'"]),
        ((*BASE, "--data.batch_size", "0"), ["`batch_size`", "0"]),
        ((*BASE, "--model.loss.gamma", "-1"), ["`gamma`", "-1"]),
        ((*BASE, "--model.loss.ignore_index", "7"), ["ignore_index is 7", "255"]),
        ((*BASE, "--model.net.out_channels", "4"), ["one channel per class", "6", "got 4"]),
        ((*BASE, "--model.loss", "segfocal.FocalDyceLoss"), ["segfocal.FocalDyceLoss", "cannot be imported"]),
        ((*BASE, "--data.classes", "[a, b]"), ["classes"]),
        ((*BASE, "--name", "a/b"), ["`name`", "'a/b'"]),
        ((*BASE, "--trainer.accelerator", "tpu"), ["trainer: "]),
        ((*BASE, "--trainer.strategy", "nonsense"), ["trainer: ", "nonsense"]),
        ((*BASE, "--model.loss.alpha", "[1, 2]"), ["`alpha`", "a number per class, 6", "got 2"]),
        ((*BASE, "--model.loss.alpha", "{wire: 2}"), ["model.loss"]),
        ((*BASE, "--model.mean", "[.nan, 0, 0]"), ["`mean and std`", "finite"]),
        ((*BASE, "--model.net.in_channels", "1"), ["in_channels is 1", "the data", "3", "leave it out"]),
        (
            (*BASE, "--model.net", "torch.nn.Linear", "--model.net.in_features=7", "--model.net.out_features=6"),
            ["Expected the net to take images"],
        ),
        ((*BASE, "--model.net", "torch.nn.Identity"), ["`net`", "parameter"]),
        ((*BASE, "--runs", "tiny.yaml"), ["`runs`", "tiny.yaml"]),
        ((*BASE, "--trainer.limit_train_batches", "0"), ["Nothing was trained"]),
        ((*BASE, "--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/iuo"), ["val/iuo"]),
        (("fit",), ["model.net and model.loss and data are missing", "--config FILE"]),
        (("fit", "--config", "nowhere.yaml"), ["nowhere.yaml"]),
        (("test", "--config", "tiny.yaml", "--model.lr"), ["model.lr"]),
    ],
)
def test_a_mistake_in_the_configuration_is_one_message(run, words, message):
    fails(run(*words), 2, *message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {lr: 1}\nmodel: {lr: 2}\n", ["line 2", "'model' stands in line 1 too"]),
        ("model: {lr: 1\n", ["is not YAML", "line 1"]),
        ("just words\n", ["holds no `key: value` lines"]),
        ("modle: {lr: 1}\n", ["no option 'modle.lr'", "'model.lr'"]),
        ("trainer: {max_epoch: 3}\n", ["no option 'trainer.max_epoch'", "'trainer.max_epochs'"]),
        ("data: {init_args: {bach_size: 3}}\n", ["bach_size", "batch_size"]),
    ],
)
def test_a_mistake_in_a_yaml_file_is_one_message(run, tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    fails(run(*BASE, "--config", str(tmp_path / "bad.yaml")), 2, *message)


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_scoring_without_a_checkpoint_is_refused(run, command):
    fails(run(command, "--config", "tiny.yaml"), 4, "--ckpt_path", "random")


def test_a_checkpoint_that_does_not_fit_is_refused(run, tmp_path):
    words = ["test", "--config", "tiny.yaml", "--ckpt_path", "runs/tiny/000"]
    fails(run(*words, "--model.net.kernel_size", "3"), 4, "weight is (6, 3, 1, 1) there and (6, 3, 3, 3) here")
    (tmp_path / "broken.ckpt").write_bytes(b"PK")
    fails(run(*words[:-1], str(tmp_path / "broken.ckpt")), 4, "broken.ckpt cannot be read")


def copy_of_data(home, folder):
    import shutil

    shutil.copytree(home / "data", folder / "data")
    return folder / "data"


def test_missing_data_is_one_message(run):
    fails(run(*BASE, "--data.root", "nowhere"), 3, "nowhere")


def test_all_faults_of_the_data_are_listed_at_once_before_a_run_is_made(home, run, tmp_path):
    data = copy_of_data(home, tmp_path)
    masks = sorted((data / "masks/train").iterdir())
    masks[0].unlink()
    Image.new("L", (5, 5)).save(masks[1])
    with Image.open(masks[2]) as picture:
        labels = np.array(picture)
    labels[3, 4] = 77
    Image.fromarray(labels).save(masks[2])
    runs = sorted((home / "runs/tiny").iterdir())
    fails(run(*BASE, "--data.root", str(data)), 3, masks[0].stem, masks[1].name, "5", masks[2].name, "77")
    assert sorted((home / "runs/tiny").iterdir()) == runs


def test_a_disk_without_room_is_refused_before_the_first_step(run, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    fails(run(*BASE, "--runs", str(tmp_path)), 6, "room for three checkpoints", "--runs")
    assert not list(tmp_path.rglob("*.ckpt"))
