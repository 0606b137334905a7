"""`segfocal validate` and `test`: what scores a checkpoint."""

from segfocal.commands.common import images_of, report, restore, start_run, with_config_of_run
from segfocal.configuration import Configuration


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
