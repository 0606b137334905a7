"""The command line, see HELP. Nothing but wiring.

Heavy imports are inside the functions, so that `segfocal --help` answers at once.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

COMMANDS = ("fit", "validate", "test", "predict", "score", "compare", "report", "check", "stats", "preview", "export")
LIGHT = ("score", "compare", "report")  # have options of their own, and need no torch
HELP = """\
segfocal {version}: train semantic segmentation on imbalanced images

usage: segfocal COMMAND [--config FILE.yaml] [--SECTION.OPTION VALUE ...]

commands
  fit        train, then score the best checkpoint on the validation split; --find_lr suggests a learning rate instead
  validate   score a checkpoint on the validation split
  test       score a checkpoint on the test split
  predict    write label masks and overlays of images: segfocal predict --ckpt_path RUN photos "more/*.jpg" list.txt
  score      score predicted masks, whoever made them, against true ones: --pred FOLDER --target FOLDER; needs no net
  compare    two scored runs: per class, what got better, and whether it may be chance
  report     make report.html, which fit, validate, test and score write, again: segfocal report runs/NAME/001-test
  check      decode every image and mask of the data, and list everything that is wrong; --json FILE writes it too
  stats      count the classes of the training masks: shares, the alpha of each method, mean and std; a bar picture
  preview    draw some training images as they are stored and as the first epochs see them; --count N, --draws N
  export     a checkpoint's net as ONNX, torch.export and safetensors, each compared with the net; --format onnx,torch,
             --input uint8 | normalised, --output labels | probabilities | logits, --size H,W

predict takes images, folders, patterns in quotes and .txt files that list images; without any, the test split. It
writes palette PNGs of class indices at the image's size, GeoTIFFs of TIFFs that have a georeference, and with
--probabilities an .npz per image: `probabilities` (classes, height, width), float16. TIFFs above 40 megapixels are read
and written by windows. Broken images are told at the end, exit code 3. Ended before its end, the same command goes on.

options of every command but score, compare and report, which have their own
  --config FILE        a YAML file, the same for every command; of several, later ones win
  --ckpt_path WHICH    best | last | FILE | runs/NAME/000; fit resumes from it, the others need it
  --name NAME          results go to RUNS/NAME/000, 001-test, ...; default: the YAML file's name
  --runs FOLDER        the folder of all runs; default: runs
  --data.OPTION        root, classes, batch_size, size, crop, augment, cache, images, ...
  --model.OPTION       net, loss, activation, lr, schedule, freeze_encoder, ema_decay, compile, inference.window, ...
  --trainer.OPTION     max_epochs, precision, devices, callbacks, ...: every option of Lightning's Trainer
  --print_config       print the configuration, complete and commented, and stop
  --help               after a command: every option, its meaning and its value

--data.augment: one of these, or a list of them and of albumentations transforms
  light      mirrored left to right, a little brightness, contrast, hue
  street     light, stronger, and scale, shadows, blur, noise
  aerial     mirrored both ways, quarter turns, small rotations, scale, colour, blur, noise
  medical    mirrored both ways, small rotations, scale, elastic and grid deformation, gamma, contrast, noise

examples
  segfocal fit --config configs/quickstart.yaml
  segfocal fit --config configs/camvid_cpu.yaml --data.root camvid --model.loss.gamma 1
  segfocal test --ckpt_path runs/quickstart/000
  segfocal predict --ckpt_path runs/camvid_cpu/000 photos --model.inference.flips "[left_right]"
  segfocal fit --print_config > my.yaml
  segfocal export --ckpt_path runs/camvid_cpu/000 --format onnx
  segfocal check --data.root my_data
  segfocal stats --config configs/quickstart.yaml
  segfocal preview --data.root my_data --data.augment street

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
        processes = sys.modules.get("segfocal.processes")  # not there if the import of a library has failed
        number = processes.rank() if processes else 0
        who = f", process {number}" if number else ""
        print(f"segfocal {command}{who}: {message}", file=sys.stderr)
        return code


def _run(command: str, options: list[str]) -> int:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what it says of a broken file we say, with the file's name
    if command in LIGHT:
        own = import_module(f"segfocal.commands.{command}")
        if {"-h", "--help"} & set(options):
            own.parser().print_help()
        else:
            getattr(own, command)(options)
        return 0
    # Threads that wait sleep instead of spinning: as fast alone, and twice as fast when the cores are shared (measured
    # with two fits on two cores). OpenMP reads it when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _interruptible():
        from segfocal.configuration import template
        from segfocal.processes import leave, rank
    _quiet()
    if rank():
        _silence()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that a class_path may name a file of the current folder

    if command == "predict":
        from segfocal.commands.predict import with_words

        options = with_words(options)
    if {"-h", "--help"} & set(options):
        words = [word for word in options if word not in ("-h", "--help", "--probabilities")]
        images = " [--probabilities] [IMAGES ...]" if command == "predict" else ""
        print(f"usage: segfocal {command} [--config FILE.yaml] [--SECTION.OPTION VALUE ...]{images}\n")
        if command == "export":
            from segfocal.commands.export import parser

            print(parser().format_help())
            _, words = parser().parse_known_args(words)
        print(f"Every option, as YAML; on the command line such as --model.lr 0.01.\n\n{template(words)}")
        return 0
    if "--print_config" in options:
        print(template([word for word in options if word not in ("--print_config", "--probabilities")]), end="")
        return 0
    match command:
        case "fit":
            from segfocal.commands.fit import fit

            fit(options)
        case "validate" | "test":
            from segfocal.commands.evaluate import evaluate

            evaluate(command, options)
        case "predict":
            from segfocal.commands.predict import predict

            predict(options)
        case "stats":
            from segfocal.commands.stats import stats

            stats(options)
        case "preview":
            from segfocal.commands.preview import preview

            preview(options)
        case "export":
            from segfocal.commands.export import export

            export(options)
        case _:
            from segfocal.commands.look import check

            return check(options)
    leave()
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


def _quiet() -> None:
    """Lightning's adverts and advice are not about what the user typed."""
    import logging

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # CUDA's compiler without a GPU
    for text in (
        "does not have many workers",
        "number of training batches",
        "is not empty",  # the run directory, which is made just before
        "dirpath has changed",  # a resumed run writes into a directory of its own
        "Dump of a value that does not round-trip",  # a tuple, which is read again as a list
        "isinstance.treespec",  # Lightning 2.6 on torch 2.14
    ):
        warnings.filterwarnings("ignore", f".*{text}")


def _silence() -> None:
    """Of several processes the first one speaks; of the others errors are heard."""
    import logging

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    logging.getLogger("segfocal").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


_NO_MEMORY = ("out of memory", "allocate memory", "Insufficient memory")  # PyTorch's, Linux's, OpenCV's
_NO_ROOM = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)


def _complaint(error: BaseException) -> tuple[int | None, str]:
    """Exit code and message for an error that is the user's to mend; no code for one that is ours."""
    message = str(error)
    if "torchvision::" in message:  # before the imports below, which fail in the same way
        return 2, f"torch and torchvision do not fit together ({message}). Install both from the same place, at once."
    from segfocal.data.files import DataError
    from segfocal.mistakes import ConfigError

    match error:  # likewise: nothing heavy is imported to say this
        case ConfigError():
            return 2, message
        case DataError():
            return 3, message
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    from segfocal.checkpoints import CheckpointError
    from segfocal.task import NonFiniteLossError

    match error:
        case MisconfigurationException():
            return 2, message
        case CheckpointError():
            return 4, message
        case NonFiniteLossError():
            return 5, message
        case SIGTERMException():
            return 143, "terminated."
        case KeyboardInterrupt() | SystemExit(__context__=KeyboardInterrupt()):  # Lightning exits on an interrupt
            return 130, "interrupted."
        case OSError() if error.errno in _NO_ROOM:
            where = f": {error.filename}" if error.filename else ""
            return 6, f"{error.strerror}{where}. Free some space, or write elsewhere with --runs FOLDER."
    if "DataLoader worker" in message and "Terminated" in message:  # the signal reached the workers first
        return 143, "terminated."
    if "DataLoader worker" in message or "DataLoader timed out" in message:
        return _lost_worker(message)
    if isinstance(error, MemoryError) or any(words in message for words in _NO_MEMORY):
        return (
            6,
            f"{message.splitlines()[0]} Lower data.batch_size or data.size, or raise trainer.accumulate_grad_batches.",
        )
    if isinstance(error, ValueError | RuntimeError) and _raised_in(error, "segfocal", "pytorch_lightning"):
        return 2, message
    return None, message


def _lost_worker(message: str) -> tuple[int, str]:
    from segfocal.data.workers import PATIENCE, read_by_workers

    names = read_by_workers(message)
    if "timed out" in message:
        return 3, f"no batch came for {PATIENCE:.0f} seconds. Being read: {names}. Look at these files and their disk."
    if "Segmentation fault" in message or "Bus error" in message:
        return 3, f"a worker crashed while it read {names}. Look at this file; --data.num_workers 0 shows more."
    return 6, f"a worker was killed while it read {names}, mostly for want of memory. Lower data.num_workers."


def _raised_in(error: BaseException, *packages: str) -> bool:
    """Whether a check of one of these packages itself raised the error: its message then says what to do."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] in packages
