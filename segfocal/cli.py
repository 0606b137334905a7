"""The command line: `segfocal fit | validate | test | predict | check`. Nothing but wiring.

Heavy imports are inside the functions, so that `segfocal --help` answers at once.
"""

import contextlib
import errno
import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segfocal.configuration import Configuration

COMMANDS = ("fit", "validate", "test", "predict", "check")
HELP = """\
segfocal {version}: train semantic segmentation on imbalanced images

usage: segfocal COMMAND [--config FILE.yaml] [--SECTION.OPTION VALUE ...]

commands
  fit        train, then score the best checkpoint on the validation split
  validate   score a checkpoint on the validation split
  test       score a checkpoint on the test split
  predict    write label masks and overlays
  check      decode every image and mask of the data, and list everything that is wrong; --json FILE writes it too

options of every command
  --config FILE        a YAML file, the same for every command; of several, later ones win
  --ckpt_path WHICH    best | last | FILE | runs/NAME/000; fit resumes from it, the others need it
  --name NAME          results go to RUNS/NAME/000, 001-test, ...; default: the YAML file's name
  --runs FOLDER        the folder of all runs; default: runs
  --data.OPTION        root, batch_size, size, augment, images, ...
  --model.OPTION       net, loss, activation, lr, ...
  --trainer.OPTION     max_epochs, precision, accelerator, ...: every option of Lightning's Trainer
  --print_config       print the configuration, complete and commented, and stop
  --help               after a command: every option, its meaning and its value

examples
  segfocal fit --config configs/quickstart.yaml
  segfocal fit --config configs/camvid_cpu.yaml --data.root camvid --model.loss.gamma 1
  segfocal test --ckpt_path runs/quickstart/000
  segfocal predict --ckpt_path runs/camvid_cpu/000 --data.images photos
  segfocal fit --print_config > my.yaml
  segfocal check --data.root my_data

exit codes: 0 done, 2 configuration, 3 data, 4 checkpoint, 5 loss not finite, 6 memory or disk,
130 interrupted, 143 terminated;
SEGFOCAL_TRACEBACK=1 in the environment shows where an error came from
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        args: The words after `segfocal`; None: those of the process.

    Example:
        >>> main(["--version"])
        segfocal 0.1.0
        0
    """
    from segfocal import __version__

    command, *options = list(sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP.format(version=__version__), end="")
        return 0
    if command == "--version":
        print(f"segfocal {__version__}")
        return 0
    if command not in COMMANDS:
        close = get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(COMMANDS)}."
        print(f"segfocal: no command {command!r}.{hint}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows question marks
    try:
        return _run(command, options)
    except BrokenPipeError:  # `segfocal fit --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code, message = _complaint(error)
        if code is None or os.environ.get("SEGFOCAL_TRACEBACK"):
            raise
        print(f"segfocal {command}: {message}", file=sys.stderr)
        return code


def _run(command: str, options: list[str]) -> int:
    # Threads that wait sleep instead of spinning: as fast alone, and twice as fast when the cores are shared (measured
    # with two fits on two cores). OpenMP reads it when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _interruptible():
        from segfocal.configuration import Configuration, template
    _quiet()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that a class_path may name a file of the current folder

    if {"-h", "--help"} & set(options):
        words = [word for word in options if word not in ("-h", "--help")]
        print(f"usage: segfocal {command} [--config FILE.yaml] [--SECTION.OPTION VALUE ...]\n")
        print(f"Every option, as YAML; on the command line such as --model.lr 0.01.\n\n{template(words)}")
        return 0
    if "--print_config" in options:
        print(template([word for word in options if word != "--print_config"]), end="")
        return 0
    if command == "check":
        return _check(options)
    options = _with_config_of_run(command, options)
    configuration = Configuration(command, options)
    if command == "fit":
        _fit(configuration, options)
    elif command == "predict":
        _predict(configuration, options)
    else:
        _evaluate(configuration, options, command)
    return 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """While the libraries are imported, an interrupt ends the process: raised in their midst it turns into nonsense."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _fit(configuration: "Configuration", options: list[str]) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint

    from segfocal.checkpoints import SaveOnTermination
    from segfocal.mistakes import ConfigError
    from segfocal.task import NonFiniteLossError

    config, task, data = configuration.config, configuration.model, configuration.datamodule
    resumed, started = (None, 0) if config.ckpt_path is None else _resume(configuration)
    data.setup("fit")
    run = _start_run(configuration, options, "fit", resumed)
    best = ModelCheckpoint(run / "checkpoints", "best", monitor="val/miou", mode="max", enable_version_counter=False)
    # Not tied to a score: what was trained is kept even if no validation ever takes place.
    last = ModelCheckpoint(run / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False)
    ending = SaveOnTermination(run / "checkpoints" / "last.ckpt")
    kept = [] if config.trainer.enable_checkpointing is False else [best, last, ending]
    trainer = configuration.build_trainer(run, kept)
    size = sum(parameter.numel() for parameter in task.net.parameters()) / 1e6
    print(f"training: {len(task.class_names)} classes, {size:.2f} M parameters; {run}", flush=True)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        saved = ending.path.is_file()
        print(f"run: {run}; " + (f"--ckpt_path {run} goes on from it" if saved else "no epoch was finished"))
        raise
    except NonFiniteLossError as error:
        (run / "non_finite_batch.txt").write_text("".join(f"{name}\n" for name in error.names), encoding="utf-8")
        raise
    if trainer.global_step == started:
        raise ConfigError(f"Nothing was trained. Look at trainer.max_epochs, max_steps and limit_train_batches; {run}.")
    if chosen := best.best_model_path or last.best_model_path:
        _load(configuration, Path(chosen))
        task.scores.clear()
        trainer.validate(task, datamodule=data, verbose=False)
        _report(configuration, run, "fit", "val", chosen)
    print(f"run: {run}")


def _check(options: list[str]) -> int:
    """Inspect the data; 3 if something is wrong with it."""
    import argparse
    import json
    import time

    from segfocal.configuration import NET_AND_LOSS, Configuration, config_files
    from segfocal.mistakes import ConfigError

    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--json")
    known, options = words.parse_known_args(options)
    if not config_files(options):
        options = [
            *NET_AND_LOSS,
            *([] if "--data" in options else ["--data=segfocal.SegmentationDataModule"]),
            *options,
        ]
    data = Configuration("check", options, build="data").datamodule
    if not hasattr(data, "inspect"):
        raise ConfigError(f"check looks at images and masks in files, which {type(data).__name__} has not.")
    start = time.monotonic()
    found = data.inspect()
    print(found.text())
    seconds, images = time.monotonic() - start, sum(found.images.values())
    print(f"{found.count or 'no'} fault{'' if found.count == 1 else 's'} in {images} images of {found.where}", end="")
    print(f"; {seconds:.1f} s, {images / seconds:.0f} images/s")
    if known.json is not None:
        Path(known.json).write_text(json.dumps(vars(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 3 if found.count else 0


def _resume(configuration: "Configuration") -> tuple[Path, int]:
    """The checkpoint to go on from, and its step."""
    from segfocal.checkpoints import CheckpointError, load_checkpoint
    from segfocal.data.loading import LabelledImages
    from segfocal.mistakes import ConfigError
    from segfocal.runs import find_checkpoint

    config = configuration.config
    path = find_checkpoint(config.ckpt_path, Path(config.runs), config.name, "last")
    checkpoint = load_checkpoint(path)
    if not {"epoch", "global_step", "optimizer_states", "loops"} <= checkpoint.keys():
        raise CheckpointError(f"{path} holds weights only, no state of training. Resume from a last.ckpt or best.ckpt.")
    _load(configuration, path)
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    done, planned = checkpoint["epoch"] + int(batches["is_last_batch"]), config.trainer.max_epochs
    if planned is not None and 0 <= planned <= done:
        raise ConfigError(f"{path} has {done} epochs behind it, trainer.max_epochs is {planned}. Raise it to go on.")
    within = "" if batches["is_last_batch"] else f" and {batches['current']['ready']} batches"
    if isinstance(configuration.datamodule, LabelledImages):  # which goes on with the next batch
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
    print(f"resumed: {path}, after epoch {done}{within}")
    return path, int(checkpoint["global_step"])


def _evaluate(configuration: "Configuration", options: list[str], command: str) -> None:
    checkpoint = _restore(configuration)
    configuration.datamodule.setup(command)
    run = _start_run(configuration, options, command, checkpoint)
    trainer = configuration.build_trainer(run, [], logged=False)
    score, split = (trainer.test, "test") if command == "test" else (trainer.validate, "val")
    score(configuration.model, datamodule=configuration.datamodule, verbose=False)
    _report(configuration, run, command, split, str(checkpoint))
    print(f"run: {run}")


def _predict(configuration: "Configuration", options: list[str]) -> None:
    from segfocal.evaluation.pictures import PredictionWriter

    task, data = configuration.model, configuration.datamodule
    checkpoint = _restore(configuration)
    data.setup("predict")
    run = _start_run(configuration, options, "predict", checkpoint)
    writer = PredictionWriter(run, task.class_names, getattr(data, "palette", []))
    trainer = configuration.build_trainer(run, [writer], logged=False)
    trainer.predict(task, datamodule=data, return_predictions=False)
    print(f"{writer.count} images: masks in {run / 'masks'}, overlays in {run / 'overlays'}")


def _restore(configuration: "Configuration") -> Path:
    """Load the weights that --ckpt_path means, and return the checkpoint's path."""
    from segfocal.runs import find_checkpoint

    config = configuration.config
    path = find_checkpoint(config.ckpt_path, Path(config.runs), config.name, "best")
    _load(configuration, path)
    print(f"checkpoint: {path}")
    return path


def _load(configuration: "Configuration", path: Path) -> None:
    """Load a checkpoint's weights into the net, and say which options it was trained with that are others now."""
    from segfocal.checkpoints import load_checkpoint, net_state

    task, checkpoint = configuration.model, load_checkpoint(path)
    task.net.load_state_dict(net_state(checkpoint, path, task.net, task.class_names))
    saved = checkpoint["hyper_parameters"]
    for name in sorted(saved.keys() & task.hparams.keys()):
        if saved[name] != task.hparams[name]:
            print(f"model.{name}: {task.hparams[name]} as configured now, {saved[name]} in the checkpoint")


def _with_config_of_run(command: str, options: list[str]) -> list[str]:
    """Without --config, a checkpoint's run says how its net was built: take that run's config.yaml."""
    import argparse

    from segfocal.configuration import config_files
    from segfocal.runs import find_checkpoint, run_of

    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--ckpt_path", "--name", "--runs"):
        words.add_argument(option)
    known, _ = words.parse_known_args(options)
    if config_files(options) or known.ckpt_path is None:
        return options
    runs = Path(known.runs or "runs")
    run = run_of(find_checkpoint(known.ckpt_path, runs, known.name, "last" if command == "fit" else "best"))
    return options if run is None else ["--config", str(run / "config.yaml"), *options]


def _start_run(configuration: "Configuration", options: list[str], command: str, checkpoint: Path | None) -> Path:
    from segfocal import __version__
    from segfocal.runs import new_run

    run = new_run(Path(configuration.config.runs), configuration.config.name, command)
    head = [f"segfocal {__version__}", f"segfocal {command} {shlex.join(options)}"]
    head += [f"from {checkpoint}"] if checkpoint else []
    (run / "config.yaml").write_text("".join(f"# {line}\n" for line in head) + configuration.yaml(), encoding="utf-8")
    return run


def _report(configuration: "Configuration", run: Path, command: str, split: str, checkpoint: str) -> None:
    from rich.console import Console

    from segfocal import __version__
    from segfocal.evaluation.report import table, write

    scores = configuration.model.scores.get(split)
    if scores is None:
        print(f"{split} was not scored: no batch of it was asked for (trainer.limit_{split}_batches).")
        return
    console = Console()
    console.print()
    console.print(table(scores, f"{split}: mIoU {scores.miou:.3f}", bars=console.width >= 78))
    write(scores, run, {"segfocal": __version__, "command": command, "split": split, "checkpoint": checkpoint})
    print(f"scores: {run / 'metrics.json'}, {run / 'per_class.csv'}")


def _quiet() -> None:
    """Lightning's adverts and advice are not about what the user typed."""
    import logging

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "does not have many workers",
        "number of training batches",
        "is not empty",  # the run directory, which is made just before
        "dirpath has changed",  # a resumed run writes into a directory of its own
        "isinstance.treespec",  # Lightning 2.6 on torch 2.14
    ):
        warnings.filterwarnings("ignore", f".*{text}")


def _complaint(error: BaseException) -> tuple[int | None, str]:
    """Exit code and message for an error that is the user's to mend; no code for one that is ours."""
    message = str(error)
    if "torchvision::" in message:  # before the imports below, which fail in the same way
        return 2, f"torch and torchvision do not fit together ({message}). Install both from the same place, at once."
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    from segfocal.checkpoints import CheckpointError
    from segfocal.data import DataError
    from segfocal.mistakes import ConfigError
    from segfocal.task import NonFiniteLossError

    match error:
        case ConfigError() | MisconfigurationException():
            return 2, message
        case DataError():
            return 3, message
        case CheckpointError():
            return 4, message
        case NonFiniteLossError():
            return 5, message
        case SIGTERMException():
            return 143, "terminated."
        case KeyboardInterrupt() | SystemExit(__context__=KeyboardInterrupt()):  # Lightning exits on an interrupt
            return 130, "interrupted."
        case OSError() if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT):
            return 6, f"{message}. Free some space, or write elsewhere with --runs FOLDER."
    if "DataLoader worker" in message and "Terminated" in message:  # the signal reached the workers first
        return 143, "terminated."
    if "DataLoader worker" in message and "killed" in message:
        return 6, "a worker that reads the data was killed, mostly for want of memory. Lower data.num_workers."
    if isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message:
        return (
            6,
            f"{message.splitlines()[0]} Lower data.batch_size or data.size, or raise trainer.accumulate_grad_batches.",
        )
    if isinstance(error, ValueError | RuntimeError) and _raised_in(error, "segfocal", "pytorch_lightning"):
        return 2, message
    return None, message


def _raised_in(error: BaseException, *packages: str) -> bool:
    """Whether a check of one of these packages itself raised the error: its message then says what to do."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] in packages
