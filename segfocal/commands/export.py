"""`segfocal export`: a checkpoint's net as files that run without segfocal, each compared with the net."""

import argparse
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import get_args

from pytorch_lightning.utilities.exceptions import SIGTERMException

from segfocal.commands.common import restore, start_run, with_config_of_run
from segfocal.commands.description import as_text, figures, interface, trained
from segfocal.commands.score import Parser
from segfocal.configuration import Configuration
from segfocal.data.files import DataError
from segfocal.export import (
    OPSET,
    Deployed,
    ExportError,
    Format,
    Input,
    Output,
    Size,
    onnx_bytes,
    safetensors_bytes,
    torch_bytes,
    trace,
)
from segfocal.mistakes import ConfigError
from segfocal.parity import SIZES, Difference, Run, compare, expected, open_onnx, open_torch, open_weights

Faults = dict[str, Exception]  # of files

FILES: dict[Format, str] = {"safetensors": "weights.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
_NEEDS: dict[Format, tuple[str, ...]] = {
    "safetensors": ("safetensors",), "torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options of this command's own."""
    words = Parser("segfocal export", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    words.add_argument(
        "--format",
        type=_formats,
        default=list(FILES),
        metavar="LIST",
        help="onnx (model.onnx), torch (model.pt2, of torch.export) or safetensors (the weights alone), or several, "
        "such as onnx,torch; default: all three",
    )
    words.add_argument(
        "--input",
        choices=get_args(Input),
        default="uint8",
        help="what the file takes: images in 0..255, which it normalises itself; or float32 images that are normalised "
        "as model.json says; default: uint8",
    )
    words.add_argument(
        "--output",
        choices=get_args(Output),
        default="labels",
        help="what it gives: the class of each pixel (sigmoid: 0 or 1 per class), the probabilities of the classes, or "
        "the logits; default: labels",
    )
    words.add_argument(
        "--size",
        type=_size,
        metavar="H,W",
        help="for images of this size only, for nets or runtimes that take no others; default: any size",
    )
    return words


def _formats(word: str) -> list[Format]:
    named = [name.strip() for name in word.split(",")]
    if wrong := [name for name in named if name not in FILES]:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(FILES)}, got {wrong[0]!r}")
    return [name for name in FILES if name in named]


def _size(word: str) -> Size:
    sides = word.split(",")
    if len(sides) != 2 or not all(side.strip().isdecimal() and 1 <= int(side) <= 16384 for side in sides):
        raise argparse.ArgumentTypeError(f"must be two whole numbers such as 360,480, got {word!r}")
    return int(sides[0]), int(sides[1])


def export(options: list[str]) -> None:
    """Write the files, compare them with the net, and keep those that give the same.

    Raises:
        ConfigError: An option, or a package that is not installed.
        ExportError: A file could not be written, or does not give the same; the others are kept.
    """
    asked, others = parser().parse_known_args(options)
    _check_spelling(others)
    _check_installed(asked.format)
    configuration = _configuration(with_config_of_run("export", others))
    checkpoint = restore(configuration)
    task = configuration.model
    how = {name: task.hparams[name] for name in ("activation", "threshold")}
    how |= {"input": asked.input, "output": asked.output, "divisor": task.hparams["size_divisor"]}
    deployed = Deployed(task.net, task._mean, task._std, **how)
    about = trained(configuration, checkpoint) | interface(deployed, task.class_names, asked.size)
    run = start_run(configuration, options, "export", checkpoint)
    faults: Faults = {}
    with _terminable(), tempfile.TemporaryDirectory(prefix=".export-", dir=run) as folder:
        part = Path(folder)
        (part / "model.json").write_text(as_text(about), encoding="utf-8")
        files = _written(deployed, as_text(about), asked.format, asked.size, part, faults)
        measured = _measured(files, deployed, (asked.size,) if asked.size else SIZES, faults)
        about["files"] = {name: figures(part / name, measured[name]) for name in files if name not in faults}
        if about["files"]:
            (part / "model.json").write_text(as_text(about), encoding="utf-8")
            for name in (*about["files"], "model.json"):
                (part / name).replace(run / name)
    _refuse(faults)
    print(f"run: {run}; model.json says what the files take and give")


def _check_spelling(others: Sequence[str]) -> None:
    """The configuration's parser, which gets the other options, does not know these."""
    for word in (word.partition("=")[0] for word in others if word.startswith("--")):
        if close := get_close_matches(word, ("--format", "--input", "--output", "--size"), n=1, cutoff=0.7):
            raise ConfigError(f"no option {word}. Did you mean {close[0]}?")


def _configuration(options: list[str]) -> Configuration:
    try:
        return Configuration("export", options)
    except DataError as error:
        raise DataError(
            f"{error} Of the data an export needs the names of the classes alone: where the data are not at hand, add "
            "--data.classes [NAME,NAME,...]."
        ) from error


def _check_installed(formats: Sequence[Format]) -> None:
    for chosen in formats:
        if missing := [package for package in _NEEDS[chosen] if find_spec(package) is None]:
            raise ConfigError(
                f"Expected {', '.join(_NEEDS[chosen])} to be installed for `--format {chosen}`, got no "
                f"{', no '.join(missing)}. Install segfocal with its extra, `pip install -e '.[export]'` in its "
                "folder, or choose another --format."
            )


def _written(
    deployed: Deployed, about: str, formats: Sequence[Format], size: Size | None, part: Path, faults: Faults
) -> dict[str, Run]:
    """Write files into a folder and open them again; what goes wrong becomes the fault of its file."""
    opened: dict[str, Run] = {}
    program = None
    for chosen in formats:
        name, start = FILES[chosen], time.monotonic()
        print(f"writing {name} ...", flush=True)
        with _noting(faults, name):
            if chosen == "safetensors":
                (part / name).write_bytes(safetensors_bytes(deployed.net))
                opened[name] = open_weights(part, deployed)
            else:
                program = program or trace(deployed, size)
                content = torch_bytes(program, about) if chosen == "torch" else onnx_bytes(program, about, size)
                (part / name).write_bytes(content)
                opened[name] = open_torch(part / name) if chosen == "torch" else open_onnx(part / name)
            opset = f", opset {OPSET}" if chosen == "onnx" else ""
            megabytes = (part / name).stat().st_size / 1e6
            print(f"  {megabytes:.1f} MB{opset}, {time.monotonic() - start:.0f} s", flush=True)
    return opened


def _measured(
    files: dict[str, Run], deployed: Deployed, sizes: Sequence[Size], faults: Faults
) -> dict[str, dict[str, Difference]]:
    """Compare files with the net, size by size, and print how far they are apart."""
    measured: dict[str, dict[str, Difference]] = {name: {} for name in files}
    if files:
        print(f"largest difference of the {deployed.output} from those of the checkpoint's net, computed in float64")
    for size in sizes if files else ():
        shown = f"{size[0]} x {size[1]}"
        try:
            cases = expected(deployed, size)
        except ExportError:
            raise
        except (RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
            raise ExportError(
                f"Expected the net to take images of any size, got an error for {shown}: {str(error)[:300]} Give the "
                "size that it takes, --size H,W."
            ) from error
        print(f"  {shown:<10} {'the net in float32':<20} {max(case.rounding for case in cases):.1e}", flush=True)
        for name in [name for name in files if name not in faults]:
            with _noting(faults, name):
                measured[name][shown] = found = compare(files[name], deployed, cases)
                print(f"  {shown:<10} {name:<20} {_told(found, deployed.output)}", flush=True)
                if not found.fits:
                    raise ExportError(_refusal(found, shown))
    return measured


def _told(found: Difference, output: Output) -> str:
    if output != "labels":
        return f"{found.largest:.1e}"
    return f"{100 * found.share:.4f} % of the pixels, at most {found.largest:.1e} from a tie" if found.share else "none"


def _refusal(found: Difference, shown: str) -> str:
    if found.share:
        got = f"{100 * found.share:.3g} % other labels, {found.largest:.2g} from a tie"
    else:
        got = f"a difference of {found.largest:.2g}"
    return (
        f"Expected the results of the checkpoint's net within {found.allowed:.2g}, got {got}, at {shown}. Try a fixed "
        "size (--size H,W), or another --format."
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """Meanwhile a SIGTERM is raised, so that what is half done is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SIGTERMException

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


@contextmanager
def _noting(faults: Faults, name: str) -> Iterator[None]:
    """Note what is raised as the fault of a file, but for a full disk or memory."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the runtimes raise errors of their own
        faults[name] = error


def _refuse(faults: Faults) -> None:
    """Tell which files there are not, and why.

    Raises:
        ExportError: If there are such files.
    """
    told: dict[str, list[str]] = {}  # text -> files
    for name, error in faults.items():
        text = str(error)
        if not isinstance(error, ExportError):
            reason = " ".join(text.split()) or type(error).__name__
            text = f"It does not run: {reason:.300} Try a fixed size (--size H,W), or another --format."
        told.setdefault(text, []).append(name)
    if told:
        text = "\n".join(f"{' and '.join(names)} not written. {text}" for text, names in told.items())
        raise ExportError(text) from next(iter(faults.values()))
