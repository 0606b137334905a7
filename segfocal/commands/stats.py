"""`segfocal stats`: how the training pixels are shared among the classes, and the alpha that follows."""

import json
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segfocal.commands.common import start_run
from segfocal.commands.look import data_configuration
from segfocal.data import ClassStatistics
from segfocal.data.loading import LabelledImages
from segfocal.data.statistics import AUTO, METHODS, cached_bands, cached_statistics
from segfocal.evaluation.charts import share_chart
from segfocal.mistakes import ConfigError
from segfocal.pixels import Activation
from segfocal.runs import home_of


def stats(options: list[str]) -> None:
    """Count the classes in the training masks, and print what they weigh under each method."""
    configuration = data_configuration("stats", options)
    config, data = configuration.config, configuration.datamodule
    if not isinstance(data, LabelledImages):
        raise ConfigError(f"stats counts the classes of data modules of segfocal, not of {type(data).__name__}.")
    data.setup("fit")
    train, folder = data.datasets["train"], home_of(Path(config.runs), config.name)
    counted = cached_statistics(train, data.class_names, folder)
    mean, std = cached_bands(train, folder)
    # Overlapping classes and a single one go with sigmoid, whatever the options say or leave out.
    activation: Activation = "sigmoid" if data.multilabel or data.num_classes == 1 else config.model.activation
    alphas: dict[str, list[float]] = {method: counted.alpha(method, 1.0, activation) for method in METHODS}
    alphas["auto"] = counted.alpha(AUTO["method"], AUTO["power"], activation)
    Console().print(_table(counted, alphas))
    print(f"mean: {list(mean)}\nstd: {list(std)}")
    run = start_run(configuration, options, "stats", None)
    file = run / "statistics.json"
    document = {**asdict(counted), "share": counted.shares.tolist(), "alpha": alphas, "mean": mean, "std": std}
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    share_chart(run / "classes.png", counted.class_names, counted.shares.tolist(), data.palette)
    print(f"run: {run}; {file.name} holds all of it, classes.png shows the shares")


def _table(counted: ClassStatistics, alphas: dict[str, list[float]]) -> Table:
    title = f"{counted.images} training images"
    view = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("class", no_wrap=True, max_width=24)
    seen = [bool(pixels) for pixels in counted.pixels]
    shares = [f"{100 * share:.3f} %" if there else "-" for share, there in zip(counted.shares, seen, strict=True)]
    columns = {"pixels": shares, "images": [str(count) for count in counted.images_with]}
    columns |= {f"alpha\n{method}": [f"{value:.4g}" for value in values] for method, values in alphas.items()}
    for heading, cells in columns.items():  # long names give way to numbers
        lines = [*heading.split("\n"), *cells]
        view.add_column(heading, justify="right", no_wrap=True, min_width=max(map(len, lines)))
    for name, *cells in zip(counted.class_names, *columns.values(), strict=True):
        view.add_row(Text(name), *cells)
    return view
