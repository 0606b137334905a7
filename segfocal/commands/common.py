"""What commands share that have a net or data to configure."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segfocal import __version__
from segfocal.checkpoints import load_checkpoint, net_state
from segfocal.configuration import Configuration, config_files
from segfocal.data.loading import LabelledImages
from segfocal.data.palettes import default_palette
from segfocal.evaluation.gallery import Gallery, Kept, write_gallery
from segfocal.evaluation.report import show, versions
from segfocal.evaluation.samples import LabelPainter
from segfocal.evaluation.tally import Tally
from segfocal.finding import find_checkpoint, run_of
from segfocal.processes import rank, tell, told
from segfocal.runs import fits_behind, new_run
from segfocal.training.counting import CountImages


def start_run(configuration: Configuration, options: list[str], command: str, checkpoint: Path | None) -> Path:
    """Make the run's directory, with the configuration in it and how it was called."""
    run = shared_run(Path(configuration.config.runs), configuration.config.name, command)
    head = [f"segfocal {__version__}", f"segfocal {command} {shlex.join(options)}"]
    head += [f"from {checkpoint}"] if checkpoint else []
    text = "".join(f"# {line}\n" for line in head) + configuration.yaml()
    if rank() == 0:
        (run / "config.yaml").write_text(text, encoding="utf-8")
    return run


def shared_run(runs: Path, name: str, command: str) -> Path:
    """The new directory of a command, which the first of its processes makes."""
    if rank():
        return told(runs / name)
    run = new_run(runs, name, command)
    tell(run)
    return run


def load(configuration: Configuration, path: Path) -> None:
    """Load a checkpoint's weights into the net, and say which options it was trained with that are others now."""
    task, checkpoint = configuration.model, load_checkpoint(path)
    task.net.load_state_dict(net_state(checkpoint, path, task.net, task.class_names))
    saved = checkpoint["hyper_parameters"]
    for name in sorted(saved.keys() & task.hparams.keys()):
        _tell_difference(f"model.{name}", task.hparams[name], saved[name])


def _tell_difference(name: str, now: object, saved: object) -> None:
    if isinstance(now, dict) and isinstance(saved, dict):  # options of an option
        for key in sorted(now.keys() & saved.keys()):
            _tell_difference(f"{name}.{key}", now[key], saved[key])
    elif now != saved:
        print(f"{name}: {now} as configured now, {saved} in the checkpoint")


def restore(configuration: Configuration) -> Path:
    """Load the weights that --ckpt_path means, and return the checkpoint's path."""
    config = configuration.config
    path = find_checkpoint(config.ckpt_path, Path(config.runs), config.name, "best")
    load(configuration, path)
    print(f"checkpoint: {path}")
    return path


def images_of(configuration: Configuration) -> CountImages:
    """Counts the images that the trainer scores, each by itself."""
    task = configuration.model
    return CountImages(task.class_names, task.hparams["ignore_index"])


def report(
    configuration: Configuration,
    run: Path,
    command: str,
    split: str,
    checkpoint: str,
    images: Tally,
    gallery: Gallery,
) -> None:
    """Print the table of a split's scores, and write them and report.html into the run's directory.

    The first process does.
    """
    if rank():
        return
    scores = configuration.model.scores.get(split)
    if scores is None:
        print(f"{split} was not scored: no batch of it was asked for (trainer.limit_{split}_batches).")
        return
    images.probabilities = configuration.model.probabilities.get(split)
    about = {"segfocal": __version__, "command": command, "split": split, "checkpoint": checkpoint}
    show(images, split, run, about | {"versions": versions()})
    data, names = configuration.datamodule, configuration.model.class_names
    known = data.datasets[split].samples if isinstance(data, LabelledImages) else []
    sources = {sample.name: sample for sample in known}

    def image_of(kept: Kept) -> NDArray[Any] | None:
        """As it is stored, which may be larger than what the net saw."""
        return sources[kept.name].image() if kept.name in sources else kept.image

    from segfocal.evaluation.page import write_report  # with matplotlib, which a mistake need not wait for

    palette = getattr(data, "palette", None) or default_palette(len(names))
    painter = LabelPainter(names, palette, configuration.model.hparams["ignore_index"])
    write_gallery(gallery, run, painter, image_of)
    print(f"report: {write_report(run, fits_behind(run))}")


def with_config_of_run(command: str, options: list[str]) -> list[str]:
    """Without --config, a checkpoint's run says how its net was built: take that run's config.yaml."""
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--ckpt_path", "--name", "--runs"):
        words.add_argument(option)
    known, _ = words.parse_known_args(options)
    # A command that needs a checkpoint says so first: what else is missing comes of that.
    if config_files(options) or (known.ckpt_path is None and command == "fit"):
        return options
    runs = Path(known.runs or "runs")
    run = run_of(find_checkpoint(known.ckpt_path, runs, known.name, "last" if command == "fit" else "best"))
    return options if run is None else ["--config", str(run / "config.yaml"), *options]
