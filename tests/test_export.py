"""A checkpoint's net as files that run elsewhere."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from segfocal import SegmentationTask
from segfocal.cli import main
from segfocal.data.shapes import CLASSES, write_tree
from segfocal.export import Deployed, ExportError, onnx_bytes, trace
from segfocal.inference import normalise, predict_logits
from segfocal.parity import compare, expected, open_onnx, photos

ROOT = Path(__file__).parent.parent
FIT = """\
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}
model:
  net: {class_path: NET}
  loss: {class_path: segfocal.FocalDiceLoss}
  ema_decay: 0.9
data:
  class_path: segfocal.SegmentationDataModule
  init_args: {root: DATA, batch_size: 4, num_workers: 0, size: [32, 48]}
"""
FILES = {"weights.safetensors", "model.pt2", "model.onnx"}
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)


class Net(nn.Module):
    """A net of a user's own: it halves the image twice, looks at all of it, and returns further outputs."""

    def __init__(self, num_classes: int = 6, in_channels: int = 3, returns: str = "dict") -> None:
        super().__init__()
        self.returns = returns
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)
        )
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(count) for count in (1, 2))
        self.head = nn.Conv2d(3 * 8, num_classes, 1)

    def forward(self, images: torch.Tensor) -> object:
        if images.shape[-1] % 8 or images.shape[-2] % 8:
            raise ValueError(f"Expected sides that are multiples of 8, got {tuple(images.shape)}.")
        features = self.encoder(images)
        pooled = [F.interpolate(pool(features), size=features.shape[-2:], mode="bilinear") for pool in self.pools]
        logits = self.head(torch.cat([features, *pooled], 1))
        large = F.interpolate(logits, size=images.shape[-2:], mode="bilinear")
        return {"dict": {"out": large, "aux": logits}, "list": [large, logits], "tensor": large}[self.returns]


class Moody(nn.Module):
    """Decides by what it computes, which no graph can hold."""

    def __init__(self, num_classes: int = 6, in_channels: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images) if images.mean() > 0 else self.head(-images)


class Fixed(nn.Module):
    """Knows where a pixel lies, in images of one size."""

    def __init__(self, num_classes: int = 6) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 3, 32, 64))
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images + self.place)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder, with a space and beyond ASCII in its name, with a fit in runs/tiny/000 and one in runs/moody/000."""
    folder = tmp_path_factory.mktemp("ein schöner Ort")
    write_tree(folder / "data", n_train=8, n_val=4, n_test=4, size=(45, 60))
    for name, net in (("tiny", "test_export.Net"), ("moody", "test_export.Moody"), ("fixed", "test_export.Fixed")):
        (folder / f"{name}.yaml").write_text(FIT.replace("DATA", str(folder / "data")).replace("NET", net))
        assert main(["fit", "--config", str(folder / f"{name}.yaml"), "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(home):
    """The run directory of an export with all defaults."""
    assert main(["export", "--ckpt_path", str(home / "runs/tiny/000"), "--runs", str(home / "runs")]) == 0
    return next((home / "runs/tiny").glob("*-export"))


@pytest.fixture
def run(home, monkeypatch, capsys):
    """Exports by options of one's own in the home folder; returns exit code, output, error output, and the folder."""
    monkeypatch.chdir(home)

    def runner(*words, name="tiny"):
        capsys.readouterr()
        code = main(["export", "--ckpt_path", f"runs/{name}/000", *words])
        out, err = capsys.readouterr()
        assert "Warning" not in out + err
        return code, out, err, (home / "runs" / name / "latest").resolve()

    return runner


def files_of(folder):
    return {path.name for path in folder.iterdir()}


def test_an_export_leaves_the_files_and_their_description(home, exported):
    assert files_of(exported) == {"config.yaml", "model.json", *FILES}
    about = json.loads((exported / "model.json").read_text())
    checkpoint = home / "runs/tiny/000/checkpoints/best.ckpt"
    assert about["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert about["net"] == {
        "class_path": "test_export.Net",
        "init_args": {"num_classes": 6, "in_channels": 3, "returns": "dict"},
    }
    assert about["class_names"] == list(CLASSES)
    assert (about["data_size"], about["size_divisor"], about["ignore_index"]) == ([32, 48], 32, 255)
    assert about["input"] == {
        "name": "images", "shape": ["batch", 3, "height", "width"], "dtype": "uint8", "values": "0..255",
        "channels": "RGB",
    }  # fmt: skip
    shape = ["batch", "height", "width"]
    assert about["output"] == {"name": "labels", "shape": shape, "dtype": "uint8", "values": "0..5"}
    assert about["files"].keys() == FILES
    for name, figures in about["files"].items():
        assert figures["sha256"] == hashlib.sha256((exported / name).read_bytes()).hexdigest()
        assert figures["largest_difference"].keys() == {"97 x 131", "224 x 224", "360 x 480"}
        assert max(figures["largest_difference"].values()) <= 1e-4
    assert about["files"]["model.onnx"]["opset"] == 18


def test_onnx_gives_the_labels_of_the_task_for_any_batch_and_size(home, exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", "height", "width"]
    task = SegmentationTask(Net(6), nn.CrossEntropyLoss(ignore_index=255), list(CLASSES))
    checkpoint = torch.load(home / "runs/tiny/000/checkpoints/best.ckpt", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"], strict=False)
    program = torch.export.load(exported / "model.pt2").module()
    for batch, size in [(1, (45, 60)), (5, (33, 200)), (2, (7, 9)), (1, (1, 1)), (2, (64, 32))]:
        images = photos(size, batch, 3, seed=9)
        labels = task.eval().predict_labels(images).numpy()
        (got,) = session.run(None, {"images": images.numpy()})
        assert (got.dtype, got.shape) == (np.uint8, (batch, *size))
        assert (got == labels).mean() > 0.999
        assert (program(images).numpy() == labels).mean() > 0.999


def test_the_weights_are_those_of_the_checkpoint(home, exported):
    saved = torch.load(home / "runs/tiny/000/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    weights = load_file(exported / "weights.safetensors")
    named = {key.removeprefix("net."): value for key, value in saved.items() if key.startswith("net.")}
    assert weights.keys() == named.keys()
    assert all(torch.equal(weights[name], named[name]) for name in weights)


def test_the_example_runs_in_a_process(exported, tmp_path):
    image = photos((45, 60), 1, 3)[0].permute(1, 2, 0).numpy()
    np.save(tmp_path / "image.npy", image)
    words = [ROOT / "scripts/run_onnx.py", exported / "model.onnx", "image.npy", "labels.npy"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    labels = np.load(tmp_path / "labels.npy")
    assert (labels.shape, labels.dtype) == ((45, 60), np.uint8)
    shares = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}
    assert shares == {name: f"{np.mean(labels == index):.2%}" for index, name in enumerate(CLASSES)}
    assert not done.stderr


def test_the_example_needs_onnxruntime_and_numpy_alone():
    source = (ROOT / "scripts/run_onnx.py").read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"json", "sys", "numpy", "onnxruntime"}
    code = source.partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line]) <= 15
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_second_export_overwrites_nothing_and_may_fix_the_size(exported, run):
    before = {path: path.stat().st_mtime_ns for path in exported.iterdir()}
    code, out, _, folder = run("--format", "torch", "--size", "45,60", "--input", "normalised", "--output", "logits")
    assert code == 0
    assert "45 x 60    model.pt2" in out
    assert folder != exported
    assert before == {path: path.stat().st_mtime_ns for path in exported.iterdir()}
    assert files_of(folder) == {"config.yaml", "model.json", "model.pt2"}
    about = json.loads((folder / "model.json").read_text())
    assert about["input"]["shape"] == ["batch", 3, 45, 60]
    assert about["input"]["dtype"] == about["output"]["dtype"] == "float32"
    assert about["output"]["shape"] == ["batch", 6, 45, 60]
    assert torch.export.load(folder / "model.pt2").module()(torch.zeros(4, 3, 45, 60)).shape == (4, 6, 45, 60)


def worse(program, about, size=None):
    """An ONNX file, one of whose weights is not the net's."""
    model = onnx.load_from_string(onnx_bytes(program, about, size))
    biases = next(weights for weights in model.graph.initializer if weights.name.endswith("head.bias"))
    biases.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(biases) + 1e-3 * np.arange(6, dtype="f"), biases.name)
    )
    return model.SerializeToString()


@pytest.mark.parametrize("output", ["labels", "logits"])
def test_a_file_that_gives_something_else_is_refused_and_not_left(run, monkeypatch, output):
    monkeypatch.setattr("segfocal.commands.export.onnx_bytes", worse)
    code, _, err, folder = run("--format", "safetensors,onnx", "--output", output)
    assert code == 2
    assert err.startswith(
        "segfocal export: model.onnx not written. Expected the results of the checkpoint's net within 0.0001"
    )
    assert "Traceback" not in err
    assert files_of(folder) == {"config.yaml", "model.json", "weights.safetensors"}
    assert json.loads((folder / "model.json").read_text())["files"].keys() == {"weights.safetensors"}


def test_a_net_that_is_no_graph_is_told_and_its_weights_are_written(run):
    code, out, err, folder = run(name="moody")
    assert code == 2
    assert "model.pt2 and model.onnx not written. The net cannot be recorded as a graph" in err
    assert "Traceback" not in out + err
    assert len(err.splitlines()) < 4
    assert files_of(folder) == {"config.yaml", "model.json", "weights.safetensors"}


def test_a_net_of_one_size_is_told_to_be_given_it(run):
    code, _, err, folder = run(name="fixed")
    assert code == 2
    assert "--size H,W" in err
    assert "Traceback" not in err
    assert files_of(folder) == {"config.yaml"}
    code, _, _, folder = run("--format", "torch,safetensors", "--size", "32,48", name="fixed")
    assert code == 0
    assert files_of(folder) == {"config.yaml", "model.json", "model.pt2", "weights.safetensors"}


def test_an_export_without_the_data_says_what_it_needs_of_them(home, run):
    (home / "data").rename(home / "elsewhere")
    try:
        code, _, err, _ = run("--format", "torch")
        assert (code, "--data.classes [NAME,NAME,...]" in err) == (3, True)
        assert run("--format", "safetensors", "--data.classes", f"[{','.join(CLASSES)}]")[0] == 0
    finally:
        (home / "elsewhere").rename(home / "data")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--format", "onxx"], 2, "must be of safetensors, torch, onnx, got 'onxx'"),
        (["--format", ""], 2, "--format"),
        (["--input", "float"], 2, "--input"),
        (["--output", "masks"], 2, "--output"),
        (["--size", "480"], 2, "two whole numbers such as 360,480, got '480'"),
        (["--size", "0,480"], 2, "--size"),
        (["--fromat", "onnx"], 2, "no option --fromat. Did you mean --format?"),
        (["--ckpt_path", "runs/nothing"], 4, "Expected `--ckpt_path` to exist"),
    ],
)
def test_a_mistake_is_one_message(run, words, code, said):
    got, _, err, _ = run(*words)
    assert (got, said in err) == (code, True), err
    assert "Traceback" not in err


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "safetensors"])
def test_a_package_that_is_missing_is_named_with_the_remedy(run, monkeypatch, package):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("segfocal.commands.export.find_spec", lambda name: None if name == package else found(name))
    code, _, err, _ = run()
    assert code == 2
    assert f"got no {package}. Install" in err
    assert "pip install -e '.[export]'" in err
    assert run("--format", "torch", "--size", "32,32")[0] == 0


def test_a_full_disk_leaves_no_file(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # what is written beyond fails, as on a full disk
    try:
        code, _, err, folder = run("--format", "torch", "--size", "32,32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, "Free some space" in err) == (6, True), err
    assert files_of(folder) == {"config.yaml"}


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_leaves_no_file(run, monkeypatch, number, code, said):
    monkeypatch.setattr("segfocal.commands.export.compare", lambda *_: os.kill(os.getpid(), number))
    # Not the end of the tests if it is not raised; and in a job of the background interrupts are ignored.
    before = {signal.SIGTERM: signal.SIG_IGN, signal.SIGINT: signal.default_int_handler}
    usual = {signal_: signal.signal(signal_, handler) for signal_, handler in before.items()}
    try:
        got, _, err, folder = run("--format", "safetensors")
    finally:
        for signal_, handler in usual.items():
            signal.signal(signal_, handler)
    assert (got, err) == (code, f"segfocal export: {said}.\n")
    assert files_of(folder) == {"config.yaml"}


def opened(deployed, tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(
        onnx_bytes(trace(deployed), json.dumps({"input": {"name": "images"}, "output": {"name": name}}))
    )
    return open_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize(("classes", "shape", "returns"), [(1, (2, 37, 41), "tensor"), (3, (2, 3, 37, 41), "list")])
def test_sigmoid_gives_masks_by_the_threshold(tmp_path, classes, shape, returns):
    torch.manual_seed(0)
    bands = 4 if returns == "list" else 1
    mean, std = MEAN[:1].expand(bands, 1, 1), STD[:1].expand(bands, 1, 1)
    net = (Net(classes, bands, returns) if returns == "list" else nn.Conv2d(bands, classes, 3, padding=1)).eval()
    images = photos((37, 41), 2, bands)
    probabilities = predict_logits(net, normalise(images, mean, std)).sigmoid().detach()
    threshold = float(probabilities.median())
    deployed = Deployed(net, mean, std, activation="sigmoid", threshold=threshold)
    got = opened(deployed, tmp_path, "labels")(images)
    assert (got.shape, got.dtype) == (shape, torch.uint8)
    assert 0.4 < got.float().mean() < 0.6
    assert (got.view_as(probabilities) == (probabilities >= threshold)).float().mean() > 0.999
    assert compare(deployed, deployed, expected(deployed, (37, 41))).fits


def test_more_than_256_classes_have_wider_labels(tmp_path):
    torch.manual_seed(0)
    deployed = Deployed(nn.Conv2d(3, 300, 1), MEAN, STD)
    got = opened(deployed, tmp_path, "labels")(photos((40, 50), 1, 3))
    assert got.dtype == torch.int32
    assert torch.equal(got, deployed(photos((40, 50), 1, 3)))
    assert got.max() > 255


@pytest.mark.parametrize("output", ["labels", "probabilities", "logits"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_comparison_sees_what_is_wrong_and_no_rounding(output, activation):
    torch.manual_seed(0)
    deployed = Deployed(Net(4), MEAN, STD, output=output, activation=activation)
    cases = expected(deployed, (64, 64))
    same = compare(deployed, deployed, cases)
    assert same.fits
    assert same.allowed == pytest.approx(1e-4)
    wrong = Deployed(deployed.net, MEAN + 0.01, STD, output=output, activation=activation)
    assert not compare(wrong, deployed, cases).fits
    assert not compare(lambda images: deployed(images) * float("nan"), deployed, cases).fits or output == "labels"
    with pytest.raises(ExportError, match="gives"):
        compare(lambda images: deployed(images)[:1], deployed, cases)


def test_labels_may_differ_at_a_tie_alone():
    net = nn.Conv2d(3, 3, 1).eval()
    nn.init.zeros_(net.weight)
    net.bias.data = torch.tensor([1.0, 1.0 - 1e-5, 0.9])
    deployed = Deployed(net, MEAN, STD)
    cases = expected(deployed, (8, 8))
    near = compare(lambda images: deployed(images) + 1, deployed, cases)
    assert (near.fits, near.share) == (True, 1.0)
    assert near.largest == pytest.approx(5e-6, rel=0.02)
    far = compare(lambda images: deployed(images) + 2, deployed, cases)
    assert (far.fits, far.largest) == (False, pytest.approx(0.05))
    assert not compare(lambda images: deployed(images) + 3, deployed, cases).fits, "there is no such class"


def test_a_net_without_finite_logits_is_named():
    net = nn.Conv2d(3, 3, 1)
    nn.init.constant_(net.bias, float("nan"))
    with pytest.raises(ExportError, match="finite logits"):
        expected(Deployed(net, MEAN, STD), (8, 8))


def test_a_net_that_cannot_be_copied_is_named():
    net = nn.Conv2d(3, 3, 1)
    net.kept = net.weight * 2
    with pytest.raises(ExportError, match="can be copied"):
        Deployed(net, MEAN, STD)


def test_a_net_that_rounds_more_is_allowed_more():
    torch.manual_seed(0)
    net = Net(4).eval()
    net.head.weight.data *= 1e5
    deployed = Deployed(net, MEAN, STD, output="logits")
    found = compare(deployed, deployed, expected(deployed, (64, 64)))
    assert 1e-4 < found.largest <= found.allowed


def test_the_help_says_what_the_options_mean(capsys):
    assert main(["export", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("--format", "default: all three", "--output", "default: labels", "--size H,W", "any size"):
        assert words in out
