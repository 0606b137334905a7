"""`segfocal fit`."""

import warnings
from pathlib import Path

from pytorch_lightning.callbacks import ModelCheckpoint

from segfocal.checkpoints import BestCheckpoint, CheckpointError, SaveOnTermination, check_disk, load_checkpoint
from segfocal.commands.common import images_of, load, report, start_run, with_config_of_run
from segfocal.commands.find_lr import find_lr
from segfocal.configuration import Configuration
from segfocal.data.loading import LabelledImages
from segfocal.finding import find_checkpoint
from segfocal.mistakes import ConfigError
from segfocal.processes import in_pieces
from segfocal.task import NonFiniteLossError


def fit(options: list[str]) -> None:
    """Train, then score the best checkpoint on val; with --find_lr, look for a learning rate instead."""
    looks_for_lr = "--find_lr" in options
    options = with_config_of_run("fit", [word for word in options if word != "--find_lr"])
    if looks_for_lr:
        return find_lr(options)
    configuration = Configuration("fit", options)
    config, task, data = configuration.config, configuration.model, configuration.datamodule
    resumed, started = (None, 0) if config.ckpt_path is None else _resume(configuration)
    data.setup("fit")
    run = start_run(configuration, options, "fit", resumed)
    best = BestCheckpoint(run / "checkpoints", resumed)
    # Not tied to a score: what was trained is kept even if no validation ever takes place.
    last = ModelCheckpoint(run / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False)
    ending = SaveOnTermination(run / "checkpoints" / "last.ckpt")
    kept = [] if config.trainer.enable_checkpointing is False else [best, last, ending]
    if kept:
        check_disk(run, task.net, copies=3 if task.hparams["ema_decay"] is None else 4)
    trainer = configuration.build_trainer(run, kept)
    size = sum(parameter.numel() for parameter in task.net.parameters()) / 1e6
    count = len(task.class_names)
    print(f"training: {count} class{'es' if count > 1 else ''}, {size:.2f} M parameters; {run}", flush=True)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        saved = ending.path.is_file()
        print(f"run: {run}; " + (f"--ckpt_path {run} goes on from it" if saved else "no epoch was finished"))
        raise
    except NonFiniteLossError as error:
        listed = "".join(f"{name}\n" for name in error.names)
        (run / "non_finite_batch.txt").write_text(listed, encoding="utf-8", errors="surrogateescape")
        raise
    if trainer.global_step == started:
        raise ConfigError(f"Nothing was trained. Look at trainer.max_epochs, max_steps and limit_train_batches; {run}.")
    if chosen := best.best_model_path or last.best_model_path:
        if in_pieces(trainer):
            configuration.build_task()  # the one that was trained stays in pieces
        load(configuration, Path(chosen))
        configuration.model.scores.clear()
        images = images_of(configuration)
        trainer.callbacks.append(images)  # type: ignore[attr-defined]
        trainer.loggers = []  # the curves are those of the fit
        trainer.validate(configuration.model, datamodule=data, verbose=False)
        report(configuration, run, "fit", "val", chosen, images.tally, images.gallery)
    print(f"run: {run}")


def _resume(configuration: Configuration) -> tuple[Path, int]:
    """The checkpoint to go on from, and its step."""
    config = configuration.config
    path = find_checkpoint(config.ckpt_path, Path(config.runs), config.name, "last")
    checkpoint = load_checkpoint(path)
    if not {"epoch", "global_step", "optimizer_states", "loops"} <= checkpoint.keys():
        raise CheckpointError(f"{path} holds weights only, no state of training. Resume from a last.ckpt or best.ckpt.")
    load(configuration, path)
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    done, planned = checkpoint["epoch"] + int(batches["is_last_batch"]), config.trainer.max_epochs
    if planned is not None and 0 <= planned <= done:
        raise ConfigError(f"{path} has {done} epochs behind it, trainer.max_epochs is {planned}. Raise it to go on.")
    within = "" if batches["is_last_batch"] else f" and {batches['current']['ready']} batches"
    data = configuration.datamodule
    if isinstance(data, LabelledImages):  # which goes on with the next batch
        data.load_state_dict(checkpoint[type(data).__qualname__])  # with fsdp Lightning does it when batches are drawn
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
    # Without ema_decay, which `load` has said: the fit goes on from the average.
    warnings.filterwarnings("ignore", r".*callbacks used to create the checkpoint.*: \['MovingAverage'\]")
    print(f"resumed: {path}, after epoch {done}{within}")
    return path, int(checkpoint["global_step"])
