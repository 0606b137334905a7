"""`segfocal validate`, `test` and `predict`: what needs a checkpoint."""

from segfocal.commands.common import images_of, report, restore, start_run, with_config_of_run
from segfocal.configuration import Configuration
from segfocal.evaluation.writer import PredictionWriter


def evaluate(command: str, options: list[str]) -> None:
    """Score a checkpoint on val (`validate`) or on test (`test`)."""
    options = with_config_of_run(command, options)
    configuration = Configuration(command, options)
    checkpoint = restore(configuration)
    configuration.datamodule.setup(command)
    run = start_run(configuration, options, command, checkpoint)
    images = images_of(configuration)
    trainer = configuration.build_trainer(run, [images], logged=False)
    score, split = (trainer.test, "test") if command == "test" else (trainer.validate, "val")
    score(configuration.model, datamodule=configuration.datamodule, verbose=False)
    report(configuration, run, command, split, str(checkpoint), images.tally, images.gallery)
    print(f"run: {run}")


def predict(options: list[str]) -> None:
    """Write label masks and overlays."""
    options = with_config_of_run("predict", options)
    configuration = Configuration("predict", options)
    task, data = configuration.model, configuration.datamodule
    checkpoint = restore(configuration)
    data.setup("predict")
    run = start_run(configuration, options, "predict", checkpoint)
    writer = PredictionWriter(run, task.class_names, getattr(data, "palette", []))
    trainer = configuration.build_trainer(run, [writer], logged=False)
    trainer.predict(task, datamodule=data, return_predictions=False)
    print(f"{writer.count} images: masks in {run / 'masks'}, overlays in {run / 'overlays'}")
