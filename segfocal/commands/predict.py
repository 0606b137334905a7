"""`segfocal predict`."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from pytorch_lightning import Trainer

from segfocal.checkpoints import some
from segfocal.commands.common import load, restore, start_run, with_config_of_run
from segfocal.configuration import Configuration
from segfocal.data.files import DataError, fault_report
from segfocal.data.loading import LabelledImages
from segfocal.data.samples import FileSample
from segfocal.data.unlabelled import Unlabelled
from segfocal.mistakes import ConfigError
from segfocal.prediction.large import WINDOW, predict_large
from segfocal.prediction.outputs import Outputs
from segfocal.prediction.unfinished import Unfinished
from segfocal.prediction.writer import PredictionWriter
from segfocal.processes import in_pieces, rank, tell
from segfocal.runs import home_of

PROBABILITIES = "--probabilities"


def predict(options: list[str]) -> None:
    """Write label masks and overlays; what an earlier, ended call of the same command wrote of the same images stays.

    Raises:
        DataError: Images that cannot be read, once all others are written.
    """
    probabilities = PROBABILITIES in options
    options = with_config_of_run("predict", [word for word in options if word != PROBABILITIES])
    configuration = Configuration("predict", options)
    task, data = configuration.model, configuration.datamodule
    checkpoint = restore(configuration)
    found = data.unlabelled() if isinstance(data, LabelledImages) else None
    names = [] if found is None else found.names
    run, unfinished = _run(configuration, options, checkpoint, probabilities)
    with nullcontext() if unfinished is None else closing(unfinished):
        palette = getattr(data, "palette", [])
        writer = PredictionWriter(Outputs(run, task.class_names, palette, names, probabilities=probabilities))
        before = _predict(configuration, checkpoint, found, run, writer)
        if unfinished is None:
            return
        _report(run, writer, before)
        unfinished.finish()
    if writer.faults:
        where = f"{len(names)} images, of which the others are written; listed in {run / 'broken.txt'}"
        raise fault_report(list(writer.faults.values()), where)


def _predict(
    configuration: Configuration, checkpoint: Path, found: Unlabelled | None, run: Path, writer: PredictionWriter
) -> int:
    """Write what is not written yet, and return how many images were."""
    task, data = configuration.model, configuration.datamodule
    trainer = configuration.build_trainer(run, [writer], logged=False)
    if found is None:
        trainer.predict(task, datamodule=data, return_predictions=False)
        return 0
    assert isinstance(data, LabelledImages), "others have not been asked"
    before, left = _left(found, writer.outputs, planes=task.overlapping)
    if before:
        print(f"{before} of {len(found.names)} images are there already", flush=True)
    if left.samples:
        data.predict_on(left.samples, skip_broken=True)
        trainer.predict(task, datamodule=data, return_predictions=False)
    writer.faults |= found.faults
    if rank() == 0:
        _predict_large(configuration, checkpoint, trainer, left.large, writer)
    return before


def with_words(options: Sequence[str]) -> list[str]:
    """The words that belong to no option are images: they become one.

    >>> with_words(["--ckpt_path", "runs/a/000", "photos", "--model.threshold=0.3", "b.jpg"])
    ['--ckpt_path', 'runs/a/000', '--model.threshold=0.3', '--data.images=["photos", "b.jpg"]']
    """
    kept, images, words = [], [], iter(options)
    for word in words:
        if not word.startswith("-"):
            images.append(word)
            continue
        kept.append(word)
        if "=" not in word and word not in (PROBABILITIES, "--print_config", "--help", "-h"):
            kept += [value for value in [next(words, None)] if value is not None]
    if images and any(word.partition("=")[0] == "--data.images" for word in kept):
        raise ConfigError(
            f"Expected the images as words or as --data.images, got both, the words {some(images)}. Leave one out."
        )
    return [*kept, f"--data.images={json.dumps(images)}"] if images else kept


def _run(
    configuration: Configuration, options: list[str], checkpoint: Path, probabilities: bool
) -> tuple[Path, Unfinished | None]:
    """The run directory: that of the same command if it was ended before its end, else a new one."""
    if rank():
        return start_run(configuration, options, "predict", checkpoint), None
    state = checkpoint.stat()
    about = {
        "configuration": hashlib.sha256(configuration.yaml().encode(errors="surrogateescape")).hexdigest(),
        "checkpoint": [str(checkpoint.resolve()), state.st_size, state.st_mtime_ns],
        "folder": str(Path.cwd()),  # what relative paths start from
        "probabilities": probabilities,
    }
    home = home_of(Path(configuration.config.runs), configuration.config.name)
    unfinished = Unfinished.take_up(home, about)
    if unfinished is None:
        run = start_run(configuration, options, "predict", checkpoint)
        return run, Unfinished.begin(run, about)
    tell(unfinished.run)
    print(f"goes on in {unfinished.run}, which the same command has not finished")
    return unfinished.run, unfinished


def _left(found: Unlabelled, outputs: Outputs, *, planes: bool) -> tuple[int, Unlabelled]:
    """How many images are predicted already, as they are now, and the others."""
    samples = [s for s in found.samples if not outputs.done(s.name, s.path, planes=planes)]
    large = [s for s in found.large if not outputs.done(s.name, s.path, planes=planes, large=True)]
    done = len(found.samples) + len(found.large) - len(samples) - len(large)
    return done, Unlabelled(samples, large)


def _predict_large(
    configuration: Configuration,
    checkpoint: Path,
    trainer: Trainer,
    samples: Sequence[FileSample],
    writer: PredictionWriter,
) -> None:
    """By windows, one image after the other, by the first process."""
    if not samples:
        return
    if in_pieces(trainer):
        configuration.build_task()  # the one that the others share stays in pieces
        load(configuration, checkpoint)
    task = configuration.model
    window = "x".join(map(str, task.inference.window or WINDOW))
    default = "" if task.inference.window else ", the default; model.inference.window sets another"
    print(f"{some([sample.name for sample in samples])}: by windows of {window}{default}", flush=True)
    if writer.outputs.probabilities:
        print("their probabilities, which would take many GB, are not written")
    task = trainer.precision_plugin.convert_module(task).to(trainer.strategy.root_device).eval()  # type: ignore[assignment]
    for sample in samples:
        try:
            bar = configuration.config.trainer.enable_progress_bar is not False
            predict_large(task, trainer.precision_plugin, sample, writer.outputs, bar=bar)
            writer.count += 1
        except DataError as error:
            writer.faults[sample.name] = str(error)


def _report(run: Path, writer: PredictionWriter, before: int) -> None:
    if writer.faults:
        text = "".join(f"{fault}\n" for fault in writer.faults.values())
        (run / "broken.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    count = before + writer.count
    kinds = [kind for kind in ("masks", "overlays", "probabilities") if (run / kind).is_dir()]
    places = ", ".join(f"{kind} in {run / kind}" for kind in kinds) or f"nothing written in {run}"
    print(f"{count} image{'' if count == 1 else 's'}: {places}", flush=True)
